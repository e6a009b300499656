"""Looking at live databases to suggest exports. Reads catalogues; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rivet_fleet.contracts.discovery import (
    DiscoveredExport,
    DiscoveredSource,
    Discovery,
    SkippedRelation,
)
from rivet_fleet.contracts.facts import FactsRequest, ListedRelation, Listing
from rivet_fleet.coordination.history import Memory
from rivet_fleet.coordination.inquiry import Inquiry, OnRefusal, open_inquiry
from rivet_fleet.coordination.wiring import ProcessOptions
from rivet_fleet.errors import SourceError, UsageError
from rivet_fleet.planning.config.loaded import LoadedConfig
from rivet_fleet.planning.config.problems import did_you_mean
from rivet_fleet.planning.discovery import (
    PARALLEL_MOST,
    chosen,
    export_name_of,
    parallel_of,
    runnable_modes,
    suggest,
)

WORKERS_LEAST = 2


def discover(
    loaded: LoadedConfig,
    options: ProcessOptions,
    *,
    sources: Sequence[str],
    include: Sequence[str],
    exclude: Sequence[str],
) -> Discovery:
    """Every relation of the named sources (of all by default) that the globs ask for.

    A relation that cannot be described is left out with its reason. Raises UsageError for an
    unknown source, ConfigError and SourceError when a source cannot be reached.
    """
    names = tuple(sources) or tuple(loaded.sources)
    for name in names:
        if name not in loaded.sources:
            raise UsageError(
                f"there is no source {name!r}", hint=did_you_mean(name, loaded.sources)
            )
    with open_inquiry(loaded, options, on_refusal=OnRefusal.COLLECT, memory=Memory()) as inquiry:
        looked = _Looked(inquiry)
        for name in names:
            connection, source = inquiry.connection(name), inquiry.source(name)
            version = source.ping()
            listing = source.list_relations()
            looked.sources.append(
                DiscoveredSource(
                    name=name,
                    engine=connection.engine,
                    server_version=version,
                    identity=connection.identity,
                )
            )
            wanted, skipped = chosen(listing.relations, include, exclude)
            for relation, reason in skipped:
                looked.skip(name, relation, reason)
            for relation in wanted:
                looked.add(name, listing, relation)
            inquiry.leave(name)
    return Discovery(
        sources=tuple(looked.sources),
        exports=tuple(looked.exports),
        skipped=tuple(looked.skipped),
        workers=_workers(looked.exports),
    )


class _Looked:
    """What was found so far. Export names are unique over all sources."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry
        self.sources: list[DiscoveredSource] = []
        self.exports: list[DiscoveredExport] = []
        self.skipped: list[SkippedRelation] = []
        self._modes = runnable_modes()

    def skip(self, source: str, relation: ListedRelation, reason: str) -> None:
        """Leave one out."""
        self.skipped.append(
            SkippedRelation(
                source=source, relation=relation.name, kind=relation.kind, reason=reason
            )
        )

    def add(self, name: str, listing: Listing, relation: ListedRelation) -> None:
        """Describe one, and suggest its export."""
        taken = {one.export_name for one in self.exports}
        export_name = export_name_of(relation, listing.default_schema, taken, source=name)
        request = FactsRequest(
            export_name=export_name, relation=relation.name, query=None, boundaries_max=0
        )
        facts = self._inquiry.describe(name, request)
        if isinstance(facts, SourceError):
            self.skip(name, relation, facts.message)
            return
        if not facts.columns:
            self.skip(name, relation, "it has no columns")
            return
        self.exports.append(
            suggest(
                relation,
                facts,
                source=name,
                export_name=export_name,
                default_schema=listing.default_schema,
                modes=self._modes,
            )
        )


def _workers(exports: Sequence[DiscoveredExport]) -> int:
    """As many as the largest cut table can use; a key's ranges run at once as well."""
    wanted = [
        parallel_of(one.row_estimate or 0, one.row_width_bytes)
        for one in exports
        if one.chunk_size is not None
    ]
    return min(max([WORKERS_LEAST, *wanted]), PARALLEL_MOST)
