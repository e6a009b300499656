"""What the property tests share: the long runs wait until ``-m`` asks for them."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``soak`` tests of this folder run only with ``-m``."""
    if config.option.markexpr:
        return
    here = [i for i in items if i.path.is_relative_to(__file__.rpartition("/")[0])]
    long = [item for item in here if item.get_closest_marker("soak") is not None]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
