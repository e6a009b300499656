"""Whether a query's rows are one table's: then that table's keys are its own (ADR 0028).

Read by the pieces that the engine's lexer finds, which wrap the query in our statements, too: a
SELECT of one name, with a condition or without one, and nothing that joins, groups, orders, limits
or nests. Whatever is not plainly that is a doubt, and a doubt means one statement. Which functions
it calls, and what its names stand for, is for the server to say. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from rivet_fleet.execution.onestatement import LexicalRules, Token, TokenKind, tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What an engine's words mean. All but what ``name`` makes are small letters.

    ``name``: of a piece that is an identifier the name that the server looks up, None for every
    other piece; ``others``: its words that make a query no plain one, besides those of every
    engine; ``clauses``: words that a parenthesis may follow, which are no calls; ``moments``:
    words, and texts of literals, that read the clock; ``symbols``: what names something of the
    session or of a parameter.
    """

    name: Callable[[str, Token], str | None]
    others: frozenset[str]
    clauses: frozenset[str]
    either: frozenset[str]
    moments: frozenset[str]
    symbols: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTable:
    """A query that reads one name and nothing else.

    ``parts``: of that name, as the server looks them up; ``reference``: how its columns are called
    in the query, as written; ``calls``: the functions, each by the parts of its name; ``perhaps``:
    words that are called, or clauses; ``shown``, ``compared``: every name that is not called,
    before and behind the table's; ``made``: the types that what is made of something is cast to
    (``(…)::date``, ``CAST(… AS date)``); ``operators``: every run of symbols that may be one;
    ``dotted``: what is asked of the name by a dot; ``star``: every column is asked for; ``head``,
    ``tail``: behind SELECT, behind the name.
    """

    sql: str
    parts: tuple[str, ...]
    reference: str
    calls: frozenset[tuple[str, ...]]
    perhaps: frozenset[str]
    shown: frozenset[str]
    compared: frozenset[str]
    made: frozenset[str]
    operators: frozenset[str]
    dotted: frozenset[str]
    star: bool
    head: int
    tail: int

    def used(self, *, returned_only: bool) -> frozenset[str]:
        """The names that are compared, or that something may be made of. ``returned_only``: every
        column of the result is one of the table, as it stands."""
        return self.compared if returned_only else self.compared | self.shown

    def with_columns(self, columns: Collection[str], behind_table: str = "") -> str:
        """The query with these expressions before its own, and a hint behind its table's name."""
        listed = "".join(f" {one}," for one in columns)
        middle = self.sql[self.head : self.tail]
        return f"{self.sql[: self.head]}{listed}{middle}{behind_table}{self.sql[self.tail :]}"


_NEVER = frozenset(
    (
        *("select", "with", "union", "intersect", "except", "minus", "values", "table"),
        *("group", "having", "distinct", "distinctrow", "window", "over", "within", "filter"),
        *("order", "limit", "offset", "fetch", "for", "into", "lock", "procedure"),
        *("join", "natural", "cross", "lateral", "tablesample", "only", "using", "rownum"),
    )
)
"""Words that make a query more than a SELECT of one table, wherever they stand."""
_NUMBER = re.compile(r"[0-9]+(e[0-9]*)?")
_EXPONENT = re.compile(r"e[0-9]*")
_LETTERS = re.compile("[a-z_]+")
_OPERATORS = frozenset("+-*/<>=~!@#%^&|`?")


class _Doubt(Exception):
    """Why it may not be one table, as the end of a sentence about the query."""


def one_table(sql: str, rules: LexicalRules, words: Words) -> OneTable | str:
    """What the query is, or why it is taken for more than one table's rows: the end of a sentence
    about it. ``sql``: one whole statement (``one_statement``)."""
    found = tokens(sql, rules)
    try:
        return _Look(sql, found or (), words).found()
    except _Doubt as doubt:
        return str(doubt)


class _Look:
    def __init__(self, sql: str, pieces: tuple[Token, ...], words: Words) -> None:
        self._sql, self._words = sql, words
        self._all = list(pieces)
        """Of the statement: comments may stand before it."""
        while self._all and self._all[0].kind is TokenKind.COMMENT:
            self._all.pop(0)
        self._pieces = [one for one in self._all if one.kind is not TokenKind.COMMENT]
        self._calls: set[tuple[str, ...]] = set()
        self._perhaps: set[str] = set()
        self._chains: list[tuple[str, ...]] = []
        self._star = False

    def found(self) -> OneTable:
        """Raises _Doubt."""
        self._check_words()
        source = self._from()
        parts, behind = self._named(source)
        shown = self._read_names(1, source)
        compared = self._read_names(behind, len(self._pieces))
        last = self._pieces[behind - 1]
        known = self._words.name(self._sql, last)
        for chain in self._chains:
            if len(chain) != 2 or chain[0] != known:
                raise _Doubt(f"it asks for {'.'.join(chain)}, which may be no column of its table")
        return OneTable(
            sql=self._sql,
            parts=parts,
            reference=self._text(last),
            calls=frozenset(self._calls),
            perhaps=frozenset(self._perhaps),
            shown=frozenset(shown),
            compared=frozenset(compared),
            made=frozenset(self._made()),
            operators=frozenset(self._operators()),
            dotted=frozenset(chain[1] for chain in self._chains),
            star=self._star,
            head=self._head(),
            tail=last.end,
        )

    # ------------------------------------------------------------ pieces

    def _text(self, piece: Token) -> str:
        return self._sql[piece.start : piece.end]

    def _word(self, at: int) -> str:
        """The piece as a keyword or symbol is written small; empty behind the end, and for quoted
        text."""
        if at >= len(self._pieces):
            return ""
        piece = self._pieces[at]
        plain = piece.kind in (TokenKind.WORD, TokenKind.SYMBOL)
        return self._text(piece).lower() if plain else ""

    def _name(self, at: int) -> str | None:
        if at >= len(self._pieces):
            return None
        return self._words.name(self._sql, self._pieces[at])

    def _check_words(self) -> None:
        if self._word(0) != "select":
            raise _Doubt("it does not begin with SELECT")
        for at, piece in enumerate(self._pieces):
            word = self._word(at)
            if piece.kind is TokenKind.OPENING:
                raise _Doubt("it holds a comment that is SQL to some servers")
            if at and (word in _NEVER or word in self._words.others):
                raise _Doubt(f"it holds the word {word.upper()}")
            if word in self._words.symbols:
                raise _Doubt(f"it holds {word}, which may be of the session or of the moment")
            self._check_literal(at, piece)
            self._check_folded(piece)
            self._check_digits(at, word)
            quoted = piece.kind in (TokenKind.QUOTED, TokenKind.TAGGED)
            text = self._text(piece).strip('"`').lower() if quoted else word
            behind = self._word(at - 1) == "." if at else False
            if text in self._words.moments and not behind and self._word(at + 1) != ".":
                raise _Doubt(f"it reads the clock ({text}), and each page would be of another time")

    def _check_digits(self, at: int, word: str) -> None:
        """Some servers end a number where it is none any more: ``1e5limit 3`` has a LIMIT."""
        touched = at and self._pieces[at - 1].end == self._pieces[at].start
        behind = touched and self._word(at - 1)[:1].isdigit() and word[:1].isalpha()
        number = _EXPONENT if behind else _NUMBER if word[:1].isdigit() else None
        if number is not None and number.fullmatch(word) is None:
            raise _Doubt(f"a number and a word touch in it ({word})")

    def _check_folded(self, piece: Token) -> None:
        """Which letters beyond ASCII a server makes small is its encoding's and its locale's: the
        name that we would look up may be another function's or table's."""
        text, name = self._text(piece), self._words.name(self._sql, piece)
        if piece.kind is TokenKind.WORD and name not in (None, text) and not text.isascii():
            raise _Doubt(f"what {text} stands for is for the server to say: write it in quotes")

    def _check_literal(self, at: int, piece: Token) -> None:
        """A text that becomes a moment may say more than the clock's word: ``'tomorrow 12:00'``;
        may spell it by escapes; and may be written in pieces."""
        quoted = (TokenKind.QUOTED, TokenKind.TAGGED)
        if piece.kind not in quoted or self._name(at) is not None:
            return
        text = self._text(piece)
        before = self._pieces[at - 1] if at else None
        if before is not None and before.kind in quoted and self._name(at - 1) is None:
            raise _Doubt("it holds a text in pieces")
        # U&'…' names its own sign for them (UESCAPE).
        escaped = self._word(at - 1) == "&" and self._word(at - 2) == "u"
        if ("\\" in text and text[0] in "eE") or escaped:
            raise _Doubt("it holds a text with escapes")
        held = self._words.moments.intersection(_LETTERS.findall(text.lower()))
        if held:
            word = min(held)
            raise _Doubt(f"a text of it may be of the clock ({word}), for each page another one")

    def _from(self) -> int:
        """Where the table's name begins."""
        depth, found = 0, []
        for at in range(len(self._pieces)):
            word = self._word(at)
            depth += {"(": 1, ")": -1}.get(word, 0)
            if word == "from" and depth == 0:
                found.append(at)
        if len(found) != 1:
            raise _Doubt("it does not read from one table" if found else "it reads from no table")
        return found[0] + 1

    def _named(self, at: int) -> tuple[tuple[str, ...], int]:
        """The parts of the table's name, and the place behind it and its alias."""
        parts = []
        while True:
            name = self._name(at)
            if name is None:
                raise _Doubt("it does not read from a plain name")
            parts.append(name)
            at += 1
            if self._word(at) != ".":
                break
            at += 1
        at += self._word(at) == "as"
        if self._name(at) is not None and self._word(at) != "where":
            at += 1
        if at < len(self._pieces) and self._word(at) != "where":
            raise _Doubt("what follows its table's name is no condition")
        return tuple(parts), at

    def _read_names(self, at: int, end: int) -> set[str]:
        """Every name in ``[at, end)`` that is not called; and what is called is noted."""
        names: set[str] = set()
        while at < end:
            if self._word(at) == ".":
                self._check_number(at)
            if self._name(at) is None:
                self._star = self._star or (self._word(at) == "*" and self._lists(at))
                at += 1
                continue
            first = at
            chain, at = self._chain(at)
            word = self._word(first) if len(chain) == 1 else ""
            if self._word(at) == "(" and word in self._words.either:
                self._perhaps.add(word)
            elif self._word(at) == "(" and word not in self._words.clauses:
                self._calls.add(chain)
            else:
                names.add(chain[-1])
                self._chains += [chain] if len(chain) > 1 else []
        return names

    def _chain(self, at: int) -> tuple[tuple[str, ...], int]:
        """The names that dots join, and the place behind them."""
        chain = [self._name(at) or ""]
        while self._word(at + 1) == ".":
            more = self._name(at + 2)
            if more is None and self._word(at + 2) == "*":
                self._star, more = True, "*"
            if more is None:
                raise _Doubt("it holds a dot behind which no name stands")
            chain.append(more)
            at += 2
        return tuple(chain), at + 1

    def _lists(self, at: int) -> bool:
        """A star that stands for every column, and multiplies nothing."""
        return self._word(at - 1) in ("select", ",")

    def _check_number(self, at: int) -> None:
        """A dot behind no name is a number's, or asks for a field of a composite value."""
        before, dot, behind = self._pieces[at - 1], self._pieces[at], self._pieces[at + 1 :][:1]
        leads = before.end == dot.start and self._text(before).isdigit()
        follows = bool(behind) and behind[0].start == dot.end
        if not leads and not (follows and self._text(behind[0])[:1].isdigit()):
            raise _Doubt("it holds a dot that is neither a number's nor behind a name")

    def _made(self) -> set[str]:
        """An alias that has a type's name counts for one."""
        found: set[str] = set()
        for at in range(len(self._pieces)):
            behind = 3 if [self._word(at + n) for n in range(3)] == [")", ":", ":"] else 0
            behind = 1 if self._word(at) == "as" else behind
            if behind and self._name(at + behind) is not None:
                chain, _ = self._chain(at + behind)
                found.add(chain[-1].lower())
        return found

    def _operators(self) -> set[str]:
        """Every run of symbols that touch each other, and every part of one."""
        found: set[str] = set()
        run = ""
        ends: Token | None = None
        for piece in self._pieces:
            text = self._text(piece)
            one = piece.kind is TokenKind.SYMBOL and text in _OPERATORS
            touches = ends is not None and ends.end == piece.start
            run = (run + text if touches else text) if one else ""
            ends = piece if one else None
            found |= {run[at:] for at in range(len(run))}
        return found

    def _head(self) -> int:
        """Behind SELECT, and behind the hints that follow it."""
        head = self._all[0].end
        for piece in self._all[1:]:
            if piece.kind is not TokenKind.COMMENT or not self._text(piece).startswith("/*"):
                break
            head = piece.end
        return head
