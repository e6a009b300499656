"""What a worker's process does without: optional parts of its libraries that it never uses.

Some libraries import whatever they find installed. A fleet has many workers, and their memory is
a promise: NumPy behind pyarrow alone costs each of them 13 MB and a tenth of a second.
"""

from __future__ import annotations

import importlib
import sys

_LEFT_OUT = {
    # Arrays of Arrow are never turned into NumPy's; Arrow supports its absence.
    "pyarrow": ("numpy",),
    # Remote filesystems with their SDKs: destinations bring their own clients.
    "pyarrow.fs": ("pyarrow._s3fs", "pyarrow._gcsfs", "pyarrow._azurefs", "pyarrow._hdfs"),
    # Tracebacks in colour; a worker's log is a file.
    "structlog": ("rich", "colorama"),
}
"""Library → what it looks for and copes without."""


def import_lean() -> None:
    """Import the libraries of the table as if what they look for were not installed.

    A library that is there already stays as it is. Afterwards everything can be imported by
    whoever needs it.
    """
    for library, left_out in _LEFT_OUT.items():
        if library in sys.modules:
            continue
        hidden = [name for name in left_out if name not in sys.modules]
        for name in hidden:
            # None makes an import fail like that of a missing module (importlib's manual).
            sys.modules[name] = None  # type: ignore[assignment]
        try:
            importlib.import_module(library)
        finally:
            for name in hidden:
                del sys.modules[name]
