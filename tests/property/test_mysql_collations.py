"""Every collation that the server lists: pages of a few rows, forward and resumed, each row once.

Keys are hostile by class: bytes that the character set and UTF-8 read differently (0x5C, 0x7E),
codes that share one image in UTF-8 or have none, lead and trail bytes, trailing blanks, letters
that a collation takes for equal, characters it ignores.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest

from rivet_fleet.contracts.keys import ChunkRange, KeyTuple, RangeKind
from rivet_fleet.contracts.plan import ReadPlan, TuningPlan
from rivet_fleet.contracts.window import RowWindow, WindowBound
from rivet_fleet.execution.source import PageLimit, Source
from rivet_fleet.execution.sources.mysql.keytext import READABLE, SHARING, UNSOUND, key_bytes
from tests.integration.mysql_source_kit import Sql, facts_of, read_plan, source, sql

__all__ = ["source", "sql"]

WORDS = (
    "",
    *("a", "A", "b", "ä", "ae", "ß", "ss", "z", "Z", "~", "\\", "C:\\data\\1", "¥", "‾", "＼"),
    *(
        "x ",
        "x  ",
        "x",
        "x\t",
        "x\x01",
        "?",
        "a?b",
        "a_b",
        "a%b",
        "it's",
        "\x00",
        "\xad",
        "e\u0301",
    ),
    *(
        "é",
        "İ",
        "ı",
        "ch",
        "c",
        "d",
        "dž",
        "ll",
        "т",
        "я",
        "ა",
        "ἀ",
        "א",
        "ก",
        "一",
        "高",
        "髙",
        "가",
    ),
    *("ｱ", "ア", "あ", "゛", "¬", "∥", "−", "〜", "～", "♥", "\ufffd", "😀", "😀a"),
)
"""Each is tried in every character set; a set takes those it has."""
BYTES = tuple(bytes([code]) for code in range(256)) + tuple(
    bytes.fromhex(code)
    for code in (
        *("815F", "5C", "8160", "817C", "8191", "81CA", "EEF9", "FA54", "8161"),
        *("A15A", "A1C3", "A1C5", "A1FE", "A240", "A2CC", "A2CE", "A451", "A2E8", "A2AF"),
        *("8FA2AF", "A1C0", "A140", "A2A1", "D800", "DC00", "D800DC00", "0000D800", "0001F600"),
    )
)
"""Codes as they are: what the character set does not know is left out."""
ROWS_MAX = 9


def test_each_row_once_under_every_collation(sql: Sql, source: Source) -> None:
    codes: dict[str, list[bytes]] = {}
    wrong = []
    for charset, collation in collations(sql):
        chance = random.Random(zlib.crc32(collation.encode()))
        if charset not in codes:
            codes[charset] = known_codes(sql, charset, chance)
        if collation in UNSOUND:
            continue
        keys = chance.sample(codes[charset], min(ROWS_MAX, len(codes[charset])))
        read, expected, cuts = table_of(sql, source, charset, collation, keys)
        at = chance.randrange(len(cuts))
        behind = RowWindow(columns=("k",), lower=WindowBound(values=cuts[at], inclusive=False))
        below = (None, cuts[at], None, expected[: at + 1])
        onwards = (cuts[at], None, None, expected[at + 1 :])
        since = (None, None, behind, expected[at + 2 :])
        for low, high, window, rows in (
            (None, None, None, expected),
            chance.choice((below, onwards)),
            since,
        ):
            found = read_by_pages(source, replace(read, window=window), chance, low, high)
            if found != rows:
                wrong.append(f"{collation}: {found} for {rows} in [{low}, {high}), {window}")
    assert not wrong, "\n".join(wrong)
    assert len(codes) >= 38


def test_which_character_sets_are_what_they_are_said_to_be(sql: Sql) -> None:
    """Every code of two bytes, by the server's own conversion."""
    codes = [bytes([a]) for a in range(256)] + [
        bytes([a, b]) for a in range(256) for b in range(256)
    ]
    sql.execute("CREATE TABLE codes (b varbinary(4) NOT NULL)")
    with sql.connection.cursor() as cursor:
        for first in range(0, len(codes), 20_000):
            some = [(code,) for code in codes[first : first + 20_000]]
            cursor.executemany("INSERT INTO codes VALUES (%s)", some)
    sets = {row[0] for row in sql.execute("SHOW CHARACTER SET")} - {"binary", "ascii"}
    for charset in sorted(sets & READABLE):
        stored = f"CONVERT(b USING {charset})"
        widest = 2 if charset.startswith("utf") else 1
        known = sql.execute(
            f"SELECT b, CONVERT({stored} USING utf8mb4) FROM codes "
            f"WHERE CAST({stored} AS BINARY) = b AND LENGTH(b) <= {widest}"
        )
        assert len(known) >= 128
        for code, text in known:
            assert key_bytes(text, charset) == code, (charset, code, text)
    for charset in sorted(sets - READABLE - SHARING - {"ucs2", "utf32"}):
        shared = sql.execute(
            f"SELECT COUNT(*), COUNT(DISTINCT CONVERT(CONVERT(b USING {charset}) USING utf8mb4) "
            f"COLLATE utf8mb4_bin) FROM codes WHERE CAST(CONVERT(b USING {charset}) AS BINARY) = b "
            f"AND CHAR_LENGTH(CONVERT(b USING {charset})) = 1 AND LOCATE('?', CONVERT(CONVERT(b "
            f"USING {charset}) USING utf8mb4)) = 0 AND LOCATE(X'EFBFBD', CAST(CONVERT(CONVERT(b "
            f"USING {charset}) USING utf8mb4) AS BINARY)) = 0"
        )
        assert shared[0][0] == shared[0][1], charset


def collations(sql: Sql) -> list[tuple[str, str]]:
    """Each once. MariaDB's newest are of five character sets: of one of them, in turn."""
    unicode = ("utf8mb4", "utf8mb3", "ucs2", "utf16", "utf32")
    found = []
    for index, row in enumerate(sorted(sql.execute("SHOW COLLATION"))):
        name, charset = row[0], row[1]
        if charset is None:
            charset = unicode[index % len(unicode)]
            name = f"{charset}_{name}"
        if charset != "binary":
            found.append((charset, name))
    return found


def known_codes(sql: Sql, charset: str, chance: random.Random) -> list[bytes]:
    """What this character set can hold, those first that do not come back from UTF-8."""
    tried = {*BYTES, *(bytes([chance.randrange(129, 255), chance.randrange(64, 255)])
                       for _ in range(400))}  # fmt: skip
    rows = " UNION ALL ".join(f"SELECT X'{one.hex()}' AS b" for one in sorted(tried))
    same = f"CONVERT(b USING {charset})"
    back = f"CAST(CONVERT(CONVERT({same} USING utf8mb4) USING {charset}) AS BINARY)"
    found = sql.execute(
        f"SELECT CAST({same} AS BINARY), {back} <> b FROM ({rows}) AS t "
        f"WHERE CAST({same} AS BINARY) = b"
    )
    odd = [code for code, differs in found if differs]
    plain = [code for code, differs in found if not differs]
    words = " UNION ALL ".join(
        f"SELECT CONVERT(_utf8mb4 X'{one.encode().hex()}' USING {charset}) AS w" for one in WORDS
    )
    spelled = [row[0] for row in sql.execute(f"SELECT CAST(w AS BINARY) FROM ({words}) AS t")]
    mixed = [first + second for first, second in zip(odd, reversed(spelled), strict=False)]
    chosen = chance.sample(odd, min(20, len(odd))) + chance.sample(plain, min(20, len(plain)))
    return sorted({*chosen, *spelled, *mixed[:20]})


def table_of(
    sql: Sql, source: Source, charset: str, collation: str, keys: list[bytes]
) -> tuple[ReadPlan, list[int], list[KeyTuple]]:
    """A table of the keys that differ under the collation, its rows in the server's order, and
    every key but the first, in order, as a plan holds it."""
    sql.execute("DROP TABLE IF EXISTS t")
    sql.execute(
        f"CREATE TABLE t (k varchar(20) CHARACTER SET {charset} COLLATE {collation} NOT NULL "
        "PRIMARY KEY, n int NOT NULL)"
    )
    values = ", ".join(
        f"(CONVERT(X'{key.hex()}' USING {charset}), {n})" for n, key in enumerate(keys, 1)
    )
    sql.execute(f"INSERT IGNORE INTO t VALUES {values}")
    facts = facts_of(source, "t", boundaries=ROWS_MAX)
    read = replace(read_plan(facts), on_unrepresentable="coerce")
    rows = [row[0] for row in sql.execute("SELECT n FROM t ORDER BY k")]
    return read, rows, list(facts.keys[0].boundaries)


def read_by_pages(
    source: Source,
    read: ReadPlan,
    chance: random.Random,
    low: KeyTuple | None = None,
    high: KeyTuple | None = None,
) -> list[int]:
    """Pages of one to three rows. More of them than there are rows is no way to read."""
    chunk = ChunkRange(kind=RangeKind.KEYSET, columns=("k",), lower=low, upper=high)
    reader = source.open_chunk(read, chunk, TuningPlan())
    found: list[int] = []
    for _ in range(2 * ROWS_MAX):
        page = reader.read_page(PageLimit(rows_max=chance.randint(1, 3), bytes_max=1 << 20))
        found += page.batch.column("n").to_pylist()
        if page.last:
            break
    else:
        pytest.fail(f"no end: {found}")
    reader.close()
    return found
