"""Every stop has a name: whatever code the package writes is a row of the one table, with the
exit code and the kind of the class that is raised with it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

import pytest

from rivet_fleet import errors
from rivet_fleet.contracts.codes import _BY_EXIT, CODES, is_retryable
from rivet_fleet.contracts.doctor import DoctorCode, Gravity
from rivet_fleet.contracts.quality import GateCode, SchemaChangeCode, ShapeChangeCode
from rivet_fleet.errors import ExitCode, RivetFleetError
from rivet_fleet.verification.findings import ADVISORY, COULD_NOT_VERIFY, VerifyCode
from tests.house.test_documented import table
from tests.house.tree import PACKAGE, parsed, python_files

FILES = python_files("rivet_fleet")
CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, RivetFleetError)
}
VARIABLE = re.compile(r"RIVET_(FLEET_\w+|STATE_URL)")
"""Of the environment."""
TWICE = {("MalformedData", "RIVET_SOURCE_ANSWER")}
"""A code of two classes with different exit codes: its row says so."""
NO_ENDS = {
    *(one.value for one in (*SchemaChangeCode, *ShapeChangeCode)),
    *(one.value for one in ADVISORY),
    *(one.value for one in DoctorCode),
}
"""Findings that end nothing by themselves; those of doctor that may are asked for below."""


def texts(tree: ast.AST) -> Iterator[str]:
    """Every code that stands in the code, whoever is to bear it."""
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.fullmatch(r"RIVET_[A-Z0-9_]+", text):
            yield text


def raised(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(class, code) of every error that is made with a code that is written there or is a constant
    of the package."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        for keyword in node.keywords if name in CLASSES else ():
            code = keyword.value
            if keyword.arg == "code" and isinstance(code, ast.Constant):
                yield name, str(code.value)
            elif keyword.arg == "code" and isinstance(code, ast.Name) and code.id in CONSTANTS:
                yield name, CONSTANTS[code.id]


CONSTANTS = {
    target.id: node.value.value
    for path in FILES
    for node in parsed(path).body
    if isinstance(node, ast.Assign)
    and isinstance(node.value, ast.Constant)
    and isinstance(node.value.value, str)
    for target in node.targets
    if isinstance(target, ast.Name)
}


def test_every_code_in_the_package_is_a_row_of_the_table() -> None:
    written = {code for path in FILES for code in texts(parsed(path))}
    unknown = {code for code in written if not VARIABLE.fullmatch(code)} - set(CODES) - NO_ENDS
    assert not unknown, f"no row in contracts/codes.py: {sorted(unknown)}"


def test_every_row_is_a_code_that_somebody_writes() -> None:
    where = [path for path in FILES if path.name != "codes.py"]
    written = {code for path in where for code in texts(parsed(path))}
    bases = {"RIVET_SOURCE_FAILED", "RIVET_DESTINATION_FAILED", "RIVET_STATE_FAILED"}
    ends = {*_BY_EXIT.values(), *(kind.code_default for kind in CLASSES.values())}
    assert set(CODES) - written - ends - bases == set()


def test_what_is_raised_has_the_exit_code_of_its_row() -> None:
    found = {pair for path in FILES for pair in raised(parsed(path))}
    assert len(found) > 60, "the sites are not found any more"
    for name, code in sorted(found):
        if not code.startswith("RIVET_") or (name, code) in TWICE:
            continue
        assert CODES[code].exit_code == CLASSES[name].exit_code, f"{name} with {code}"


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_has_a_code_for_what_is_raised_without_one(name: str) -> None:
    kind = CLASSES[name]
    row = CODES[kind("something").code]
    assert row.exit_code == kind.exit_code and row.kind is kind.kind
    again = kind.exit_code in (ExitCode.RETRYABLE, ExitCode.STOPPED)
    assert row.retryable is again is is_retryable(kind.exit_code)


def test_every_exit_code_has_a_name_of_its_own() -> None:
    assert set(_BY_EXIT) == set(ExitCode) - {ExitCode.OK}
    for exit_code, code in _BY_EXIT.items():
        assert CODES[code].exit_code == exit_code


def test_what_refuses_a_run_or_a_verification_is_in_the_table() -> None:
    for gate in GateCode:
        assert CODES[gate.value].exit_code is ExitCode.DATA_INTEGRITY
    for code in set(VerifyCode) - ADVISORY:
        wrong = code not in COULD_NOT_VERIFY
        ends = ExitCode.DATA_INTEGRITY if wrong else ExitCode.GENERIC
        assert CODES[code.value].exit_code is ends, code
    for code, gravities, _ in table("doctor.md", "code"):
        if Gravity.ERROR.value in gravities.split(", "):
            assert code.strip("`") in CODES, f"doctor may end with {code}"


def test_rows_say_something() -> None:
    for row in CODES.values():
        assert row.says and row.action and not {row.says[-1], row.action[-1]} & {"."}, row.name
        assert "|" not in row.says + row.action, row.name


def test_a_code_without_a_row_is_noticed() -> None:
    code = "RIVET_" + "NOWHERE"
    tree = ast.parse(f'raise ConfigError("x", code="{code}")')
    assert list(texts(tree)) == [code] and list(raised(tree)) == [("ConfigError", code)]
    assert code not in CODES
    assert PACKAGE.is_dir()
