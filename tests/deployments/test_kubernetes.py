"""deployments/kubernetes: what the schemas allow, what refers to what, and which rights pods have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from known_variables import known_variables

KUBERNETES = Path("deployments/kubernetes")
VERSION = "1.34"  # of Kubernetes, whose schemas are used
OVERLAYS = ("trial", "managed")
ENDPOINTS = {  # of each program, where it answers to anyone
    "prefect server": {"/api/health", "/api/ready"},
    "mlflow server": {"/health"},
    "labline worker": {"/health"},
    "labline serve": {"/health", "/ready"},
}
Manifest = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """An overlay as kubectl builds it, with secrets made for it."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, which builds overlays without a cluster")
    folder = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(KUBERNETES, folder, ignore=shutil.ignore_patterns("secrets"))
    overlay = folder / "overlays" / request.param
    subprocess.run(["sh", folder / "make_secrets.sh", overlay], check=True)
    built = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Name, pod and its only container of everything that runs."""
    for manifest in of_kind(manifests, "Deployment", "StatefulSet", "Job"):
        pod = manifest["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        yield manifest["metadata"]["name"], pod, container


def names(manifests: list[Manifest], kind: str) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in of_kind(manifests, kind)}


def test_they_are_what_the_schemas_allow(manifests: list[Manifest]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate: make setup").validate
    for manifest in manifests:
        validate(manifest, VERSION, strict=True)


def test_what_pods_refer_to_is_there(manifests: list[Manifest]) -> None:
    for name, pod, container in pods(manifests):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                assert source["configMapRef"]["name"] in names(manifests, "ConfigMap"), name
            else:
                assert source["secretRef"]["name"] in names(manifests, "Secret"), name
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        claimed = {"data"} if name in names(manifests, "StatefulSet") else set()
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes | claimed
        assert pod["spec"]["serviceAccountName"] in names(manifests, "ServiceAccount")


def test_selectors_select_something(manifests: list[Manifest]) -> None:
    labels = [pod["metadata"]["labels"] for _, pod, _ in pods(manifests)]
    selectors = [one["spec"]["selector"] for one in of_kind(manifests, "Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(manifests, "PodDisruptionBudget")]
    policies = [one["spec"]["podSelector"].get("matchLabels", {}) for one in of_kind(manifests, "NetworkPolicy")]
    for selector in selectors + policies:
        assert any(selector.items() <= these.items() for these in labels), selector
    (scaler,) = of_kind(manifests, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] in names(manifests, "Deployment")


def test_pods_are_restricted_and_have_limits(manifests: list[Manifest]) -> None:
    for name, pod, container in pods(manifests):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])


def test_probes_ask_what_the_programs_answer(manifests: list[Manifest]) -> None:
    probed = set()
    for _, _, container in pods(manifests):
        program = " ".join(container.get("args", [])[:2])
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "httpGet" in container.get(probe, {}):
                assert container[probe]["httpGet"]["path"] in ENDPOINTS[program]
                probed.add(program)
    assert probed == set(ENDPOINTS)


def test_the_service_answers_at_its_probes() -> None:
    """The others' are asked of running servers in test_production_profile.py."""
    from serving.app import OPEN

    assert ENDPOINTS["labline serve"] <= OPEN


def test_what_trains_has_a_gpu(manifests: list[Manifest]) -> None:
    resources = {name: container["resources"]["limits"] for name, _, container in pods(manifests)}
    managed = "postgres" not in names(manifests, "StatefulSet")
    assert ("nvidia.com/gpu" in resources["worker-gpu"]) is managed
    assert "nvidia.com/gpu" not in resources["worker-cpu"]


def test_every_variable_is_read_by_somebody(manifests: list[Manifest]) -> None:
    given = {name for one in of_kind(manifests, "Secret") for name in one["data"]}
    given |= {name for one in of_kind(manifests, "ConfigMap") for name in one["data"] if "." not in name}
    given |= {entry["name"] for _, _, container in pods(manifests) for entry in container.get("env", [])}
    assert given - known_variables() - {"LABLINE_USECASE"} == set()


def test_no_secret_is_in_the_project_or_in_a_word_of_a_command(manifests: list[Manifest]) -> None:
    assert not list(KUBERNETES.rglob("*.env"))
    assert not any(one["kind"] == "Secret" for path in KUBERNETES.rglob("*.yaml") for one in _loaded(path))
    for _, _, container in pods(manifests):
        words = json.dumps([container.get("args", []), container.get("command", [])])
        assert not re.search(r"\$\([A-Z_]*(PASSWORD|KEY|AUTH|SECRET)", words)


def _loaded(path: Path) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(path.read_text()) if isinstance(one, dict) and "kind" in one]


def test_nobody_talks_to_anybody_unless_it_is_said(manifests: list[Manifest]) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "NetworkPolicy")}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_trial_makes_its_databases_as_compose_does() -> None:
    assert (KUBERNETES / "overlays/trial/databases.sh").read_text() == Path("deployments/databases.sh").read_text()
