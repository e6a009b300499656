import pytest

from bench.contenders import GROUPS
from bench.options import PARTS, parse_options
from bench.schema import Engine


def test_everything_by_default():
    found = parse_options([])
    assert (found.engines, found.parts) == (tuple(Engine), PARTS)
    assert (found.contenders, found.workers, found.scale) == (GROUPS, (1, 2, 4), 1.0)
    assert found.command == "python -m bench"


def test_a_part_of_it():
    found = parse_options(
        ["--engines", "mariadb", "--tables", "wide,events", "--scale", "0.01", "--only", "memory"]
    )
    assert (found.engines, found.tables) == ((Engine.MARIADB,), ("wide", "events"))
    assert (found.parts, found.scale) == (("memory",), 0.01)
    assert found.command.endswith("--scale 0.01 --only memory")


def test_floors_are_the_contest_between_the_floors():
    found = parse_options(["--only", "floors,claims"])
    assert (found.parts, found.contenders) == (("claims", "contest"), ("floor", "decode"))


@pytest.mark.parametrize("wrong", ["--engines oracle", "--contenders ,", "--only all"])
def test_what_is_unknown_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        parse_options(wrong.split())
    assert "choose from" in capsys.readouterr().err
