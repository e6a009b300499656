"""What a failed connection means and what helps, by the messages that servers and libpq write."""

from __future__ import annotations

import psycopg
import pytest

from rivet_fleet.contracts.url import parse_database_url
from rivet_fleet.errors import SourceBusy, SourceError, SourceRefused, SourceUnavailable
from rivet_fleet.execution.sources.postgres.border import translate, translate_connect

URL = parse_database_url("postgresql://me@db.example/shop")
AT = 'connection to server at "10.0.0.7", port 5432 failed: '
NO_ENTRY = (
    'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "me", database "shop", no encryption'
)
MESSAGES: list[tuple[str, type[SourceError], str]] = [
    (NO_ENTRY, SourceRefused, "pg_hba.conf does not let"),
    (
        'FATAL:  pg_hba.conf rejects connection for host "10.0.0.9", user "password", '
        'database "certificate", SSL encryption',
        SourceRefused,
        "pg_hba.conf does not let",
    ),
    (
        'FATAL:  authentication failed for user "me": host rejected',
        SourceRefused,
        "pg_hba.conf does not let",
    ),
    ('FATAL:  database "pg_hba" does not exist', SourceRefused, "database name"),
    ('FATAL:  role "database" does not exist', SourceRefused, "user name"),
    ('FATAL:  role "me" is not permitted to log in', SourceRefused, "LOGIN"),
    ('FATAL:  password authentication failed for user "role"', SourceRefused, "password"),
    ("fe_sendauth: no password supplied", SourceRefused, "password"),
    ("FATAL:  empty password returned by client", SourceRefused, "password"),
    ('FATAL:  Peer authentication failed for user "database"', SourceRefused, "operating system"),
    ('FATAL:  LDAP authentication failed for user "me"', SourceRefused, "password"),
    ('FATAL:  OAuth bearer authentication failed for user "me"', SourceRefused, "password"),
    ("FATAL:  connection requires a valid client certificate", SourceRefused, "sslcert"),
    (
        'authentication method requirement "scram-sha-256" failed: server requested a cleartext '
        "password",
        SourceRefused,
        "require_auth",
    ),
    (
        "channel binding required but not supported by server's authentication request",
        SourceRefused,
        "channel_binding",
    ),
    (
        'FATAL:  permission denied for database "role"\nDETAIL:  User does not have CONNECT '
        "privilege.",
        SourceRefused,
        "GRANT CONNECT",
    ),
    (
        'FATAL:  database "shop" is not currently accepting connections',
        SourceRefused,
        "ALLOW_CONNECTIONS",
    ),
    ('FATAL:  cannot connect to invalid database "shop"', SourceRefused, "DROP DATABASE"),
    ("FATAL:  sorry, too many clients already", SourceBusy, "workers"),
    (
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        SourceBusy,
        "workers",
    ),
    (
        "FATAL:  remaining connection slots are reserved for non-replication superuser connections",
        SourceBusy,
        "workers",
    ),
    (
        "FATAL:  remaining connection slots are reserved for roles with privileges of the "
        '"pg_use_reserved_connections" role',
        SourceBusy,
        "workers",
    ),
    ('FATAL:  too many connections for role "database"', SourceBusy, "ALTER ROLE"),
    ('FATAL:  too many connections for database "role"', SourceBusy, "ALTER DATABASE"),
    ("FATAL:  the database system is starting up", SourceUnavailable, ""),
    ("FATAL:  the database system is shutting down", SourceUnavailable, ""),
    ("FATAL:  the database system is in recovery mode", SourceUnavailable, ""),
    (
        "FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent "
        "recovery state has not been yet reached.",
        SourceUnavailable,
        "",
    ),
    (
        "FATAL:  the database system is not accepting connections\nDETAIL:  Hot standby mode is "
        "disabled.",
        SourceUnavailable,
        "hot_standby",
    ),
    ('FATAL:  unrecognized configuration parameter "role"', SourceRefused, "option"),
    ('FATAL:  permission denied to set parameter "log_statement"', SourceRefused, "option"),
    ('FATAL:  invalid value for parameter "work_mem": "database"', SourceRefused, "option"),
    ("server does not support SSL, but SSL was required", SourceRefused, "no TLS"),
    (
        'root certificate file "/x/root.crt" does not exist\nEither provide the file, use the '
        "system's trusted roots with sslrootcert=system, or change sslmode to disable server "
        "certificate verification.",
        SourceRefused,
        "ca_file",
    ),
    ("SSL error: certificate verify failed", SourceRefused, "certificate"),
    (
        'server certificate for "db" does not match host name "10.0.0.7"',
        SourceRefused,
        "another host's",
    ),
    ("SSL error: tlsv13 alert certificate required", SourceRefused, "certificate"),
    ("SSL SYSCALL error: EOF detected", SourceUnavailable, "lost"),
    ("SSL SYSCALL error: Connection reset by peer", SourceUnavailable, "lost"),
    ('invalid sslmode value: "role"', SourceRefused, "tls.mode"),
    ('invalid port number: "99999"', SourceRefused, "option"),
    ('invalid connection option "database"', SourceRefused, "option"),
    (
        'invalid integer value "role" for connection option "keepalives"',
        SourceRefused,
        "option",
    ),
    ("session is read-only", SourceUnavailable, "target_session_attrs"),
    ("server is in hot standby mode", SourceUnavailable, "target_session_attrs"),
    (
        'could not translate host name "password" to address: Name or service not known',
        SourceUnavailable,
        "host name",
    ),
    (
        "failed to resolve host 'role': [Errno -2] Name or service not known",
        SourceUnavailable,
        "host name",
    ),
    (
        "Connection refused\n\tIs the server running on that host and accepting TCP/IP "
        "connections?",
        SourceUnavailable,
        "listening",
    ),
    (
        'connection to server on socket "/tmp/database/.s.PGSQL.5432" failed: No such file or '
        "directory\n\tIs the server running locally and accepting connections on that socket?",
        SourceUnavailable,
        "listening",
    ),
    ("connection timeout expired", SourceUnavailable, "firewall"),
    ("No route to host", SourceUnavailable, "firewall"),
    ("received invalid response to SSL negotiation: H", SourceUnavailable, "PostgreSQL"),
    ("something that nobody foresaw", SourceUnavailable, ""),
]


@pytest.mark.parametrize(("said", "error", "hint"), MESSAGES)
def test_the_hint_is_of_what_was_said(said: str, error: type[SourceError], hint: str) -> None:
    for message in (said, f"connection failed: {AT}{said}"):
        found = translate_connect(psycopg.OperationalError(message), URL)
        assert type(found) is error, message
        assert hint in (found.hint or ""), found.hint
        assert bool(found.hint) == bool(hint), found.hint
        assert not found.connected


def test_what_came_of_the_attempt_that_went_furthest_counts() -> None:
    wrong = 'FATAL:  password authentication failed for user "me"'
    both = f"connection failed: {AT}{wrong}\n{AT}{NO_ENTRY}"
    assert "password" in (translate_connect(psycopg.OperationalError(both), URL).hint or "")
    loopback = f'connection to server at "localhost" (::1) failed: Connection refused\n{AT}{wrong}'
    found = translate_connect(psycopg.OperationalError(loopback), URL)
    assert type(found) is SourceRefused


@pytest.mark.parametrize(
    ("error", "setting"),
    [
        (psycopg.errors.TransactionTimeout, "transaction_timeout"),
        (psycopg.errors.IdleSessionTimeout, "idle_session_timeout"),
        (psycopg.errors.IdleInTransactionSessionTimeout, "idle_in_transaction_session_timeout"),
        (psycopg.errors.QueryCanceled, "statement_timeout_s"),
        (psycopg.errors.LockNotAvailable, "lock_timeout_s"),
    ],
)
def test_a_limit_is_named_by_its_own_setting(error: type[psycopg.Error], setting: str) -> None:
    found = translate(error("it took too long"), URL, "reading a page")
    assert setting in (found.hint or "")
    others = {"transaction_timeout", "statement_timeout_s", "lock_timeout_s"} - {setting}
    if setting != "transaction_timeout":
        assert not any(other in (found.hint or "") for other in others)
