"""Logs and the event log: shape, levels, redaction of every line and of exceptions."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.events import Event, EventName
from rivet_fleet.contracts.foreign import printable
from rivet_fleet.contracts.url import redact
from rivet_fleet.observability.journal import (
    LOGGER_NAME,
    configure_logging,
    log_emit,
)
from rivet_fleet.observability.units import Redactor
from tests.unit.observability.views import redactor_for

SECRET = 'p"ss\\wörd 4711'
HIDE = redactor_for([SECRET])


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger(LOGGER_NAME)
    before = root.handlers[:], root.level, ours.level
    shown = warnings.showwarning
    yield
    logging.captureWarnings(False)
    warnings.showwarning = shown
    root.handlers[:], root.level, ours.level = before[0], before[1], before[2]
    structlog.reset_defaults()


def _chatty() -> Event:
    return Event(
        name=EventName.CHUNK_FAILED,
        campaign_id="c1",
        export_name="orders",
        chunk_index=3,
        message=f"cannot connect with {SECRET}",
        data={
            "url": f"db://u:{SECRET}@h/d",
            "nested": [{"deep": SECRET}, SECRET],
            SECRET: 1,
            "password": "not-even-known",
        },
    )


def _logged(event: Event, redactor: Redactor = redact) -> dict[str, Any]:
    """The one JSON line of an event."""
    stream = io.StringIO()
    configure_logging(level="debug", json_lines=True, stream=stream, redactor=redactor)
    log_emit()(event)
    (line,) = stream.getvalue().splitlines()
    said: dict[str, Any] = json.loads(line)
    return said


def test_the_line_of_an_event_has_every_field_of_version_1() -> None:
    said = _logged(Event(name=EventName.CHUNK_CLAIMED, run_id="r", data={"fence": 2}))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", said.pop("at"))
    assert said == {
        "event_version": 1,
        "level": "debug",
        "event": "chunk.claimed",
        "campaign_id": None,
        "run_id": "r",
        "export_name": None,
        "chunk_index": None,
        "worker_id": None,
        "message": "",
        "data": {"fence": 2},
    }


def _assert_clean(text: str) -> None:
    for form in (SECRET, json.dumps(SECRET)[1:-1], json.dumps(SECRET, ensure_ascii=False)[1:-1]):
        assert form not in text
    assert "wörd" not in text
    assert "not-even-known" not in text


def test_secrets_are_hidden_in_every_place_of_an_event() -> None:
    said = _logged(_chatty(), HIDE)
    _assert_clean(json.dumps(said, ensure_ascii=False))
    assert said["data"]["nested"] == [{"deep": "***"}, "***"]


def test_a_numeric_secret_does_not_break_the_json() -> None:
    event = Event(name=EventName.WORKER_STARTED, data={"pin": 123456})
    assert _logged(event, redactor_for(["123456"]))["data"]["pin"] == "***"


@pytest.mark.parametrize("json_lines", [True, False])
def test_every_line_is_redacted(json_lines: bool) -> None:
    stream = io.StringIO()
    configure_logging(level="debug", json_lines=json_lines, stream=stream, redactor=HIDE)
    log_emit()(_chatty())
    structlog.get_logger(LOGGER_NAME).info("hello", token=SECRET)
    logging.getLogger("some.library").warning("using %s", SECRET)
    warnings.warn(f"careful with {SECRET}", stacklevel=1)
    try:
        raise ValueError(f"bad {SECRET}")
    except ValueError:
        structlog.get_logger(LOGGER_NAME).exception("it broke")
        logging.getLogger("some.library").exception("it broke, too")
    text = stream.getvalue()
    _assert_clean(text)
    assert text.count("ValueError") >= 2
    assert ("chunk.failed" in text and "some.library" in text) or "using" in text
    if json_lines:
        lines = [json.loads(line) for line in text.splitlines()]
        events = [line for line in lines if "event_version" in line]
        assert [e["event"] for e in events] == ["chunk.failed"]
        assert events[0]["level"] == "warning" and events[0]["chunk_index"] == 3
        assert "exception" in lines[-1] and lines[-1]["message"] == "it broke, too"


def test_levels_filter_our_lines_and_libraries_stay_quiet() -> None:
    stream = io.StringIO()
    configure_logging(level="info", json_lines=True, stream=stream)
    emit = log_emit()
    emit(Event(name=EventName.PAGE_READ))
    emit(Event(name=EventName.CHUNK_COMPLETED))
    logging.getLogger("some.library").info("chatter")
    assert [json.loads(x)["event"] for x in stream.getvalue().splitlines()] == ["chunk.completed"]


def test_a_text_line_shows_what_and_where() -> None:
    stream = io.StringIO()
    configure_logging(level="info", json_lines=False, stream=stream)
    log_emit()(
        Event(
            name=EventName.CHUNK_REAPED,
            export_name="orders",
            chunk_index=0,
            message="its worker is gone",
            data={"fence": 3},
        )
    )
    line = stream.getvalue()
    for part in ("warning", "chunk.reaped", "its worker is gone", "export_name=orders", "fence=3"):
        assert part in line
    assert "chunk_index=0" in line and line.count("\n") == 1


def test_control_characters_never_reach_the_terminal() -> None:
    stream = io.StringIO()
    configure_logging(level="info", json_lines=False, stream=stream)
    structlog.get_logger(LOGGER_NAME).info("title \x1b]0;owned\x07 here", x="a\nb")
    assert "\x1b" not in stream.getvalue() and stream.getvalue().count("\n") == 1


BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
FORGED = "\n2027-01-15T08:00:00Z error   chunk.failed forged"
foreign = st.one_of(
    st.text(st.one_of(st.sampled_from(BREAKS), st.characters(codec="utf-8")), max_size=12),
    st.sampled_from(
        [f"{end}{FORGED[1:]}" for end in BREAKS] + ["\x1b[2K\x1b[G" + FORGED, "\ud800"]
    ),
)
plain = st.recursive(
    st.one_of(foreign, st.none(), st.integers(), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(foreign, inner, max_size=2)
    ),
    max_leaves=4,
)
events = st.builds(
    Event,
    name=st.sampled_from(EventName),
    **dict.fromkeys(("campaign_id", "run_id", "export_name", "worker_id"), st.none() | foreign),
    chunk_index=st.none() | st.integers(),
    message=foreign,
    data=st.dictionaries(foreign, plain, max_size=3),
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(event=events, text=foreign, json_lines=st.booleans())
def test_a_record_is_one_line_whatever_its_fields_hold(
    event: Event, text: str, json_lines: bool
) -> None:
    """A second line would be a record that whoever wrote the text has made up."""
    stream = io.StringIO(newline="")
    configure_logging(level="debug", json_lines=json_lines, stream=stream)
    log_emit()(event)
    structlog.get_logger(LOGGER_NAME).info(text, worker_id=text)
    logging.getLogger("some.library").warning("%s", text, extra={"told": text}, stack_info=True)
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("some.library").exception(text)
    written = stream.getvalue()
    lines = written.splitlines()
    assert written.endswith("\n") and len(lines) == 4
    assert all(one == printable(one) for one in lines)
    if json_lines:
        assert [json.loads(one)["message"] for one in lines[:2]] == [event.message, text]


def test_an_exception_stands_on_the_line_of_its_record() -> None:
    stream = io.StringIO()
    configure_logging(level="info", json_lines=False, stream=stream)
    try:
        raise ValueError(f"no{FORGED}")
    except ValueError:
        structlog.get_logger(LOGGER_NAME).exception("it broke")
    (line,) = stream.getvalue().splitlines()
    assert "it broke exception=" in line and "ValueError: no\\n2027" in line


def test_a_secret_that_a_control_character_splits_is_masked_when_it_is_joined() -> None:
    stream = io.StringIO()
    hide = redactor_for(["hunter22"])
    configure_logging(level="info", json_lines=False, stream=stream, redactor=hide)
    structlog.get_logger(LOGGER_NAME).info("hun\x7fter22")
    assert "hunter22" not in stream.getvalue() and "***" in stream.getvalue()


def test_a_field_named_like_a_secret_is_masked_whatever_it_holds() -> None:
    event = Event(name=EventName.WORKER_STARTED, data={"token": 987654, "rows": 3, "pwd": None})
    assert _logged(event)["data"] == {"token": "***", "rows": 3, "pwd": None}


def test_a_closed_stream_neither_raises_nor_tells(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    configure_logging(level="info", json_lines=False, stream=stream, redactor=HIDE)
    stream.close()
    structlog.get_logger(LOGGER_NAME).info("lost", secret=SECRET)
    assert capsys.readouterr().err == ""


def test_configuring_twice_does_not_double_lines() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(level="info", json_lines=False, stream=first)
    configure_logging(level="info", json_lines=False, stream=second)
    structlog.get_logger(LOGGER_NAME).info("once")
    assert first.getvalue() == "" and second.getvalue().count("once") == 1


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        configure_logging(level="loud", json_lines=False, stream=io.StringIO())
