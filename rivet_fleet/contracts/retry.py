"""How long to wait before the next try: pure arithmetic, chance comes in as an argument."""

from __future__ import annotations

BACKOFF_MAX_S = 60.0


def backoff_s(*, attempt: int, base_s: float, extra_s: float = 0.0, jitter: float = 0.0) -> float:
    """base × 2^(attempt−1), at most 60 s, plus the error class's own extra (inventory §6.3).

    ``attempt`` counts from 1; ``jitter`` in [0, 1) shortens the wait by up to a quarter so that
    a fleet does not come back in step.
    """
    exponent = min(max(attempt, 1) - 1, 16)
    wait_s = min(base_s * float(2**exponent), BACKOFF_MAX_S)
    return wait_s * (1.0 - 0.25 * jitter) + extra_s
