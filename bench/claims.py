"""Claims per second, measured by the state database's own benchmark in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.values import ClaimRate

PROCESSES = 16
STATES = ("sqlite", "postgres")
_TIMEOUT_S = 300


def measure_claims(root: Path, state: str) -> ClaimRate:
    """Run ``tests.bench.claims`` for one backend; a failure is a value with ``error``."""
    command = [sys.executable, "-m", "tests.bench.claims", "--state", state]
    try:
        done = subprocess.run(
            [*command, "--processes", str(PROCESSES), "--json"],
            cwd=root,
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return _failed(state, f"no answer within {_TIMEOUT_S} s")
    if done.returncode:
        return _failed(state, (done.stderr.strip().splitlines() or ["no message"])[-1])
    return claim_rate(state, json.loads(done.stdout))


def claim_rate(state: str, found: dict[str, float]) -> ClaimRate:
    """The answer's milliseconds as seconds."""
    return ClaimRate(
        state=state,
        processes=int(found["processes"]),
        claims=int(found["claims"]),
        claims_per_s=float(found["claims_per_s"]),
        p50_s=float(found["p50_ms"]) / 1000.0,
        p99_s=float(found["p99_ms"]) / 1000.0,
        locked=int(found["database_is_locked"]),
        errors=int(found["errors"]),
    )


def _failed(state: str, error: str) -> ClaimRate:
    return ClaimRate(
        state=state,
        processes=PROCESSES,
        claims=None,
        claims_per_s=None,
        p50_s=None,
        p99_s=None,
        locked=None,
        errors=None,
        error=error,
    )
