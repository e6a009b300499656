"""From a state URL to a store."""

from __future__ import annotations

import re
from pathlib import Path

from rivet_fleet.contracts.namespace import NAMESPACE_DEFAULT
from rivet_fleet.contracts.sealing import Sealer
from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import StateRefused
from rivet_fleet.persistence.database import Database
from rivet_fleet.persistence.dialects import ANSWER_MAX_S, Dialect, SqliteDialect
from rivet_fleet.persistence.sql_store import SqlStore
from rivet_fleet.persistence.store import Store

_SQLITE = "sqlite:///"
_PARAMETERS = re.compile(r"\?[A-Za-z_]+=[^/]*\Z")
_WRITE = "write sqlite:///path or postgresql://user@host:port/database"


def open_store(
    url: str,
    *,
    namespace: str = NAMESPACE_DEFAULT,
    pool_size: int = 2,
    answer_max_s: float = ANSWER_MAX_S,
    seal_key: bytes | None = None,
) -> Store:
    """A store for ``sqlite:///path`` or ``postgresql://user:password@host:port/database``.

    ``seal_key``: what seals are made with (ADR 0024); None: plain digests.
    ``namespace``: the part of the state that the store sees and changes (ADR 0022).
    ``answer_max_s``: how long a server may take for one statement before its connection is
    given up (no meaning for SQLite). Connects at the first call, not here. Raises StateRefused
    for a URL it does not understand (without repeating it: it may hold a secret) or a path that
    cannot be used.
    """
    dialect = dialect_of(url, answer_max_s)
    sealer = Sealer(key=seal_key)
    return SqlStore(Database(dialect, pool_size=pool_size, namespace=namespace, sealer=sealer))


def store_exists(url: str) -> bool:
    """False for a SQLite file that is not there: opening it would create it. A server may be
    there; only asking it tells. Connects to nothing."""
    if not url.startswith(_SQLITE):
        return True
    return Path(_file_of(url)).is_file()


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, None for a server's. Raises StateRefused for one in memory."""
    if not url.startswith(_SQLITE):
        return None
    path = _file_of(url)
    if path in ("", ":memory:"):
        raise StateRefused("a fleet needs a SQLite state in a file", hint=_WRITE)
    return Path(path).absolute()


def _file_of(url: str) -> str:
    """The path as it stands: a folder's name may hold ? # % and whatever else. Raises StateRefused
    for what is written as parameters of a URL: a file has none."""
    path = url.removeprefix(_SQLITE)
    found = _PARAMETERS.search(path)
    if found is not None:
        raise StateRefused(
            f"a SQLite state has no parameters, and {found[0]} looks like one",
            hint=f"{_WRITE}; all that stands behind sqlite:/// is the file's path",
        )
    return path


def dialect_of(url: str, answer_max_s: float = ANSWER_MAX_S) -> Dialect:
    """The backend of a URL. Raises StateRefused as ``open_store`` does."""
    path = sqlite_path(url)
    if path is not None:
        return SqliteDialect(path)
    try:
        parsed = parse_database_url(url)
    except ValueError as problem:
        raise StateRefused(f"the state URL cannot be read: {problem}", hint=_WRITE) from None
    if parsed.scheme not in ("postgresql", "postgres"):
        raise StateRefused(
            f"the state URL's scheme {parsed.scheme!r} is not known",
            hint=_WRITE,
        )
    if not (parsed.database or parsed.user or parsed.option("service")):
        raise StateRefused("the state URL names no database", hint=_WRITE)
    if not (parsed.stays_here or parsed.tls_decided):
        raise StateRefused(
            f"the state database {parsed.identity} is remote, and its URL does not say whether "
            "the way there is encrypted",
            hint="add ?sslmode=verify-full to it (and sslrootcert=…), or ?sslmode=disable to opt "
            "out",
            code="RIVET_STATE_NOT_ENCRYPTED",
        )
    # Imported here: most states of one host need no server's driver.
    from rivet_fleet.persistence.postgres_dialect import PostgresDialect

    return PostgresDialect(parsed, answer_max_s=answer_max_s)
