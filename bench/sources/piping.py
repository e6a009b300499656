"""A generator's output as a loader's input, without a file in between."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


def pipe(
    generate: Sequence[str], load: Sequence[str], *, env: Mapping[str, str] | None = None
) -> None:
    """Run ``generate | load``; ``env`` is the loader's. Raises RuntimeError with its message."""
    with subprocess.Popen(generate, stdout=subprocess.PIPE) as source:
        loaded = subprocess.run(
            load, stdin=source.stdout, check=False, capture_output=True, env=env
        )
    if source.returncode or loaded.returncode:
        message = loaded.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"loading failed (generator: {source.returncode}): {message}")
