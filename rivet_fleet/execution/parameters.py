"""Parameters in the user's SQL: each becomes what its place says, and never more than that.

Inside a string or a quoted name a value is escaped by the rules of that quote; bare it is a
number, ``true``, ``false``, ``null`` or else a text literal; where a name must be it is a name, if
it was declared as one. A place in which a value could not be held is refused. Which place it is
must be the same under every reading that the server's settings may give the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rivet_fleet.contracts.keys import parse_relation
from rivet_fleet.contracts.parameters import (
    DOLLAR,
    VARIABLE,
    Parameter,
    ParameterType,
    Placed,
    escaped,
)
from rivet_fleet.errors import ConfigError
from rivet_fleet.execution.onestatement import (
    LexicalRules,
    Token,
    TokenKind,
    one_statement,
    tokens,
)

PLACE = "RIVET_PARAMETER_PLACE"
VALUE = "RIVET_PARAMETER_VALUE"

_NUMBER = re.compile(r"([+-]?)((?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_CONSTANT = re.compile(r"true|false|null", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9_]+")
_IN_COMMENT = re.compile(r"[A-Za-z0-9_ .,:+-]*")
_JOINS = re.compile(r"[A-Za-z0-9_$\x80-\U0010ffff]")
_REACHES = frozenset("'\"`@$\\")
"""What makes one token of itself and what touches it: @name, N'…', $1."""
_NAMES_BEHIND = frozenset(("JOIN", "TABLE", "ONLY", "AS", "COLLATE"))
_LISTS = {"FROM": "from", "BY": "by"}
_ROWS = ("LIMIT", "OFFSET", "FETCH", "UNION", "EXCEPT", "INTERSECT")
_CLAUSES = frozenset(("GROUP", "ORDER", "HAVING", "WINDOW", *_ROWS))
_LIST_ENDS = _CLAUSES | {"SELECT", "WHERE", "ON"}
_CONDITION_BEHIND = frozenset(("WHERE", "AND", "OR", "NOT", "ON", "HAVING", "WHEN"))
_CONDITION_ENDS = _CLAUSES | {"AND", "OR", "THEN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How an engine reads and writes SQL. ``rules``: every reading its settings may give a text.
    ``literal``, ``name``: a value as a whole literal or name, the same under each of them."""

    rules: tuple[LexicalRules, ...]
    literal: Callable[[str], str]
    name: Callable[[str], str]


class _Expects(Enum):
    VALUE = "a value"
    STATEMENT = "the statement"
    NAME = "a name"
    ORDER = "what to order or group by"
    CONDITION = "a condition"


def place_parameters(
    template: str,
    writing: Writing,
    values: Mapping[str, Parameter],
    later: frozenset[str] = frozenset(),
) -> Placed:
    """``template`` with every ``${NAME}`` in its place; ``${$}`` is a dollar sign.

    ``later``: names whose values do not get into the text; with one of them the result is a
    template again, which refers to these alone. Raises ConfigError: for a place that cannot hold
    a value, for a value that its place cannot hold, for text that is not one whole statement.
    """
    names = [one[1] for one in VARIABLE.finditer(template) if one[1] != DOLLAR]
    if not names:
        return Placed(sql=VARIABLE.sub(DOLLAR, template))
    # A letter, so that every reading divides the text around it as around a word.
    mark = _unused_letter([template, *(one.value for one in values.values())])
    text = VARIABLE.sub(lambda one: DOLLAR if one[1] == DOLLAR else mark, template)
    named = iter(names)
    work = _Placing(text, mark, writing)
    placed = _Text(later=later)
    for token in work.tokens:
        own = [next(named) for _ in range(text.count(mark, token.start, token.end))]
        if own:
            placed.add(text[placed.until : token.start], token.end)
            placed.pieces += work.placed(token, own, values, later, placed)
    placed.add(text[placed.until :], len(text))
    sql = "".join(placed.pieces)
    if not placed.kept:
        return Placed(sql=sql, notes=tuple(placed.notes))
    further = iter(placed.kept)
    sql = "".join(f"${{{next(further)}}}" if one == mark else one for one in escaped(sql))
    return Placed(sql=sql, notes=tuple(placed.notes))


def _unused_letter(texts: Sequence[str]) -> str:
    """A letter to the lexers that stands nowhere in ``texts``."""
    return next(
        letter
        for letter in map(chr, range(0xE000, 0xF8FF))
        if not any(letter in text for text in texts)
    )


class _Text:
    """What was written so far."""

    def __init__(self, later: frozenset[str]) -> None:
        self.pieces: list[str] = []
        self.until = 0
        self.notes: list[str] = []
        self.later = later
        self.kept: list[str] = []
        """The references that were left, in order."""

    def add(self, piece: str, until: int) -> None:
        self.pieces.append(piece)
        self.until = until


class _Placing:
    """One template. ``mark`` stands for each parameter: a letter that it does not hold."""

    def __init__(self, text: str, mark: str, writing: Writing) -> None:
        self.text = text
        self.mark = mark
        self.writing = writing
        readings = [tokens(text, rules) for rules in writing.rules]
        if not any(readings):
            one_statement(text.replace(mark, "x"), writing.rules)
        first = next((one for one in readings if one is not None), ())
        self.tokens = first
        shapes = {tuple((t.kind, t.start, t.end) for t in one) if one else None for one in readings}
        if len(shapes) > 1:
            raise ConfigError(
                "its quotes and backslashes mean one thing under one setting of the server and "
                "another under the next, so no parameter in it has a certain place",
                hint="write a quote inside quotes twice ('it''s'), not behind a backslash",
                code=PLACE,
            )
        if any(one.kind is TokenKind.OPENING for one in first):
            raise ConfigError(
                "it holds /*! … */, which some servers read as SQL and others as a comment, so no "
                "parameter in it has a certain place",
                hint="write the SQL without it",
                code=PLACE,
            )
        self.same_quote = [
            len({one[i].quote.backslash for one in readings if one and one[i].quote}) < 2  # type: ignore[union-attr]
            for i in range(len(first))
        ]
        self.expects = dict(_expectations(text, first))

    def placed(
        self,
        token: Token,
        names: list[str],
        values: Mapping[str, Parameter],
        later: frozenset[str],
        written: _Text,
    ) -> list[str]:
        """The pieces that stand for one token with parameters."""
        if token.kind is TokenKind.COMMENT:
            return [self._comment(token, names, values, later)]
        written.kept += [name for name in names if name in later]
        if token.kind is TokenKind.QUOTED:
            return [self._quoted(token, names, values, later)]
        if token.kind is not TokenKind.WORD:
            raise _refused(names[0], "stands inside $…$ quotes", "put the text in '…' quotes")
        start, end = self._run(token)
        self._refuse_touched(names[0], start, end)
        if end - start > 1:
            return [self._within_word(token, names, values, later)]
        name = names[0]
        if name in later:
            _ = self._bare(token, name, values[name])
            return [self.mark]
        piece, note = self._bare(token, name, values[name])
        written.notes += [note] if note else []
        return [piece]

    def _refuse_touched(self, name: str, start: int, end: int) -> None:
        before, behind = self.text[start - 1 : start], self.text[end : end + 1]
        touched = [one for one in (before, behind) if one in _REACHES]
        touched += ["$"] if "$" in self.text[start:end] else []
        # U& and what follows it: a string with escapes of its own.
        unicode = before == "&" and self.text[start - 2 : start - 1] in ("u", "U")
        if touched or unicode or (behind == "&" and end - start > 1):
            raise _refused(
                name,
                f"touches {touched[0] if touched else '&'}",
                "put a blank between them, or the parameter inside the quotes",
            )

    def _run(self, token: Token) -> tuple[int, int]:
        """Where what touches the parameters as part of one word or number begins and ends."""
        start, end = token.start, token.end
        while start and _JOINS.match(self.text, start - 1):
            start -= 1
        while end < len(self.text) and _JOINS.match(self.text, end):
            end += 1
        return start, end

    def _comment(
        self,
        token: Token,
        names: list[str],
        values: Mapping[str, Parameter],
        later: frozenset[str],
    ) -> str:
        # What a comment says is nothing to the server: a value that could end one is left out.
        said = [
            "***"
            if name in later or not _IN_COMMENT.fullmatch(values[name].value)
            else values[name].value
            for name in names
        ]
        return self._filled(token, said)

    def _quoted(
        self,
        token: Token,
        names: list[str],
        values: Mapping[str, Parameter],
        later: frozenset[str],
    ) -> str:
        quote = token.quote
        assert quote is not None
        text = self.text[token.start : token.end]
        if self.text[max(0, token.start - 2) : token.start].upper() == "U&":
            raise _refused(
                names[0], "stands in U&'…', which has escapes of its own", "write '${name}'"
            )
        gaps = re.finditer(quote.closing + quote.continued, text) if quote.continued else ()
        if any(self.mark in gap[0] for gap in gaps):
            raise _refused(names[0], "stands in a comment between two pieces of one text")
        if quote.backslash and any(_hidden(text, at) for at in self._marks(text)):
            raise _refused(names[0], "stands behind a backslash", "write two of them: \\\\")
        found = ["" if name in later else values[name].value for name in names]
        for name, value in zip(names, found, strict=True):
            _refuse_nul(name, value)
        if any("\\" in value for value in found) and not self._same(token):
            if text[0] != "'" or "\\" in text or self._joined(token) or set(names) & later:
                raise _refused(
                    names[0],
                    "has a backslash, whose meaning depends on the server's settings here",
                    "let the parameter stand in '…' alone",
                    code=VALUE,
                )
            return self.writing.literal(self._fill(text[1:-1].replace("''", "'"), found))
        backslashes = quote.backslash and self._same(token)
        said = [
            self.mark
            if name in later
            else (value.replace("\\", "\\\\") if backslashes else value).replace(
                quote.closing, quote.closing * 2
            )
            for name, value in zip(names, found, strict=True)
        ]
        return self._filled(token, said)

    def _same(self, token: Token) -> bool:
        return self.same_quote[self.tokens.index(token)]

    def _joined(self, token: Token) -> bool:
        """True for X'…', N'…' and _charset'…'."""
        return bool(token.start and _JOINS.match(self.text, token.start - 1))

    def _within_word(
        self,
        token: Token,
        names: list[str],
        values: Mapping[str, Parameter],
        later: frozenset[str],
    ) -> str:
        for name in names:
            if not _WORD.fullmatch(values[name].value):
                raise _refused(
                    name,
                    "is part of a word, so its value may hold letters, digits and _ alone",
                    "put it in quotes, or give a value that fits",
                    code=VALUE,
                )
        said = [self.mark if name in later else values[name].value for name in names]
        return self._filled(token, said)

    def _bare(self, token: Token, name: str, given: Parameter) -> tuple[str, str | None]:
        expects = self.expects.get(token.start, _Expects.VALUE)
        value, kind = given.value, given.type
        _refuse_nul(name, value)
        if kind is ParameterType.IDENTIFIER:
            try:
                relation = parse_relation(value)
            except ValueError as wrong:
                raise _refused(
                    name, f"is an identifier, and {wrong}", "a name is quoted as in table:", VALUE
                ) from None
            parts = [one for one in (relation.schema, relation.name) if one]
            return ".".join(self.writing.name(one) for one in parts), None
        if expects is _Expects.NAME:
            raise _refused(
                name,
                "stands where a name must be",
                f"declare it: params: {{{name}: {{type: identifier}}}}",
            )
        number = _NUMBER.fullmatch(value)
        if kind is ParameterType.NUMBER and number is None:
            raise _refused(name, "is declared a number, and its value is none", code=VALUE)
        if number is not None and kind is not ParameterType.TEXT:
            # A sign could make an operator, or a comment, of what stands before it.
            return (f"({value})" if number[1] else value), None
        if kind is None and _CONSTANT.fullmatch(value):
            return value, None
        if kind is None and expects is not _Expects.VALUE:
            raise _refused(
                name,
                f"stands where {expects.value} must be, and its value would be a text there",
                f"write the SQL itself, put a value in quotes ('${{{name}}}'), or declare a "
                f"name: params: {{{name}: {{type: identifier}}}}",
            )
        note = None
        if kind is None:
            note = (
                f"the parameter {name} stands without quotes and is read as a text, not as SQL: "
                f"write '${{{name}}}', or params: {{{name}: {{type: text}}}} (or identifier)"
            )
        return self.writing.literal(value), note

    def _marks(self, text: str) -> list[int]:
        return [at for at, letter in enumerate(text) if letter == self.mark]

    def _filled(self, token: Token, said: Sequence[str]) -> str:
        return self._fill(self.text[token.start : token.end], said)

    def _fill(self, text: str, said: Sequence[str]) -> str:
        given = iter(said)
        return "".join(next(given) if one == self.mark else one for one in text)


def _hidden(text: str, at: int) -> bool:
    """True when an odd number of backslashes stands before it."""
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _refuse_nul(name: str, value: str) -> None:
    if "\0" in value:
        raise _refused(name, "holds a NUL character", code=VALUE)
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _refused(name, "is no UTF-8 text", code=VALUE)


def _refused(name: str, why: str, hint: str | None = None, code: str = PLACE) -> ConfigError:
    return ConfigError(f"the parameter {name} {why}", hint=hint, code=code)


def _expectations(text: str, found: Sequence[Token]) -> Iterator[tuple[int, _Expects]]:
    """(where a word begins, what must stand there), as far as the words around it tell."""
    said = [one for one in found if one.kind is not TokenKind.COMMENT]
    words = [text[one.start : one.end].upper() for one in said]
    selects, lists = [True], [""]
    for i, (token, word) in enumerate(zip(said, words, strict=True)):
        before = words[i - 1] if i else ""
        behind = words[i + 1] if i + 1 < len(words) else ""
        if word == "(":
            selects.append(behind in ("SELECT", "WITH", "TABLE", "VALUES", "("))
            lists.append("")
        elif word == ")" and len(selects) > 1:
            selects.pop()
            lists.pop()
        elif word in _LISTS and not (word == "FROM" and not _names_tables(selects, before)):
            lists[-1] = _LISTS[word]
        elif word in _LIST_ENDS:
            lists[-1] = ""
        elif token.kind is TokenKind.WORD:
            if i == 0:
                yield token.start, _Expects.STATEMENT
            listed = lists[-1] if before in (",", *_LISTS) else ""
            touched = "." in (text[token.start - 1 : token.start], text[token.end : token.end + 1])
            if before in _NAMES_BEHIND or touched or listed == "from":
                yield token.start, _Expects.NAME
            elif listed == "by":
                yield token.start, _Expects.ORDER
            elif before in _CONDITION_BEHIND and (
                behind in _CONDITION_ENDS or behind in ("", ")", ";")
            ):
                yield token.start, _Expects.CONDITION


def _names_tables(selects: Sequence[bool], before: str) -> bool:
    """False for the FROM of a function (``extract(year FROM …)``) and of a comparison."""
    return selects[-1] and before != "DISTINCT"
