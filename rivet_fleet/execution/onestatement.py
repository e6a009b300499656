"""The user's SQL as one part of a statement of ours: where it ends, by the rules of its engine.

A query is wrapped (``SELECT … FROM (query) AS …``), so it must be one whole statement: what ends
it is dropped, and what would leave the wrapping is refused by name. An engine says how it writes
strings, names and comments in ``LexicalRules``; nothing here knows what a SELECT is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from rivet_fleet.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """One kind of quoted text. ``opening`` is a pattern; ``backslash``: it hides what follows it;
    ``continued``: what may stand between two pieces of one text."""

    opening: str
    closing: str
    backslash: bool = False
    continued: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LexicalRules:
    """How an engine divides text. All fields but ``nested_comments`` are patterns.

    ``word``: an identifier or number, so that no quote or tag begins inside it; ``line_comment``
    up to its end; ``tagged``: the opening of a text that its own repetition closes;
    ``executed_comment``: the opening of a comment whose content is SQL to some servers of this
    engine; ``hint``: a comment that the optimizer reads, up to its end and without it, as far as
    it ends there to everybody.
    """

    word: str
    line_comment: str
    quotes: tuple[Quote, ...]
    nested_comments: bool
    tagged: str | None = None
    executed_comment: str | None = None
    hint: str | None = None


class TokenKind(Enum):
    """What a piece of a statement is. ``OPENING``: of a comment whose content is SQL."""

    COMMENT = "comment"
    QUOTED = "quoted"
    TAGGED = "tagged"
    WORD = "word"
    SYMBOL = "symbol"
    OPENING = "opening"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One piece, ``text[start:end]``. ``quote``: of ``QUOTED``, what kind it is."""

    kind: TokenKind
    start: int
    end: int
    quote: Quote | None = None


class _Unfinished(ValueError):
    """Why the text is not one whole statement, as the end of a sentence about it."""


def one_statement(sql: str, alternatives: tuple[LexicalRules, ...]) -> str:
    """``sql`` without what ends it: semicolons, and the comments behind them.

    ``alternatives``: the readings that the engine's settings may give it; the first by which it is
    whole counts, and the server, which knows its settings, refuses what is not. Raises ConfigError
    for a second statement, for a parenthesis, quote or comment that is not closed in it (the
    server would take our own text for its rest), and for a NUL character.
    """
    try:
        return _ended(sql, alternatives)
    except _Unfinished as reason:
        raise ConfigError(
            f"the query {reason}: nothing of it was sent to the source",
            hint="a query is one SELECT, whole in itself; it is read as SELECT … FROM (query)",
            code="RIVET_QUERY_NOT_ONE_STATEMENT",
        ) from None


def tokens(sql: str, rules: LexicalRules) -> tuple[Token, ...] | None:
    """The pieces of one whole statement as these rules read it, blanks left out; None where they
    do not find it whole."""
    reading = _Reading(sql, rules)
    try:
        reading.ended()
    except _Unfinished:
        return None
    return tuple(reading.tokens)


@lru_cache(maxsize=256)
def _ended(sql: str, alternatives: tuple[LexicalRules, ...]) -> str:
    if "\0" in sql:
        raise _Unfinished("holds a NUL character")
    reasons: list[_Unfinished] = []
    for rules in alternatives:
        try:
            return _Reading(sql, rules).ended()
        except _Unfinished as reason:
            reasons.append(reason)
    raise reasons[0]


_BLANKS = " \t\n\r\f\v"
"""Of the servers; what else Unicode has is a letter to them."""
_BLANK = re.compile(f"[{_BLANKS}]+")
_COMMENT_MARK = re.compile(r"/\*|\*/")


class _Reading:
    """One pass over the text."""

    def __init__(self, sql: str, rules: LexicalRules) -> None:
        self.sql = sql
        self.rules = rules
        self.word = re.compile(rules.word)
        self.line_comment = re.compile(rules.line_comment)
        self.quotes = [(re.compile(one.opening), one) for one in rules.quotes]
        self.tagged = re.compile(rules.tagged) if rules.tagged else None
        self.executed = re.compile(rules.executed_comment) if rules.executed_comment else None
        self.hint = re.compile(rules.hint) if rules.hint else None
        self.in_executed = False
        self.outside = 0
        """How deep the comment stands whose content is SQL."""
        self.depth = 0
        self.end: int | None = None
        """Where the first semicolon stands."""
        self.tokens: list[Token] = []

    def _token(self, kind: TokenKind, start: int, end: int, quote: Quote | None = None) -> int:
        self.tokens.append(Token(kind=kind, start=start, end=end, quote=quote))
        return end

    def ended(self) -> str:
        """The statement up to its first semicolon. Raises _Unfinished."""
        at = 0
        while at < len(self.sql):
            behind = self._unread(at)
            if behind is None:
                if self.end is not None and self.sql[at] != ";":
                    raise _Unfinished(f"holds a second statement, {self._shown(at)}")
                behind = self._read(at)
            at = behind
        if self.in_executed:
            raise _Unfinished("opens a comment that nothing closes")
        if self.depth:
            raise _Unfinished("opens a parenthesis that nothing closes")
        return self.sql[: self.end].strip(_BLANKS)

    def _unread(self, at: int) -> int | None:
        """Where a blank or a comment ends; None where something is said."""
        blank = _BLANK.match(self.sql, at)
        if blank is not None:
            return blank.end()
        line = self.line_comment.match(self.sql, at)
        if self.in_executed and (line is not None or self.sql.startswith("/*", at)):
            raise _Unfinished("holds a comment within /*! … */, which not every server ends there")
        if line is not None:
            return self._token(TokenKind.COMMENT, at, line.end())
        if not self.sql.startswith("/*", at):
            return None
        if self.executed is not None and self.executed.match(self.sql, at):
            return None
        end = self._comment(at)
        hint = self.hint is not None and self.sql.startswith("/*+", at)
        if hint and self.hint and not self.hint.fullmatch(self.sql, at, end - len("*/")):
            raise _Unfinished("holds a hint whose quotes do not end in it")
        return self._token(TokenKind.COMMENT, at, end)

    def _comment(self, at: int) -> int:
        depth = 0
        for mark in _COMMENT_MARK.finditer(self.sql, at):
            if mark[0] == "/*":
                depth = depth + 1 if self.rules.nested_comments else 1
            else:
                depth -= 1
            if not depth:
                return mark.end()
        raise _Unfinished("opens a comment that nothing closes")

    def _read(self, at: int) -> int:
        letter = self.sql[at]
        if self.executed is not None:
            opened = self.executed.match(self.sql, at)
            if opened is not None:
                self.in_executed, self.outside = True, self.depth
                return self._token(TokenKind.OPENING, at, opened.end())
            if self.in_executed and self.sql.startswith("*/", at):
                self.in_executed = False
                if self.depth != self.outside:
                    raise _Unfinished(
                        "opens a parenthesis within /*! … */ that is not closed there"
                    )
                return at + 2
        if letter == ";":
            if self.end is None:
                self.end = at
            return at + 1
        if letter in "()":
            self.depth += 1 if letter == "(" else -1
            # What stands in such a comment is SQL to one server and nothing to the next.
            if self.depth < (self.outside if self.in_executed else 0):
                raise _Unfinished("closes a parenthesis that it does not open")
            return self._token(TokenKind.SYMBOL, at, at + 1)
        return self._text(at) or self._word(at)

    def _text(self, at: int) -> int | None:
        for opening, quote in self.quotes:
            found = opening.match(self.sql, at)
            if found is not None:
                end = self._closed(found.end(), quote)
                if self.in_executed and "*/" in self.sql[at:end]:
                    raise _Unfinished("holds */ in quotes within /*! … */")
                return self._token(TokenKind.QUOTED, at, end, quote)
        found = self.tagged.match(self.sql, at) if self.tagged is not None else None
        if found is None:
            return None
        close = self.sql.find(found[0], found.end())
        if close < 0:
            raise _Unfinished(f"opens {found[0]}, which nothing closes")
        return self._token(TokenKind.TAGGED, at, close + len(found[0]))

    def _closed(self, at: int, quote: Quote) -> int:
        """Behind the closing quote; two of them are one of the text's own."""
        while True:
            close = self.sql.find(quote.closing, at)
            escape = self.sql.find("\\", at, close) if quote.backslash and close >= 0 else -1
            if close < 0:
                raise _Unfinished(f"opens {quote.closing}, which nothing closes")
            if escape >= 0:
                at = escape + 2
            elif self.sql.startswith(quote.closing, close + 1):
                at = close + 2
            else:
                more = (
                    re.compile(quote.continued).match(self.sql, close + 1)
                    if quote.continued is not None
                    else None
                )
                if more is None:
                    return close + 1
                at = more.end()

    def _word(self, at: int) -> int:
        word = self.word.match(self.sql, at)
        if word is None:
            return self._token(TokenKind.SYMBOL, at, at + 1)
        return self._token(TokenKind.WORD, at, word.end())

    def _shown(self, at: int) -> str:
        words: Sequence[str] = self.sql[at : at + 80].split()
        return repr(words[0][:20]) if words else "behind a semicolon"
