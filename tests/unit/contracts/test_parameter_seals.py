"""What a plan holds of a secret parameter: enough to know the value again, and nothing else."""

from __future__ import annotations

import re

from rivet_fleet.contracts.parameters import seal

PLACE = ("postgresql://reader@db/shop", "select * from t where owner = '${OWNER}'")


def test_a_seal_knows_its_value_again() -> None:
    assert seal("OWNER", "p3pper", *PLACE) == seal("OWNER", "p3pper", *PLACE)
    assert seal("OWNER", "p3pper", *PLACE) != seal("OWNER", "p3ppeR", *PLACE)


def test_a_seal_tells_neither_its_value_nor_where_else_it_is_used() -> None:
    """Equal values of two exports have seals that differ, and no table of digests fits two."""
    places = [
        ("OWNER", *PLACE),
        ("BUYER", *PLACE),
        ("OWNER", "postgresql://reader@db/bills", PLACE[1]),
        ("OWNER", PLACE[0], PLACE[1] + " and id > 1"),
    ]
    digests = {seal(name, "p3pper", *place).digest for name, *place in places}
    assert len(digests) == len(places)
    assert all(re.fullmatch(r"scrypt:[0-9a-f]{32}", digest) for digest in digests)
