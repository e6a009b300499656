"""The one warning about a decoder that was not compiled."""

from __future__ import annotations

import warnings


class SlowDecoderWarning(RuntimeWarning):
    """A plain-Python reference decoder does the compiled one's work."""


def warn_of_slow_decoder(engine: str) -> None:
    """Say what it costs and how to end it. Call it once a process (a cached function)."""
    warnings.warn(
        f"the compiled decoder for {engine} is not installed: the plain-Python one reads the "
        "same values at a tenth of the speed; install a C compiler and Python's headers, then "
        "reinstall rivet-fleet",
        SlowDecoderWarning,
        stacklevel=3,
    )
