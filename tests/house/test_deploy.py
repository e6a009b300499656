"""The image, the systemd units and the compose file: checked by their own tools and our rules.

The image is linted, not built: building needs a Docker engine.
"""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rivet_fleet import __version__
from rivet_fleet.coordination.fleet import FleetSettings
from rivet_fleet.errors import ExitCode
from tests.conftest import missing

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
SETTINGS = FleetSettings(spool_root=Path("/spool"))
NEVER_RESTART = {1, 3, 4, 5, 10}
"""What no restart mends: configuration, data integrity, schema drift, incomplete, halted."""

Document = dict[str, Any]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


# ---- image ------------------------------------------------------------------------------


def test_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        missing("hadolint is missing: make .venv/.ready installs it")
    done = run(hadolint, "--failure-threshold", "info", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_dockerfile_keeps_our_rules() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    build, image = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert build == image, "what is compiled here runs there"
    assert image.startswith("python:3.11-slim-bookworm@sha256:")
    assert "\nUSER 10001:10001\n" in text
    assert '\nENTRYPOINT ["tini", "--", "rivet-fleet"]\n' in text
    assert "\nHEALTHCHECK NONE\n" in text
    assert "requirements.lock" in text
    assert not re.search(r"^(ARG|ENV)\b.*(PASSWORD|SECRET|TOKEN|_URL)", text, re.MULTILINE)


def test_everything_the_image_copies_is_let_into_its_context() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = {
        name.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for name in line.split()[:-1]
    }
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n")
    assert "*" in ignore
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert all((REPOSITORY / name).exists() for name in copied)


def test_the_lock_names_every_dependency_with_hashes() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lock = (REPOSITORY / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==\S+.* \\$", lock, re.MULTILINE))
    wanted = {re.split(r"[\[<>=!~; ]", text)[0].lower() for text in project["dependencies"]}
    assert wanted <= locked
    assert lock.count("--hash=sha256:") >= len(locked)


# ---- systemd ----------------------------------------------------------------------------


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "systemd" / name)
    return parser


@pytest.mark.parametrize("mutate", [False, True], ids=["as shipped", "misspelt"])
def test_units_verify(tmp_path: Path, mutate: bool) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; the rules below are checked all the same")
    for source in (DEPLOY / "systemd").iterdir():
        text = source.read_text().replace("/opt/rivet-fleet/bin/rivet-fleet", "/bin/true")
        if mutate:
            text = text.replace("KillMode=", "KilMode=")
        (tmp_path / source.name).write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", *sorted(tmp_path.iterdir()))
    assert (done.returncode == 0 and done.stderr == "") is not mutate, done.stderr


def test_service_keeps_our_rules() -> None:
    service = unit("rivet-fleet@.service")["Service"]
    assert service["ExecStart"].split()[1:] == ["run", "-c", "/etc/rivet-fleet/%i.yaml"]
    assert float(service["TimeoutStopSec"]) >= SETTINGS.drain_grace_s + 10
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "on-failure"
    assert service["OOMPolicy"] == "continue"
    assert {int(v) for v in service["RestartPreventExitStatus"].split()} == NEVER_RESTART
    assert int(service["SuccessExitStatus"]) == ExitCode.STOPPED
    assert service["EnvironmentFile"] == "/etc/rivet-fleet/%i.env"
    assert "@" not in service["Environment"]


def test_the_how_to_tells_what_is_restarted() -> None:
    page = (REPOSITORY / "docs" / "howto" / "systemd.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d[^|]*) \| ([^|]*) \|", page, re.MULTILINE)
    told = {int(code): then for codes, then in rows for code in re.findall(r"\d+", codes)}
    assert set(told) == set(ExitCode)
    assert {code for code, then in told.items() if then.startswith("failed")} == NEVER_RESTART
    assert "not a failure, not restarted" in told[ExitCode.STOPPED]


EXPOSURE_MAX = 1.3
"""What `systemd-analyze security` may say of the service: 10 is a service without a sandbox."""

HARDENED = {
    "AmbientCapabilities": "",
    "CapabilityBoundingSet": "",
    "LimitCORE": "0",
    "LockPersonality": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateMounts": "yes",
    "PrivateTmp": "yes",
    "PrivateUsers": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHome": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProtectSystem": "strict",
    "RemoveIPC": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallErrorNumber": "EPERM",
    "UMask": "0027",
}


def test_service_is_hardened() -> None:
    service = unit("rivet-fleet@.service")["Service"]
    assert {name: service.get(name) for name in HARDENED} == HARDENED
    text = (DEPLOY / "systemd" / "rivet-fleet@.service").read_text()
    filters = re.findall(r"^SystemCallFilter=(.+)$", text, re.MULTILINE)
    assert filters == ["@system-service", "~@privileged @resources"]
    # Who the host is and who holds the state's file is read there, and a source is not here.
    assert "ProcSubset" not in service and "PrivateNetwork" not in service
    writable = set(service["ReadWritePaths"].split())
    assert writable == {"/srv/rivet-fleet", "/etc/rivet-fleet/.rivet_fleet"}


@pytest.mark.parametrize("mutate", [False, True], ids=["as shipped", "directives less"])
def test_the_exposure_is_low(tmp_path: Path, mutate: bool) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed; the directives are checked all the same")
    text = (DEPLOY / "systemd" / "rivet-fleet@.service").read_text()
    if mutate:
        text = re.sub(r"^(SystemCallFilter=~|PrivateUsers=|ProtectProc=).*\n", "", text, flags=re.M)
    (tmp_path / "rivet-fleet@.service").write_text(text)
    threshold = f"--threshold={round(EXPOSURE_MAX * 10)}"
    file = tmp_path / "rivet-fleet@.service"
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", threshold, file)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a file")
    assert (done.returncode == 0) is not mutate, done.stdout[-200:] + done.stderr


# ---- compose ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> Document:
    loaded: Document = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
    return loaded


def test_compose_services(compose: Document) -> None:
    services = compose["services"]
    stores = {"s3", "azure", "gcs"}
    assert set(services) == {"state", "source", "mysql", *stores, "toxiproxy", "worker"}
    images = {name: service["image"] for name, service in services.items()}
    assert images["toxiproxy"].startswith("ghcr.io/shopify/toxiproxy:2.12.0@")
    assert images["worker"] == f"rivet-fleet:{__version__}"
    assert all(re.search(r":\d", image) for image in images.values())
    assert services["worker"]["profiles"] == ["worker"]
    assert all(services[name]["profiles"] == ["stores"] for name in stores)
    for name in ("state", "source", "mysql", *stores, "toxiproxy"):
        assert "healthcheck" in services[name]
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])
    grace_s = float(services["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= SETTINGS.drain_grace_s + 10
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for mount in service["volumes"]:
            origin = re.sub(r"\$\{[^}]*:-([^}]*)\}", r"\1", mount).split(":")[0]
            assert origin in compose["volumes"] or origin.startswith("./")


def test_toxiproxy_stands_before_the_composed_servers(compose: Document) -> None:
    proxies = json.loads((DEPLOY / "compose" / "toxiproxy.json").read_text())
    published = {p.rpartition(":")[2] for p in compose["services"]["toxiproxy"]["ports"]}
    assert {proxy["upstream"] for proxy in proxies} == {"state:5432", "source:5432"}
    assert {proxy["listen"].rpartition(":")[2] for proxy in proxies} <= published
    version = compose["services"]["toxiproxy"]["image"].partition("@")[0].rpartition(":")[2]
    modules = (REPOSITORY / "scripts" / "go" / "toxiproxy" / "go.mod").read_text()
    assert f"/toxiproxy/v2 v{version}\n" in modules


def test_compose_accepts_the_file() -> None:
    if shutil.which("docker") is None or run("docker", "compose", "version").returncode:
        pytest.skip("docker's compose plugin is not installed")
    file = REPOSITORY / "docker-compose.yaml"
    done = run("docker", "compose", "-f", file, "--profile", "worker", "config", "--quiet")
    assert done.returncode == 0, done.stderr
