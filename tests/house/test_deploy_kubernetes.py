"""deploy/kubernetes, rendered by kustomize: the API's own schema, strictly, and our rules.

Every rule of ours is proven by breaking it: a rule that accepts the broken version is no rule.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from rivet_fleet import __version__
from rivet_fleet.coordination.fleet import FleetSettings
from rivet_fleet.errors import ConfigError, ExitCode
from rivet_fleet.execution import registry
from rivet_fleet.planning.config.load import Installed, load_config
from rivet_fleet.planning.config.loaded import LoadedConfig
from tests.conftest import missing

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
VERSIONS = ("1.31", kubernetes_validate.latest_version())
SETTINGS = FleetSettings(spool_root=Path("/spool"))
POD_FAILURE_ACTION = {
    ExitCode.GENERIC: "FailJob",
    ExitCode.RETRYABLE: "Count",
    ExitCode.DATA_INTEGRITY: "FailJob",
    ExitCode.SCHEMA_DRIFT: "FailJob",
    ExitCode.INCOMPLETE: "FailJob",
    ExitCode.STOPPED: "Ignore",
    ExitCode.RECYCLE: "Ignore",
    ExitCode.HUNG: "Count",
    ExitCode.UNFIT: "Count",
    ExitCode.HALTED: "FailJob",
}

Document = dict[str, Any]


def kustomize(folder: Path) -> list[Document]:
    """Every document of a kustomization, by whichever kustomize this machine has."""
    pinned = REPOSITORY / ".tools" / "bin" / "kustomize"
    candidates: list[list[str | Path]] = [
        [kubectl, "kustomize"] for kubectl in [shutil.which("kubectl")] if kubectl
    ]
    if pinned.exists():
        candidates.insert(0, [pinned, "build"])
    if not candidates:
        missing("kustomize is missing: run scripts/install-tools, or install kubectl")
    command = [str(part) for part in [*candidates[0], folder]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def rendered() -> list[Document]:
    return kustomize(KUBERNETES / "overlays" / "example")


def jobs(documents: list[Document]) -> Iterator[Document]:
    return (document for document in documents if document["kind"] == "Job")


def worker(documents: list[Document]) -> Document:
    return next(job for job in jobs(documents) if "-worker-" in job["metadata"]["name"])


def pod(job: Document) -> Document:
    spec: Document = job["spec"]["template"]["spec"]
    return spec


def container(job: Document) -> Document:
    (only,) = pod(job)["containers"]
    return only  # type: ignore[no-any-return]


PLACEHOLDER = "YOUR-TEAM"
"""A namespace that is none: whoever copies the example has to choose one."""
BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity_bytes(text: str) -> int:
    return int(text[:-2]) * BYTES[text[-2:]]


def failure_actions(job: Document) -> dict[int, list[str]]:
    """Exit code → the actions of every rule that names it."""
    actions: dict[int, list[str]] = {}
    for rule in job["spec"].get("podFailurePolicy", {}).get("rules", []):
        for value in rule.get("onExitCodes", {}).get("values", []):
            actions.setdefault(value, []).append(rule["action"])
    return actions


def violations(documents: list[Document]) -> set[str]:
    """The names of our own rules that these documents break."""
    found: set[str] = set()
    for document in documents:
        if document["kind"] == "Secret":
            found.add("secret values in the tree")
    if not any(d["kind"] == "PersistentVolumeClaim" for d in documents):
        found.add("output claim")
    for job in jobs(documents):
        found |= job_violations(job) | pod_violations(job) | container_violations(job)
    return found


def job_violations(job: Document) -> set[str]:
    spec = job["spec"]
    wanted = {int(code): [action] for code, action in POD_FAILURE_ACTION.items()}
    lists = [r["onExitCodes"]["values"] for r in spec["podFailurePolicy"]["rules"][1:]]
    disrupted = spec["podFailurePolicy"]["rules"][0]
    conditions = disrupted.get("onPodConditions", [{}])
    checks = {
        "every exit code has one action": failure_actions(job) == wanted,
        "exit codes are sorted": all(values == sorted(set(values)) for values in lists),
        "a disruption is ignored, first": disrupted["action"] == "Ignore"
        and conditions[0].get("type") == "DisruptionTarget",
        "swept after it finished": spec.get("ttlSecondsAfterFinished", 0) > 0,
        "work queue": "completions" not in spec or "-submit-" in job["metadata"]["name"],
    }
    return {name for name, holds in checks.items() if not holds}


def pod_violations(job: Document) -> set[str]:
    spec = pod(job)
    security = spec.get("securityContext", {})
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    checks = {
        "never restarted in place": spec.get("restartPolicy") == "Never",
        "grace longer than the drain": spec.get("terminationGracePeriodSeconds", 30)
        >= SETTINGS.drain_grace_s + 10,
        "no service account token": spec.get("automountServiceAccountToken") is False,
        "not root": security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0,
        "seccomp": security.get("seccompProfile") == {"type": "RuntimeDefault"},
        "spool is bounded": "sizeLimit" in volumes["spool"].get("emptyDir", {}),
        "output is a claim": "persistentVolumeClaim" in volumes["output"],
    }
    return {name for name, holds in checks.items() if not holds}


def container_violations(job: Document) -> set[str]:
    one = container(job)
    security = one.get("securityContext", {})
    limits = one["resources"].get("limits", {})
    ceiling = SETTINGS.worker_memory_bytes if "-worker-" in job["metadata"]["name"] else 0
    spool = next(volume for volume in pod(job)["volumes"] if volume["name"] == "spool")
    writable = {mount["mountPath"] for mount in one["volumeMounts"] if not mount.get("readOnly")}
    literal = {variable["name"] for variable in one["env"] if "value" in variable}
    checks = {
        "image is pinned": re.fullmatch(r"[^@]+:\d+\.\d+\.\d+", one["image"]) is not None,
        "image is this version": one["image"].endswith(f":{__version__}"),
        "read-only root": security.get("readOnlyRootFilesystem") is True,
        "no escalation": security.get("allowPrivilegeEscalation") is False,
        "no capabilities": security.get("capabilities") == {"drop": ["ALL"]},
        "memory above the ceiling": quantity_bytes(limits.get("memory", "0Mi")) > ceiling,
        "ephemeral storage above the spool": quantity_bytes(limits.get("ephemeral-storage", "0Mi"))
        > quantity_bytes(spool["emptyDir"].get("sizeLimit", "0Mi")),
        "no literal secret": not any(re.search("URL|PASSWORD|SECRET|TOKEN", n) for n in literal),
        "temporary files go to the spool": {"name": "TMPDIR", "value": "/spool"} in one["env"]
        and writable == {"/spool", "/data"},
    }
    return {name for name, holds in checks.items() if not holds}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_valid_strictly(rendered: list[Document], version: str) -> None:
    assert len(rendered) == 5
    for document in rendered:
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("podFailurePolicy:", "podFailurPolicy:"),
        ("terminationGracePeriodSeconds:", "terminationGracePeriodSecond:"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: yes please"),
    ],
)
def test_a_misspelt_key_or_wrong_type_is_refused(tmp_path: Path, right: str, wrong: str) -> None:
    broken = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, broken)
    job = broken / "base" / "worker-job.yaml"
    assert right in job.read_text()
    job.write_text(job.read_text().replace(right, wrong))
    with pytest.raises(kubernetes_validate.ValidationError):
        for document in kustomize(broken / "overlays" / "example"):
            kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_our_rules_hold(rendered: list[Document]) -> None:
    assert set(POD_FAILURE_ACTION) == set(ExitCode) - {ExitCode.OK}
    assert violations(rendered) == set()


def _literal_secret(job: Document) -> None:
    container(job)["env"][1] = {"name": "RIVET_FLEET_STATE_URL", "value": "postgresql://u:p@h/d"}


def test_the_how_to_tells_the_jobs_actions() -> None:
    page = (REPOSITORY / "docs" / "howto" / "kubernetes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|[^|]*\| (\w+) \|", page, re.MULTILINE)
    told = {int(code): action for codes, action in rows for code in codes.split(", ")}
    assert told == POD_FAILURE_ACTION


def _forget_exit_code(job: Document) -> None:
    job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"].remove(5)


def _repeat_exit_code(job: Document) -> None:
    job["spec"]["podFailurePolicy"]["rules"][3]["onExitCodes"]["values"] = [2, 6, 8]


def _codes_before_disruption(job: Document) -> None:
    rules = job["spec"]["podFailurePolicy"]["rules"]
    rules[0], rules[1] = rules[1], rules[0]
    rules[1]["onExitCodes"] = {"values": []}


def _spool_in_memory_without_limit(job: Document) -> None:
    next(v for v in pod(job)["volumes"] if v["name"] == "spool")["emptyDir"] = {}


MUTANTS: dict[str, Callable[[Document], object]] = {
    "every exit code has one action": _forget_exit_code,
    "exit codes are sorted": lambda job: job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"][
        "values"
    ].reverse(),
    "a disruption is ignored, first": _codes_before_disruption,
    "swept after it finished": lambda job: job["spec"].pop("ttlSecondsAfterFinished"),
    "work queue": lambda job: job["spec"].update(completions=4),
    "never restarted in place": lambda job: pod(job).update(restartPolicy="OnFailure"),
    "grace longer than the drain": lambda job: pod(job).pop("terminationGracePeriodSeconds"),
    "no service account token": lambda job: pod(job).pop("automountServiceAccountToken"),
    "not root": lambda job: pod(job)["securityContext"].update(runAsUser=0),
    "seccomp": lambda job: pod(job)["securityContext"].pop("seccompProfile"),
    "spool is bounded": _spool_in_memory_without_limit,
    "image is pinned": lambda job: container(job).update(image="rivet-fleet:latest"),
    "image is this version": lambda job: container(job).update(image="rivet-fleet:0.0.9"),
    "read-only root": lambda job: container(job)["securityContext"].pop("readOnlyRootFilesystem"),
    "no escalation": lambda job: container(job)["securityContext"].pop("allowPrivilegeEscalation"),
    "no capabilities": lambda job: container(job)["securityContext"].pop("capabilities"),
    "memory above the ceiling": lambda job: container(job)["resources"]["limits"].update(
        memory="512Mi"
    ),
    "ephemeral storage above the spool": lambda job: container(job)["resources"]["limits"].pop(
        "ephemeral-storage"
    ),
    "no literal secret": _literal_secret,
    "temporary files go to the spool": lambda job: container(job)["env"].pop(),
}


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_broken_rule_is_noticed(rendered: list[Document], rule: str) -> None:
    documents = copy.deepcopy(rendered)
    MUTANTS[rule](worker(documents))
    assert rule in violations(documents)


def test_an_exit_code_with_two_actions_is_noticed(rendered: list[Document]) -> None:
    documents = copy.deepcopy(rendered)
    _repeat_exit_code(worker(documents))
    assert "every exit code has one action" in violations(documents)


def test_the_campaign_is_named_in_one_place(tmp_path: Path) -> None:
    copied = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copied)
    overlay = copied / "overlays" / "example" / "kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("shop-2026-01-31", "other-campaign-7"))
    documents = kustomize(copied / "overlays" / "example")
    names = {job["metadata"]["name"] for job in jobs(documents)}
    assert names == {"rivet-fleet-submit-other-campaign-7", "rivet-fleet-worker-other-campaign-7"}
    maps = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
    for job in jobs(documents):
        reference = container(job)["env"][0]["valueFrom"]["configMapKeyRef"]
        assert maps[reference["name"]][reference["key"]] == "other-campaign-7"
        given = " ".join(container(job)["args"])
        assert "--campaign-id $(RIVET_FLEET_CAMPAIGN_ID)" in given


def test_jobs_mount_a_configuration_that_loads(rendered: list[Document], tmp_path: Path) -> None:
    maps = {d["metadata"]["name"]: d["data"] for d in rendered if d["kind"] == "ConfigMap"}
    for job in jobs(rendered):
        volume = next(v for v in pod(job)["volumes"] if v["name"] == "config")
        file = tmp_path / "fleet.yaml"
        example = maps[volume["configMap"]["name"]]["fleet.yaml"]
        assert example.count(PLACEHOLDER) == 1
        variables = {variable["name"] for variable in container(job)["env"]}
        file.write_text(example)
        with pytest.raises(ConfigError, match=r"state\.namespace"):
            loaded_with(file, variables)
        file.write_text(example.replace(PLACEHOLDER, "team-a"))
        loaded = loaded_with(file, variables)
        campaign = loaded.config.campaign
        limit = container(job)["resources"]["limits"]["memory"]
        assert pod(job)["terminationGracePeriodSeconds"] >= campaign.drain_grace_s + 10
        if job is worker(rendered):
            assert quantity_bytes(limit) > campaign.worker_memory_mb * 2**20
        assert_paths_are_mounted(job, yaml.safe_load(file.read_text()))


def test_pods_that_deliver_to_a_bucket_share_no_volume(tmp_path: Path) -> None:
    documents = kustomize(KUBERNETES / "overlays" / "bucket")
    assert {document["kind"] for document in documents} == {"ConfigMap", "Job", "ServiceAccount"}
    maps = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
    for job in jobs(documents):
        assert not [one for one in pod(job)["volumes"] if "persistentVolumeClaim" in one]
        assert "/data" not in {mount["mountPath"] for mount in container(job)["volumeMounts"]}
        assert pod(job)["serviceAccountName"] == "rivet-fleet-delivery"
        volume = next(v for v in pod(job)["volumes"] if v["name"] == "config")
        text = maps[volume["configMap"]["name"]]["fleet.yaml"]
        file = tmp_path / "fleet.yaml"
        file.write_text(text.replace(PLACEHOLDER, "team-a"))
        loaded = loaded_with(file, {one["name"] for one in container(job)["env"]})
        assert {one.destination.type for one in loaded.config.exports} == {"s3"}


def loaded_with(file: Path, variables: set[str]) -> LoadedConfig:
    return load_config(
        file,
        params={},
        environ=dict.fromkeys(variables, "postgresql://reader:word@db.example.com/shop"),
        installed=Installed(
            engines=frozenset({"postgres"}),
            destinations=registry.destination_kinds(),
            formats=frozenset({"parquet"}),
            engine_signals=lambda engine: frozenset(),
            default_ports={"postgres": 5432},
            place_parameters=registry.place_parameters,
        ),
    )


def assert_paths_are_mounted(job: Document, config: Document) -> None:
    mounts = {mount["mountPath"] for mount in container(job)["volumeMounts"]}
    assert config["source"]["url_env"] == "SOURCE_URL"
    assert str(Path(config["source"]["tls"]["ca_file"]).parent) in mounts
    assert "/etc/rivet-fleet" in mounts
    assert all(e["destination"]["path"].startswith("/data/") for e in config["exports"])
