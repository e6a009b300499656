"""The demo's server: other users of the host cannot log in, and see no password."""

from __future__ import annotations

import psycopg
import pytest

from rivet_fleet.demo.embedded import embedded_postgres


def test_only_who_knows_the_password_gets_in() -> None:
    """Its administrator may run programs as the user who started it."""
    with embedded_postgres(settings={"fsync": "off"}, password="demo-0123456789") as server:
        assert server.psql("SELECT 1") == "1"
        psycopg.connect(server.url()).close()
        for secret in ("", "demo"):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(
                    host="127.0.0.1",
                    port=server.port,
                    user="postgres",
                    dbname="postgres",
                    password=secret,
                )
