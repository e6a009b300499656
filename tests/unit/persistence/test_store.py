"""The model of the property tests is held to what the store says: names, arguments, answers."""

from __future__ import annotations

import inspect

from rivet_fleet.persistence.store import Store
from tests.model.store import MemoryStore


def seam(kind: type) -> dict[str, str]:
    """Every public member of the class and how it is called, as it is written."""
    said = {}
    for name, _ in inspect.getmembers(kind):
        if name.startswith("_"):
            continue
        member = inspect.getattr_static(kind, name)
        call = member.fget if isinstance(member, property) else member
        said[name] = str(inspect.signature(call))
    return said


def test_the_model_has_the_stores_methods_and_is_called_as_the_store_is():
    assert seam(MemoryStore) == seam(Store)
