"""What a process does without: optional parts of a worker's libraries, and of a command that is
only explained everything but its options.

Some libraries import whatever they find installed. A fleet has many workers, and their memory is
a promise: NumPy behind pyarrow alone costs each of them 13 MB and a tenth of a second.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

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


# ------------------------------------------------------------------------------------------
# A command's name, options and words are in its module of ``cli``; what it does is in the layers
# below, which take most of a second to import. Whoever asks for help gets an answer without them.

_BELOW = tuple(
    f"rivet_fleet.{layer}"
    for layer in (
        "coordination",
        "execution",
        "observability",
        "persistence",
        "planning",
        "verification",
    )
)


class _Absent:
    """Stands for whatever a module below would have had: nothing that describes a command asks more
    of it than to be there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent()

    def __call__(self, *_: object, **__: object) -> _Absent:
        return _Absent()

    def __iter__(self) -> Iterator[object]:
        return iter(())

    def __mro_entries__(self, _bases: tuple[object, ...]) -> tuple[type, ...]:
        return ()


class _AbsentModule(ModuleType):
    __path__ = []  # noqa: RUF012 (a package without any file)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent()


class _Below:
    """Finds an empty module in the place of each of the layers below."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        if not fullname.startswith(_BELOW):
            return None
        return ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def import_declared(module: str) -> tuple[ModuleType, frozenset[str]]:
    """A module of ``cli`` for its declarations alone, and which modules are not what they are
    called because of it: whoever wants to do anything has to forget those before."""
    before = frozenset(sys.modules)
    below = _Below()
    sys.meta_path.insert(0, below)
    try:
        declared = importlib.import_module(module)
    finally:
        sys.meta_path.remove(below)
    new = sys.modules.keys() - before
    return declared, frozenset(name for name in new if name.startswith("rivet_fleet."))
