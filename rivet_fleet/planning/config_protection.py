"""``source_groups``: what a source allows the fleet, and what is watched (ADR 0013)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rivet_fleet.planning.config_values import Block, Columns, Count, Number


class SignalConfig(Block):
    """One number that is watched. Without sql and http the name is one of the engine's own."""

    sql: str | None = Field(
        default=None, description="One SELECT on the monitor's source with one number as answer."
    )
    http: str | None = Field(
        default=None, description="A URL without a password; a number, or JSON with pointer."
    )
    pointer: str | None = Field(
        default=None, description="Where the number is in the JSON answer, such as /db/load."
    )
    shed_above: Number | None = Field(
        default=None, description="One chunk less runs, and pages get smaller."
    )
    pause_above: Number | None = Field(default=None, description="Nothing runs until it is calm.")
    abort_above: Number | None = Field(
        default=None,
        description="Twice in a row: the campaign is stopped, resumable, with exit code 6.",
    )


class HoursConfig(Block):
    """When the group may run."""

    windows: Columns = Field(description="HH:MM-HH:MM; one that ends earlier ends the next day.")
    days: Columns = Field(
        default=(), description="mon, tue, …: days on which a window begins; every day when empty."
    )
    time_zone: str = Field(default="UTC", description="Such as Europe/Berlin.")


class MonitorConfig(Block):
    """What the governor of a group watches, and what it does about it."""

    source: str | None = Field(
        default=None, description="Which of sources is asked; needed with several."
    )
    interval_s: Annotated[Number, Field(ge=0.2, le=3600)] = Field(
        default=1.5, description="How often a sample is taken."
    )
    calm_samples: Annotated[Count, Field(ge=1, le=1000)] = Field(
        default=3, description="Calm samples in a row before one chunk more runs."
    )
    on_unreadable: Literal["hold", "continue", "pause"] = Field(
        default="hold",
        description="A signal that could not be read three times: hold keeps what is, continue "
        "leaves the signal out, pause stops the group (also when nobody watches).",
    )
    hold_paused_s: Annotated[Number, Field(ge=0, le=86_400)] = Field(
        default=60.0,
        description="How long a paused chunk waits for its next page before it is given back.",
    )
    signals: dict[str, SignalConfig] = Field(
        default_factory=dict, description="Numbers by name; see signal."
    )
    flag_file: str | None = Field(
        default=None,
        description="The group pauses while this file exists: on storage that every host sees.",
    )
    hours: HoursConfig | None = Field(
        default=None, description="When the group may run; see hours."
    )


class SourceGroupConfig(Block):
    """A budget that several exports share: across hosts, and across campaigns."""

    max_running_chunks: Annotated[Count, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Chunks of the group that run at once, over all hosts."
    )
    max_connections: Annotated[Count, Field(ge=2, le=100_000)] | None = Field(
        default=None,
        description="Connections to the source at once: one per running chunk, one for planning "
        "and checks, one for a monitor that asks the source.",
    )
    max_rows_per_s: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="Rows read per second, over all hosts."
    )
    max_mb_per_s: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="Megabytes received per second, over all hosts."
    )
    min_running_chunks: Annotated[Count, Field(ge=1, le=100_000)] = Field(
        default=1, description="The governor sheds down to this many; only a pause goes below."
    )
    monitor: MonitorConfig | None = Field(
        default=None, description="Signals that shed, pause or abort; see monitor."
    )
