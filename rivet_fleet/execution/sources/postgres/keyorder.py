"""How keys are ordered and compared: by the operators of one class, named in full.

ORDER BY takes its order from the type's default btree class, whatever the search path is; an
operator written as ``>`` is looked up on the search path, and may be another type's. So every
comparison names the operators of that class, writes its literals in the type that they take, and
an index is a key only where its class is this one (ADR 0004, "One operator").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Cursor

from rivet_fleet.contracts.keys import KeyTuple
from rivet_fleet.errors import SourceRefused
from rivet_fleet.execution.sources.postgres.dialect import (
    ALIAS,
    moment_literal,
    quote_identifier,
    quote_literal,
    steady_text,
)

_SIGNS = ("<", "<=", "=", ">=", ">")
"""What the strategies 1 to 5 of a btree class mean."""
_EXACT = frozenset({16, 17, 19, 20, 21, 23, 25, 26, 1042, 1043, 1082, 1083, 1114, 1184, 1266})
_EXACT |= {1700, 2950}
"""Types whose text is known to come back as the same value. Every other value proves it."""
_INTEGERS = frozenset({20, 21, 23})
_UNSTEADY = {17: "bytea", 1082: "date", 1114: "timestamp", 1184: "timestamptz"}
"""Exact types whose text the session decides."""
_OBSTACLES = {
    18: 'values of type "char" cannot be compared with a literal on every server',
    790: "the text of money depends on lc_monetary",
}
_BYTES = "\0"
"""Begins a key's text that could not travel as text: the server's bytes follow, in hex."""
UTF8 = "UTF8"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOrder:
    """The order of one column: the default btree class of its type."""

    order_class: str
    """Family and input type: an index with another pair is ordered otherwise."""
    operators: tuple[str, ...]
    """``OPERATOR("schema".<)`` for each of ``<``, ``<=``, ``=``, ``>=``, ``>``."""
    type: str
    """The type that they take, quoted: of literals, and of the column where it is another."""
    cast: bool = False
    exact: bool = True
    integer: bool = False
    unsteady: str = ""
    """The name of a type whose text the session decides; empty for every other exact type."""
    obstacle: str | None = None
    """Why no value of it can be written so that the server compares it; None when it can."""


# What GetDefaultOpClass does (indexcmds.c): the class of the type itself, else the one of a
# preferred type that it is the same as in binary, else the only such one.
_ORDERS = """
WITH RECURSIVE t AS (
  SELECT oid AS asked, oid, typtype, typbasetype FROM pg_catalog.pg_type WHERE oid = ANY (%s)
  UNION ALL
  SELECT t.asked, b.oid, b.typtype, b.typbasetype
  FROM t JOIN pg_catalog.pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype
), base AS (
  SELECT t.asked, b.* FROM t JOIN pg_catalog.pg_type b ON b.oid = t.oid WHERE t.typtype <> 'd'
), fit AS (
  SELECT base.asked, base.oid, base.typtype, o.opcfamily, o.opcintype, r.rank,
         count(*) OVER (PARTITION BY base.asked, r.rank) AS rivals,
         min(r.rank) OVER (PARTITION BY base.asked) AS best
  FROM base
  JOIN pg_catalog.pg_opclass o ON o.opcdefault AND o.opcmethod = 403
  JOIN pg_catalog.pg_type i ON i.oid = o.opcintype
  CROSS JOIN LATERAL (SELECT CASE
    WHEN o.opcintype = base.oid THEN 0
    WHEN i.typispreferred AND i.typcategory = base.typcategory THEN 1 ELSE 2 END) AS r(rank)
  WHERE o.opcintype = base.oid
     OR EXISTS (SELECT FROM pg_catalog.pg_cast k
                WHERE k.castsource = base.oid AND k.casttarget = o.opcintype
                  AND k.castmethod = 'b' AND k.castcontext = 'i')
     OR (i.typname, base.typtype) IN (('anyenum', 'e'), ('anyrange', 'r'), ('anymultirange', 'm'),
                                      ('record', 'c'))
     OR (i.typname = 'anyarray' AND base.typcategory = 'A' AND base.typlen = -1
         AND base.typelem <> 0 AND base.oid NOT IN (22, 30))
)
SELECT fit.asked, fit.oid, fit.typtype::text, fit.opcfamily, fit.opcintype, n.nspname, w.typname,
       w.oid, array_agg(p.oprname::text ORDER BY a.amopstrategy),
       array_agg(pn.nspname::text ORDER BY a.amopstrategy)
FROM fit
JOIN pg_catalog.pg_type i ON i.oid = fit.opcintype
JOIN pg_catalog.pg_type w ON w.oid = CASE WHEN i.typtype = 'p' THEN fit.oid ELSE i.oid END
JOIN pg_catalog.pg_namespace n ON n.oid = w.typnamespace
JOIN pg_catalog.pg_amop a ON a.amopfamily = fit.opcfamily AND a.amoppurpose = 's'
  AND a.amoplefttype = fit.opcintype AND a.amoprighttype = fit.opcintype
JOIN pg_catalog.pg_operator p ON p.oid = a.amopopr
JOIN pg_catalog.pg_namespace pn ON pn.oid = p.oprnamespace
WHERE fit.rank = fit.best AND fit.rivals = 1
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
HAVING count(*) = 5
"""


def key_orders(
    cursor: Cursor[tuple[Any, ...]], types: Iterable[tuple[str, int]]
) -> dict[str, KeyOrder]:
    """The order of each (column, type OID) that has one. One statement, on our own path."""
    asked = dict(types)
    found = type_orders(cursor, asked.values())
    return {name: found[oid] for name, oid in asked.items() if oid in found}


def type_orders(cursor: Cursor[tuple[Any, ...]], oids: Iterable[int]) -> dict[int, KeyOrder]:
    """The order of each type that has one, by its OID. One statement, on our own path."""
    rows = cursor.execute(_ORDERS, (sorted(set(oids)),), prepare=True).fetchall()
    return {row[0]: _order(row) for row in rows}


def _order(row: tuple[Any, ...]) -> KeyOrder:
    asked, base, typtype, family, takes, schema, name, wanted, operators, homes = row
    return KeyOrder(
        order_class=f"{family}/{takes}",
        operators=tuple(
            f"OPERATOR({quote_identifier(home)}.{operator})"
            for operator, home in zip(operators, homes, strict=True)
        ),
        type=f"{quote_identifier(schema)}.{quote_identifier(name)}",
        cast=asked != wanted,
        exact=base in _EXACT or typtype == "e",
        integer=base in _INTEGERS,
        unsteady=_UNSTEADY.get(base, ""),
        obstacle=_OBSTACLES.get(base),
    )


_INTEGER = re.compile(r"-?\d+")


class Keys:
    """A ``KeyDialect`` and ``ProbedKeys`` over the orders of its columns.

    ``encoding`` is the server's. Where it is not UTF-8, a value may be another one when it has
    gone there and back, or cannot go: keys travel as bytes, and are text only while plain ASCII.
    ``steady``: the session is a query's own, and its text forms are not ours. Types that are not
    exact prove each value in that session, which is the same in every page.
    """

    count = "pg_catalog.count(*)"

    def __init__(
        self, orders: Mapping[str, KeyOrder], *, encoding: str = UTF8, steady: bool = False
    ) -> None:
        self._orders, self._encoding, self._steady = orders, encoding, steady

    @property
    def as_text(self) -> bool:
        """True where a key's text may travel as text."""
        return self._encoding == UTF8

    def order(self, name: str) -> KeyOrder:
        """The column's order. Raises SourceRefused where its type has none."""
        try:
            return self._orders[name]
        except KeyError:
            raise SourceRefused(
                f"column {name} has no order: its type has no default btree operator class",
                hint="cut the export by another column",
            ) from None

    def obstacle(self, columns: Iterable[str]) -> str | None:
        """Why these columns are no key, or None."""
        for name in columns:
            found = self._orders.get(name)
            if found is None:
                return f"column {name} has a type without an order"
            if found.obstacle is not None:
                return f"column {name}: {found.obstacle}"
        return None

    # ------------------------------------------------------------ expressions

    def column_ref(self, name: str) -> str:
        """A column of what is read."""
        return f"{ALIAS}.{quote_identifier(name)}"

    def value(self, name: str) -> str:
        """The column in the type that its operators take: never a conversion, only its name."""
        order = self.order(name)
        return f"{self.column_ref(name)}::{order.type}" if order.cast else self.column_ref(name)

    def first_of(self, columns: tuple[str, ...]) -> str:
        """The column, or the first of two that is not NULL. Raises SourceRefused where the two
        have no order in common."""
        if len(columns) == 1:
            return self.value(columns[0])
        if len({self.order(name).operators for name in columns}) > 1:
            raise SourceRefused(
                f"columns {' and '.join(columns)} have no order in common",
                hint="name a column of the cursor's type",
            )
        return f"COALESCE({', '.join(self.value(name) for name in columns)})"

    def sign(self, name: str, sign: str) -> str:
        """``OPERATOR("schema".<)``: the comparison of the column's own class."""
        return self.order(name).operators[_SIGNS.index(sign)]

    def literal(self, name: str, text: str) -> str:
        """A value in the type that the column's operators take."""
        order = self.order(name)
        if order.unsteady == "timestamptz":
            return f"{moment_literal(text)}::{order.type}"
        if order.exact and not text.startswith(_BYTES):
            return f"{quote_literal(text)}::{order.type}"
        # As in ``text_expression``, so that the one proves the other.
        return f"{self.text_literal(text)}::{order.type}"

    def text_literal(self, text: str) -> str:
        """What ``arrived`` made, as a value of type text."""
        if not text.startswith(_BYTES):
            return f"{quote_literal(text)}::pg_catalog.text"
        digits, encoding = quote_literal(text[len(_BYTES) :]), quote_literal(self._encoding)
        return f"pg_catalog.convert_from(pg_catalog.decode({digits}, 'hex'), {encoding})"

    def text_expression(self, name: str) -> str:
        """A value's text as it travels; NULL where it would not come back as the same value."""
        reference, order = self.column_ref(name), self._orders.get(name)
        plain = f"{reference}::pg_catalog.text"
        if self._steady and order is not None and order.unsteady:
            plain = steady_text(order.unsteady, self.value(name)) or plain
        if order is not None and not order.exact:
            same = f"{plain}::{order.type} {self.sign(name, '=')} {self.value(name)}"
            plain = f"CASE WHEN {same} THEN {plain} END"
        return self.travelling(plain)

    def first_text(self, columns: tuple[str, ...]) -> str:
        """The text of the column, or of the first of two that is not NULL."""
        text, *other = map(self.text_expression, columns)
        if not other:
            return text
        return f"CASE WHEN {self.column_ref(columns[0])} IS NULL THEN {other[0]} ELSE {text} END"

    def travelling(self, text: str) -> str:
        """An expression of type text as it travels; see ``arrived``."""
        if self.as_text:
            return text
        encoding = quote_literal(self._encoding)
        return f"pg_catalog.encode(pg_catalog.convert_to({text}, {encoding}), 'hex')"

    def arrived(self, text: str) -> str:
        """The key's text from what travelled."""
        if self.as_text:
            return text
        raw = bytes.fromhex(text)
        return raw.decode("ascii") if raw.isascii() else _BYTES + text

    def key_of(self, columns: tuple[str, ...], row: tuple[Any, ...] | None) -> KeyTuple | None:
        """The key from one answer of ``text_expression`` of each column. Raises SourceRefused for
        a value without an exact text."""
        if row is None:
            return None
        for name, text in zip(columns, row, strict=True):
            if text is None:
                raise SourceRefused(
                    f"column {name}: a value's text is read back as another value, so it cannot "
                    "be a key",
                    hint="cut the export by another column, or leave the choice to the plan",
                )
        return tuple(self.arrived(text) for text in row)

    # ------------------------------------------------------------ order and comparison

    def key_list(self, columns: tuple[str, ...]) -> str:
        """Rising, by the operators that compare."""
        return self.ordered(columns, "<")

    def ordered(self, columns: tuple[str, ...], sign: str) -> str:
        """What stands behind ORDER BY; ``sign`` is ``<`` for rising, ``>`` for falling."""
        return ", ".join(f"{self.value(name)} USING {self.sign(name, sign)}" for name in columns)

    def falling(self, name: str, expression: str) -> str:
        """An expression that has the column's order, by the operators that compare."""
        return f"{expression} USING {self.sign(name, '>')}"

    def row_comparison(self, columns: tuple[str, ...], operator: str, values: KeyTuple) -> str:
        """``(k1, k2) >= ('a', 'b')``: one row comparison where one operator compares every
        column. Where the columns' are several, written out behind the comparison of the first
        ones, which is the range that an index is read in."""
        if len(columns) != len(values):
            raise ValueError(f"{len(values)} key values for {len(columns)} key columns")
        alike = [self.order(name).operators == self.order(columns[0]).operators for name in columns]
        count = len(columns) if all(alike) else alike.index(False)
        head = columns[:count], values[:count]
        if count == len(columns):
            return self._run(*head, operator)
        strict = operator[0]
        rest = self.row_comparison(columns[count:], operator, values[count:])
        return (
            f"({self._run(*head, f'{strict}=')} AND ({self._run(*head, strict)} OR "
            f"({self._run(*head, '=')} AND {rest})))"
        )

    def _run(self, columns: tuple[str, ...], values: KeyTuple, sign: str) -> str:
        left = ", ".join(self.value(name) for name in columns)
        right = ", ".join(
            self.literal(name, text) for name, text in zip(columns, values, strict=True)
        )
        if len(columns) > 1:
            left, right = f"({left})", f"({right})"
        return f"{left} {self.sign(columns[0], sign)} {right}"

    def span_comparison(self, column: str, operator: str, value: str) -> str:
        """One bound of a span. Integers stand bare: a bound may lie outside the column's type."""
        bare = self.order(column).integer and _INTEGER.fullmatch(value)
        literal = f"({value})" if bare else self.literal(column, value)
        return f"{self.value(column)} {self.sign(column, operator)} {literal}"

    def reckons(self, column: str) -> bool:
        """Integers: their default class is the server's own, and compares all of their types."""
        return self.order(column).integer

    def coalesced_comparison(self, column: str, fallback: str, operator: str, value: str) -> str:
        """One bound of the first of two columns that is not NULL."""
        expression = self.first_of((column, fallback))
        return f"{expression} {self.sign(column, operator)} {self.literal(column, value)}"
