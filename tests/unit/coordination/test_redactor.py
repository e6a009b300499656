"""A process hides what it uses, wherever it has that from."""

from __future__ import annotations

from pathlib import Path

from rivet_fleet.contracts.url import MASK
from rivet_fleet.coordination import wiring

CONFIG = """\
source: {type: postgres, url_file: url.txt}
exports:
  - {name: o, table: o, format: parquet, destination: {type: local, path: out}}
"""


def test_a_password_of_a_url_file_or_of_the_state_url_alone_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(CONFIG)
    (tmp_path / "url.txt").write_text("postgresql://u:from%40file@127.0.0.1/d\n")
    loaded = wiring.load(tmp_path / "fleet.yaml", params={}, environ={})
    hide = wiring.redactor(loaded, "postgresql://s:fromstate@h/d")
    assert hide("it was from@file, spelled from%40file") == f"it was {MASK}, spelled {MASK}"
    assert hide("or fromstate") == f"or {MASK}"


def test_a_url_file_that_is_not_there_is_no_error_of_the_redactor(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(CONFIG)
    loaded = wiring.load(tmp_path / "fleet.yaml", params={}, environ={})
    assert wiring.redactor(loaded)("nothing to hide") == "nothing to hide"


def test_a_password_that_is_a_name_leaves_the_name_alone(tmp_path: Path) -> None:
    """Case, digits and length make no difference: who reads the name has read the password."""
    for secret in ("Orders2024", "orders", "warehouse_of_everything"):
        config = CONFIG.replace("name: o,", f"name: {secret},").replace("path: out", "path: out/o")
        (tmp_path / "fleet.yaml").write_text(config)
        (tmp_path / "url.txt").write_text(f"postgresql://u:{secret}@127.0.0.1/d\n")
        loaded = wiring.load(tmp_path / "fleet.yaml", params={}, environ={})
        hide = wiring.redactor(loaded)
        assert hide(f"{secret}: completed at /out/{secret}") == (
            f"{secret}: completed at /out/{secret}"
        )
        assert hide(f"postgresql://u:{secret}@h/d") == f"postgresql://u:{MASK}@h/d"
