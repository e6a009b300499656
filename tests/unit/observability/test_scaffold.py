"""What ``init`` writes is YAML by YAML's rules: every name in it loads as the name it was."""

from __future__ import annotations

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rivet_fleet.contracts.columns import TypeKind
from rivet_fleet.contracts.discovery import DiscoveredSource, Discovery
from rivet_fleet.contracts.facts import ColumnFacts, ListedRelation, RelationKind
from rivet_fleet.contracts.foreign import printable
from rivet_fleet.contracts.keys import RelationName, parse_relation
from rivet_fleet.observability.scaffold import ScaffoldOptions, render_scaffold
from rivet_fleet.planning.config.document import Variables, read_document
from rivet_fleet.planning.config.models import ExportConfig
from rivet_fleet.planning.discovery import export_name_of, suggest
from rivet_fleet.planning.request import override_column
from tests.unit.planning.shapes import column, index, table

HOSTILE = (
    "box 📦",
    "sales.orders",
    "${HOME}",
    "$${HOME}",
    "${$}",
    "{export}",
    "a: b",
    "- a",
    "#c",
    "yes",
    "~",
    "1e3",
    "'",
    '"',
    "'\"\\",
    "\\ud83d",
    "new\nline",
    "\u2028",
    "\ufeff",
    "\x85",
    "e\u0301",
    " blanks ",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
    "`a",
    "<<",
    "a\tb",
    "a\u034fb\u3164",
    "'\U000e01ef",
)
name = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=24),
)


def written(relation: RelationName, columns: tuple[str, str, str]) -> str:
    """A scaffold of one table: a long one, cut by its key, with a moment and a column to cast."""
    key, odd, moment = columns
    facts = table(
        row_estimate=600_000,
        columns=(
            column(key, TypeKind.INT64),
            ColumnFacts(name=odd, native_type="strange", type=None, nullable=True),
            column(moment, TypeKind.TIMESTAMP),
        ),
        indexes=(index("by_key", key),),
    )
    listed = ListedRelation(name=relation, kind=RelationKind.TABLE, from_item="")
    export = suggest(
        listed,
        facts,
        source="shop",
        export_name=export_name_of(listed, None, set()),
        default_schema=None,
        modes=("full", "chunked", "incremental"),
    )
    source = DiscoveredSource(name="shop", engine="e", server_version="1", identity="here")
    found = Discovery(sources=(source,), exports=(export,), skipped=(), workers=2)
    blocks = {"shop": {"type": "e", "url_env": "URL"}}
    return render_scaffold(
        found, ScaffoldOptions(blocks=blocks, meta_columns=False, file="fleet.yaml")
    )


@settings(max_examples=300, deadline=None)
@given(
    schema=name,
    relation=name,
    columns=st.tuples(name, name, name).filter(lambda three: len(set(three)) == 3),
)
def test_every_name_in_a_scaffold_loads_as_itself(schema, relation, columns) -> None:
    meant = RelationName(schema=schema, name=relation)
    text = written(meant, columns)
    read = read_document(text, "fleet.yaml", Variables(params={}, environ={}))
    assert read.problems == ()
    assert printable(text) == text, "of two names that look alike each can be told"
    (export,) = read.plain["exports"]
    assert parse_relation(export["table"]) == meant
    assert export["chunk_by_key"] == [columns[0]]
    (cast,) = export["columns"]
    config = ExportConfig.model_validate(
        {"format": "parquet", "destination": {"type": "local", "path": "x"}}
        | {"name": "n", "table": export["table"]}
    )
    assert override_column(config, cast) == columns[1]
    # Another reader of YAML sees the same structure.
    assert set(yaml.safe_load(text)["exports"][0]) == set(export)
