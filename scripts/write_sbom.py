"""Writes the bill of materials: CycloneDX 1.6 JSON of what an installation is made of.

``python scripts/write_sbom.py sbom.cdx.json``, or ``make sbom``. It says what the lock files say:
requirements.lock is what runs, requirements-build.lock what compiled it and stays behind (scope
``excluded``). Licences are those of the installed packages, where the version is the locked one.
The same locks give the same bytes: there is no time in it. An image's system packages are not
in it: its scanner knows those.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from rivet_fleet import __version__

ROOT = Path(__file__).parents[1]
LOCKS = {"requirements.lock": "required", "requirements-build.lock": "excluded"}
# Not a purl of the package index: what is called rivet-fleet there is not this.
OURS = f"pkg:generic/rivet-fleet@{__version__}"
_ENTRY = re.compile(r"^(\S+)==(\S+)(?: ; (.+?))? \\\n((?:[ ].*\n?)+)", re.MULTILINE)
_VIA = re.compile(r"# +(?:via +)?([a-z0-9][a-z0-9._-]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """One requirement of a lock file."""

    name: str
    version: str
    marker: str | None
    sha256: tuple[str, ...]
    wanted_by: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its package URL, which is its reference, too."""
        return f"pkg:pypi/{self.name}@{self.version}"


def locked(text: str) -> Iterator[Locked]:
    """The requirements of a lock file's text, in its order."""
    for name, version, marker, body in _ENTRY.findall(text):
        comments = [line.strip() for line in body.splitlines() if line.strip().startswith("#")]
        yield Locked(
            name=name,
            version=version,
            marker=marker or None,
            sha256=tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", body)),
            wanted_by=tuple(
                found[1] for line in comments if (found := _VIA.match(line)) and found[1] != "via"
            ),
        )


def licences(one: Locked) -> list[dict[str, Any]]:
    """What the installed package says of itself; nothing where another version is installed."""
    try:
        said = metadata(one.name)
    except PackageNotFoundError:
        return []
    if said["Version"] != one.version:
        return []
    if expression := said.get("License-Expression"):
        return [{"expression": expression}]
    short = (said.get("License") or "").strip()
    return [{"license": {"name": short}}] if short and len(short) < 80 else []


def component(one: Locked, scope: str) -> dict[str, Any]:
    """One package. Any of the digests may be the file that an installer chooses."""
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": one.purl,
        "name": one.name,
        "version": one.version,
        "scope": scope,
        "purl": one.purl,
        "externalReferences": [
            {
                "type": "distribution",
                "url": one.purl,
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in one.sha256],
            }
        ],
    }
    if found := licences(one):
        made["licenses"] = found
    if one.marker is not None:
        made["properties"] = [{"name": "rivet-fleet:marker", "value": one.marker}]
    return made


def bill(root: Path) -> dict[str, Any]:
    """The whole document, from the lock files in ``root``."""
    components: list[dict[str, Any]] = []
    needs: dict[str, set[str]] = {OURS: set()}
    for name, scope in LOCKS.items():
        entries = list(locked((root / name).read_text(encoding="utf-8")))
        purls = {one.name: one.purl for one in entries} | {"rivet-fleet": OURS}
        for one in entries:
            components.append(component(one, scope))
            needs.setdefault(one.purl, set())
            for parent in one.wanted_by:
                needs.setdefault(purls[parent], set()).add(one.purl)
    graph = [{"ref": ref, "dependsOn": sorted(on)} for ref, on in sorted(needs.items())]
    seed = json.dumps([components, graph], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": OURS,
                "name": "rivet-fleet",
                "version": __version__,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "purl": OURS,
            }
        },
        "components": components,
        "dependencies": graph,
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(json.dumps(bill(ROOT), indent=2) + "\n", encoding="utf-8")
