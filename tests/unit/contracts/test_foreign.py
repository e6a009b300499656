"""Text of others: cut, without secrets, printable; and in time that follows its length."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import fields

import pytest

from rivet_fleet.cli.say import say_line
from rivet_fleet.contracts.foreign import foreign_line, printable, printable_json
from rivet_fleet.contracts.keys import CampaignId, ChunkRange, RangeKind, WorkerId, describe_range
from rivet_fleet.contracts.state import JournalEntry
from rivet_fleet.contracts.url import redact
from rivet_fleet.contracts.window import describe_mark
from rivet_fleet.observability.journal import render_journal
from rivet_fleet.observability.metrics import EndedRun, history_lines

MIB = 1024 * 1024
HOSTILE = {
    "letters": "y" * MIB,
    "schemes": "postgres://" * (MIB // 11),
    "at signs": "postgres://" + "a@" * (MIB // 2),
    "colons": "a://" + ":" * MIB,
    "keywords": "password=" * (MIB // 9),
    "quotes": "password='" * (MIB // 10),
    "blanks": "password" + " " * MIB,
    "keywords and blanks": ("token" + " " * 20) * (MIB // 25),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_redacting_takes_time_in_proportion(kind: str) -> None:
    """In more than that, a megabyte takes minutes, and the test's own limit ends it."""
    redact(HOSTILE[kind], ("s3cret",))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://ann:p@ss@h/d now", "at postgresql://ann:***@h/d now"),
        ("'mysql://u:x@h'", "'mysql://u:***@h'"),
        ("see https://docs.example/a@b", "see https://docs.example/a@b"),
        ("postgresql://ann@h/d", "postgresql://ann@h/d"),
        ("password = 'a b' rest", "password = *** rest"),
        ("PWD:abc; x", "PWD:***; x"),
    ],
)
def test_what_is_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


OURS = '{"orders": {"path": "/data/orders/2024/orders-c000001.parquet", "rows_total": 2024}}'


@pytest.mark.parametrize("secret", ["orders", "data", "path", "rows_total", "2024", "or", "c0"])
def test_an_ordinary_secret_is_hidden_where_it_can_be_and_nowhere_else(secret: str) -> None:
    assert redact(OURS, (secret,)) == OURS
    hidden = redact(
        f"postgresql://u:{secret}@h/orders password={secret} &token={secret}", (secret,)
    )
    assert hidden == "postgresql://u:***@h/orders password=*** &token=***"


@pytest.mark.parametrize("secret", ["orders", "rows_total", "2024", "Ab1", "x-9z"])
def test_what_a_server_says_keeps_no_secret_however_ordinary(secret: str) -> None:
    said = foreign_line(f"cannot use \"{secret}\", ({secret}) or '{secret}'", (secret,))
    assert said == "cannot use \"***\", (***) or '***'"


def test_a_short_secret_is_a_word_of_its_own() -> None:
    assert redact("Ab1 in Ab12 and tAb1, (Ab1)", ("Ab1",)) == "*** in Ab12 and tAb1, (***)"
    assert redact("xhunter22y", ("hunter22",)) == "x***y"


def test_what_is_cut_holds_no_half_of_a_secret() -> None:
    secret = "0123456789" * 4
    for before in range(60, 110):
        shown = foreign_line("x" * before + secret + "y" * 500, (secret,), chars_max=100)
        assert "012" not in shown, before
        assert len(shown) <= 101


UNSEEN = "\u061c\u200b\u200c\u200d\u2060\ufeff\xad\u180e\U000e0041\U000e007f"
UNSEEN += "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180d\u180f\u3164\uffa0\ufe00\ufe0f\U000e01ef"
MARKED = {0x0600, 0x0601, 0x0602, 0x0603, 0x0604, 0x0605, 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2}
MARKED |= {0x110BD, 0x110CD}
"""Of the format characters those that are seen (Prepended_Concatenation_Mark)."""


def test_what_unicode_calls_a_control_or_a_format_is_not_left() -> None:
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    letters = [
        chr(code) for code in range(0x110000) if code not in MARKED and chr(code) not in "\n\t"
    ]
    left = [one for one in letters if unicodedata.category(one) in hidden and one in printable(one)]
    assert not left, ascii(left)
    assert not set(UNSEEN) & set(printable(UNSEEN))
    assert printable("".join(map(chr, sorted(MARKED)))) == "".join(map(chr, sorted(MARKED)))


def test_no_control_character_is_left() -> None:
    hostile = "row\x1b]0;OWNED\x07\x1b[2J\x9b31m \u202egnp.exe\u2028end\r\x7f\ud800" + UNSEEN
    shown = printable(hostile)
    assert all(one.isprintable() for one in shown), ascii(shown)
    assert "s3cret" not in foreign_line("s3c\x1bret", ("s3cret",))
    assert printable("a\tb\nc ñ 😀") == "a\tb\nc ñ 😀"
    assert foreign_line("a\nb\tc\x1b") == "a b c"


FORGED = "x\nERROR forged\r\x0b\x85\u2028end"


def test_what_others_wrote_begins_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    key = ChunkRange(kind=RangeKind.KEYSET, columns=("id",), lower=(FORGED, "k" * 200_000))
    mark = json.dumps({"by": [FORGED], "at": [FORGED]})
    entry = JournalEntry(
        journal_id=1,
        campaign_id=CampaignId("c"),
        run_id=None,
        export_name=FORGED,
        chunk_index=None,
        worker_id=WorkerId(FORGED),
        at_s=0.0,
        event=FORGED,
        message=FORGED,
        data={FORGED: FORGED},
    )
    whatever = dict.fromkeys((one.name for one in fields(EndedRun)), 1)
    ended = EndedRun(**(whatever | {"status": FORGED, "export_name": ""}))  # type: ignore[arg-type]
    say_line(FORGED)
    shown = {
        "a key": describe_range(key),
        "a mark": describe_mark(mark),
        "no mark": describe_mark(FORGED),
        "the journal": render_journal([entry]).rstrip(),
        "ended runs": history_lines([ended], str)[1],
        "a line": capsys.readouterr().out.rstrip("\n"),
    }
    assert {what: len(text.splitlines()) for what, text in shown.items()} == dict.fromkeys(shown, 1)
    assert all("forged" in text for text in shown.values())
    assert len(shown["a key"]) < 2000


def test_json_keeps_its_meaning() -> None:
    body = {"a\x1b\u202e": "\x9b\u2028\x7f ñ 😀" + UNSEEN}
    text = printable_json(json.dumps(body, ensure_ascii=False))
    assert json.loads(text) == body
    assert all(one.isprintable() for one in text), ascii(text)


def test_a_message_of_any_length_costs_no_more_than_what_is_kept() -> None:
    assert len(foreign_line("z" * (100 * MIB), chars_max=1000)) == 1001
