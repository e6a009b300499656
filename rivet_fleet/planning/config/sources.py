"""What the configuration says of a source: where it is, how it is protected and read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from rivet_fleet.contracts.plan import TARGET_STATEMENT_MS
from rivet_fleet.planning.config.fields import Block, Count, Number


class TlsConfig(Block):
    """How the connection to a source is protected."""

    mode: Literal["disable", "require", "verify-ca", "verify-full"] | None = Field(
        default=None, description="verify-full when the block is present; disable opts out."
    )
    ca_file: str | None = Field(
        default=None, description="Certificate authority to trust; relative to this file."
    )
    accept_invalid_certs: bool = Field(
        default=False, description="Encrypt, but check no certificate."
    )
    accept_invalid_hostnames: bool = Field(
        default=False, description="Check the certificate, but not its host name."
    )
    server_public_key_file: str | None = Field(
        default=None,
        description="MySQL: the server's RSA key, for a login without TLS; relative to this file.",
    )
    allow_cleartext_password: bool = Field(
        default=False,
        description="Let a login send the password itself where it is refused otherwise.",
    )


class TuningConfig(Block):
    """How gently a source is read. Unset fields come from the profile."""

    profile: Literal["fast", "balanced", "safe"] | None = Field(
        default=None,
        description="fast, balanced or safe: the starting point of every number below.",
    )
    target_statement_ms: Annotated[Count, Field(ge=10, le=600_000)] | None = Field(
        default=None,
        description="The longest one statement should take; "
        f"{TARGET_STATEMENT_MS} where nothing is said.",
    )
    batch_size: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description="Most rows of one statement."
    )
    batch_size_memory_mb: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description="Most megabytes of one statement."
    )
    throttle_ms: Annotated[Number, Field(ge=0)] | None = Field(
        default=None, description="Rest after every batch_size (else 10,000) rows."
    )
    rest_share: Annotated[Number, Field(ge=0, le=0.9)] | None = Field(
        default=None,
        description="Share of the time of reading in which the source rests from us, in pauses "
        "between pages as long as the source was busy; where `throttle_ms` is said and this is "
        "not, and where a monitor watches the source, a profile's does not count.",
    )
    statement_timeout_s: Annotated[Number, Field(ge=0)] | None = Field(
        default=None, description="Hard limit of one statement on the server; 0 switches it off."
    )
    whole_read_timeout_s: Annotated[Number, Field(ge=0)] | None = Field(
        default=None,
        description="Hard limit of a read that cannot be cut, as a whole; 0 switches it off.",
    )
    max_retries: Annotated[Count, Field(ge=0, le=1000)] | None = Field(
        default=None, description="How often a page is read again after a passing failure."
    )
    retry_backoff_ms: Annotated[Number, Field(ge=0)] | None = Field(
        default=None, description="First wait before such a retry; doubles each time."
    )
    lock_timeout_s: Annotated[Number, Field(ge=0)] | None = Field(
        default=None, description="How long a statement waits for a lock; 0 switches it off."
    )
    memory_threshold_mb: Annotated[Count, Field(ge=0)] | None = Field(
        default=None, description="Accepted and ignored: campaign.worker_memory_mb is the ceiling."
    )
    max_batch_memory_mb: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description="Upper limit for batch_size_memory_mb."
    )
    on_batch_memory_exceeded: Literal["warn", "fail", "auto_shrink"] | None = Field(
        default=None, description="Accepted and ignored: pages shrink to fit."
    )
    max_value_mb: Annotated[Count, Field(ge=0)] | None = Field(
        default=None, description="A single value larger than this is refused."
    )
    adaptive: bool | None = Field(
        default=None, description="Accepted and ignored: pages always follow the time target."
    )
    min_parallel: Annotated[Count, Field(ge=1)] | None = Field(
        default=None, description="Accepted and ignored: campaign.workers decides."
    )


class SourceConfig(Block):
    """One database. Exactly one of url, url_env, url_file, or host, user and database."""

    type: str = Field(description="The engine.")
    url: SecretStr | None = Field(
        default=None,
        repr=False,
        description="scheme://user@host:port/database; use url_env for one with a password.",
    )
    url_env: str | None = Field(
        default=None, description="The environment variable that holds the URL."
    )
    url_file: str | None = Field(
        default=None, description="A file that holds the URL alone; relative to this file."
    )
    host: str | None = Field(
        default=None,
        description="Host name, address or socket folder; with user and database instead of a URL.",
    )
    port: Annotated[Count, Field(ge=1, le=65535)] | None = Field(
        default=None, description="The engine's own port when absent."
    )
    user: str | None = Field(default=None, description="The user to connect as.")
    database: str | None = Field(default=None, description="The database to read.")
    password: SecretStr | None = Field(
        default=None, repr=False, description="Better: password_env."
    )
    password_env: str | None = Field(
        default=None, description="The environment variable that holds the password."
    )
    environment: Literal["local", "replica", "production"] | None = Field(
        default=None,
        description="The kind of server: local reads with profile fast, others balanced.",
    )
    tuning: TuningConfig = Field(
        default=TuningConfig(), description="How gently this source is read; see tuning."
    )
    tls: TlsConfig | None = Field(
        default=None, description="Required for every host that is not this machine; see tls."
    )
