"""Each guard of the store, removed: the named test must notice (and pass when it is there)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests import warm
from tests.mutants import HARMLESS, MUTANTS

_ROOT = Path(__file__).resolve().parents[2]
_SUITES = "tests/conformance"


def _run(mutant: str, selection: str, suites: Iterable[str]) -> subprocess.CompletedProcess[str]:
    # SQLite only: the guards are the same text on both backends, and a server per mutant is slow.
    process = warm.start(
        "pytest",
        [
            *("-v", "--no-header", "--tb=line"),
            *(f"{_SUITES}/{suite}" for suite in sorted(suites)),
            *("-k", selection),
        ],
        cwd=_ROOT,
        env={**os.environ, "RIVET_FLEET_TEST_MUTANT": mutant},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _outcomes(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", MUTANTS)
def test_the_named_test_notices_the_missing_guard(name: str) -> None:
    red = MUTANTS[name].red
    done = _run(name, f"sqlite and ({' or '.join(red)})", {MUTANTS[name].suite})
    assert done.returncode == 1, _outcomes(done)
    # A test that could not even be set up counts as an error, not as a failure.
    verdict = done.stdout.strip().splitlines()[-1]
    assert f"{len(red)} failed" in verdict and "error" not in verdict, _outcomes(done)


def test_the_named_tests_pass_with_every_guard_in_place() -> None:
    names = sorted({test for mutant in MUTANTS.values() for test in mutant.red})
    suites = {mutant.suite for mutant in MUTANTS.values()}
    done = _run("", f"sqlite and ({' or '.join(names)})", suites)
    assert done.returncode == 0, _outcomes(done)
    assert f"{len(names)} passed" in done.stdout, _outcomes(done)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_redundant_guard_breaks_nothing(name: str) -> None:
    done = _run(name, "sqlite", {HARMLESS[name][0].suite})
    assert done.returncode == 0, _outcomes(done)
