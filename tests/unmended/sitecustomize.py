"""Takes mends away in processes of the program: Python loads this by itself where ``PYTHONPATH``
names this folder. Only tests do that; ``RIVET_FLEET_TEST_UNMENDED`` names the cases.

Each entry restores what the code did before its mend, at the narrowest place, and fails when there
is nothing to take away any more: a test of the net must not pass because a mend went elsewhere.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any


def _replace(module: str, name: str, new: Any) -> None:
    """Put ``new`` in the place of ``name`` (of a class: ``Class.name``). ``module`` is one of
    ``execution`` unless it names another layer."""
    whole = module if module.startswith("planning.") else f"execution.{module}"
    owner: Any = importlib.import_module(f"rivet_fleet.{whole}")
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    assert hasattr(owner, last), f"{module}.{name} is not there: what was mended is elsewhere"
    setattr(owner, last, new)


def _rights_of_leaves() -> None:
    """Leaves are named in statements, and nobody asks whose rights count in them."""
    _replace("sources.postgres.heaps", "_rights_apart", lambda *_: None)
    _heaps_unproven()


def _heaps_unproven() -> None:
    """A page of blocks does not ask which heap it reads."""
    _replace("sources.postgres.heaps", "proof", lambda *_, **__: None)


def _operators_by_name() -> None:
    """Keys are ordered by their type, and compared by what the search path finds."""

    def ordered(self: Any, columns: tuple[str, ...], sign: str) -> str:
        way = " DESC" if sign == ">" else ""
        return ", ".join(self.column_ref(name) + way for name in columns)

    module = "sources.postgres.keyorder"
    quote = importlib.import_module(f"rivet_fleet.execution.{module}").quote_literal
    _replace(module, "Keys.sign", lambda self, name, sign: sign)
    _replace(module, "Keys.literal", lambda self, name, text: quote(text))
    _replace(module, "Keys.value", lambda self, name: self.column_ref(name))
    _replace(module, "Keys.ordered", ordered)


def _keys_by_utf8() -> None:
    """A text key goes through UTF-8 to the client and back, whatever its character set is, and
    nobody notices when a page comes again."""

    def of(cls: Any, columns: Any) -> Any:
        return cls(native_types={column.name: column.native_type for column in columns})

    _replace("sources.mysql.statements", "Keys.of", classmethod(of))
    _replace("sources.mysql.introspect", "UNSOUND", frozenset())
    _replace("paging", "Progress._stands_still", lambda *_: None)


def _nothing_rests() -> None:
    """What a plan rests on is not compared."""
    _replace("types", "judge", lambda *_: ())


def _marks_unbound() -> None:
    """A mark is gone on from whatever it was taken of."""
    _replace("planning.binding", "differences", lambda *_: ())


UNMENDED: dict[str, Callable[[], None]] = {
    "01": _rights_of_leaves,
    "02": _rights_of_leaves,
    "21": _operators_by_name,
    "23": _heaps_unproven,
    "40": _keys_by_utf8,
    "41": _keys_by_utf8,
    "43": _nothing_rests,
    "mark": _marks_unbound,
}

for _name in filter(None, os.environ.get("RIVET_FLEET_TEST_UNMENDED", "").split(",")):
    if _name in UNMENDED:
        UNMENDED[_name]()
