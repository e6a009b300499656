"""Servers the tests need: started and stopped here, real, loopback only."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pymysql
import pytest
from hypothesis import HealthCheck, settings

from rivet_fleet.contracts.url import DatabaseUrl, parse_database_url
from rivet_fleet.demo.embedded import EmbeddedPostgres, EmbeddedPostgresMissing, embedded_postgres
from tests.servers.azure_fake import AzureAccount, AzureService, azure_account
from tests.servers.gcs_fake import GcsService, gcs_service
from tests.servers.mariadb import EmbeddedMariadb, EmbeddedMariadbMissing, embedded_mariadb
from tests.servers.versitygw import Versitygw, VersitygwMissing, running_versitygw

MYSQL_URL_VARIABLE = "RIVET_FLEET_TEST_MYSQL_URL"
AZURE_URL_VARIABLE = "RIVET_FLEET_TEST_AZURE_URL"

_numbers = itertools.count(1)
# What they hold never outlives them: nothing waits for a disk.
_POSTGRES = {"fsync": "off", "full_page_writes": "off"}
_MARIADB = {"innodb_flush_log_at_trx_commit": "0", "debug_no_sync": "ON"}

# The same examples every time: what a run says does not depend on which one it was. Loaded here,
# before any test module is imported: its own settings build on it. ``make fuzz`` draws anew.
_QUIET = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, print_blob=True, **_QUIET)
settings.register_profile("fuzz", derandomize=False, print_blob=True, **_QUIET)
settings.load_profile("repeatable")
# Set, every process that is started would compile every module anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C is part of what is tested: a shell that starts this in its background ignores it for
    us and for every process we start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def missing(reason: str) -> None:
    """A missing server skips on a laptop and fails where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def _folder() -> Iterator[Path]:
    """Of a server: some hundred databases are a hundred thousand files, which rm removes in a fifth
    of Python's time."""
    folder = Path(tempfile.mkdtemp(prefix="rivet-fleet-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL for the whole test session (source or state). Do not restart it."""
    try:
        with _folder() as folder, embedded_postgres(folder, settings=_POSTGRES) as server:
            yield server
    except EmbeddedPostgresMissing as absent:
        missing(str(absent))


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> str:
    """The URL of a new empty database on the session's server."""
    return postgres.create_database(f"t{os.getpid()}_{next(_numbers)}")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[EmbeddedMariadb]:
    """One MariaDB for the whole test session. Do not restart it, leave no global setting."""
    try:
        with _folder() as folder, embedded_mariadb(folder, settings=_MARIADB) as server:
            yield server
    except EmbeddedMariadbMissing as absent:
        missing(str(absent))


@pytest.fixture(scope="session")
def versitygw() -> Iterator[Versitygw]:
    """One S3 server for the whole test session; make a bucket of your own."""
    try:
        with running_versitygw() as server:
            yield server
    except VersitygwMissing as absent:
        missing(str(absent))


@pytest.fixture(scope="session")
def azure() -> Iterator[AzureAccount]:
    """One storage account for the whole test session. Make a container of your own."""
    with azure_account() as account:
        yield account


@pytest.fixture(scope="session")
def blob_storage(azure: AzureAccount) -> AzureAccount:
    """The one that RIVET_FLEET_TEST_AZURE_URL names; else the tests' own."""
    url = os.environ.get(AZURE_URL_VARIABLE)
    return AzureService(url) if url else azure


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsService]:
    """One service of buckets for the whole test session. Make a bucket of your own."""
    with gcs_service(tmp_path_factory.mktemp("gcs")) as service:
        yield service


@pytest.fixture
def mysql_database(mariadb: EmbeddedMariadb) -> str:
    """The URL of a new empty database on the session's MariaDB."""
    return mariadb.create_database(f"t{os.getpid()}_{next(_numbers)}")


@contextmanager
def service_database() -> Iterator[str]:
    """The URL of a new empty database on the server that RIVET_FLEET_TEST_MYSQL_URL names, for
    the length of a block (skipped without it: it is a service by address)."""
    text = os.environ.get(MYSQL_URL_VARIABLE)
    if not text:
        pytest.skip(f"{MYSQL_URL_VARIABLE} names no server")
    url = parse_database_url(text)
    name = f"rivet_fleet_t{os.getpid()}_{next(_numbers)}"
    _execute(url, f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
    head, _, _ = text.partition("?")
    yield f"{head.rsplit('/', 1)[0]}/{name}"
    _execute(url, f"DROP DATABASE `{name}`")


@pytest.fixture(params=["mariadb", "mysql"])
def mysql_url_any(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a new empty database: once on MariaDB, once on the service's server."""
    if request.param == "mariadb":
        yield request.getfixturevalue("mysql_database")
        return
    with service_database() as url:
        yield url


def _execute(url: DatabaseUrl, sql: str) -> None:
    with closing(
        pymysql.connect(
            host=url.host, port=url.port or 3306, user=url.user, password=url.password or ""
        )
    ) as connection:
        connection.cursor().execute(sql)
