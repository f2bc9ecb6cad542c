"""deployments/compose.yaml: what the specification allows, what its parts refer to, and who runs with which rights."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from known_variables import known_variables
from typer.main import get_command

COMPOSE = Path("deployments/compose.yaml")
OURS = ("prefect", "background", "mlflow", "deploy", "worker-cpu", "worker-training", "worker-gpu", "service")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def test_it_is_what_the_specification_allows(compose: dict[str, Any]) -> None:
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema, which has compose's schema: make setup")
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose | {"services": {"one": {"imagge": "labline"}}}, schema)


def test_every_part_that_is_referred_to_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        assert set(service["networks"]) <= set(compose["networks"])
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (COMPOSE.parent / source).exists() or source.startswith("${"), volume


def test_every_service_waited_for_as_healthy_says_how_it_is(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[name]


def test_nothing_of_ours_runs_as_root_or_writes_to_its_image(compose: dict[str, Any]) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


def test_everything_has_its_limits(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])


def test_ports_are_on_loopback(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_variable_is_read_by_somebody(compose: dict[str, Any]) -> None:
    given = {name for service in compose["services"].values() for name in service.get("environment", {})}
    assert given - known_variables() == set()


def test_every_secret_is_in_the_example_and_has_no_value_there(compose: dict[str, Any]) -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+):\?\}", COMPOSE.read_text()))
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", Path("deployments/.env.example").read_text(), re.MULTILINE))
    assert asked == set(example)
    assert {name for name, value in example.items() if value} == {"MLFLOW_USERNAME", "AWS_ACCESS_KEY_ID"}


def test_no_secret_is_a_word_of_a_command(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        words = json.dumps([service.get("command", []), service.get("entrypoint", [])])
        assert not re.search(r"(?<!\$)\$\{[A-Z_]*(PASSWORD|KEY|AUTH|SECRET)", words)


def test_commands_of_labline_are_ones_that_it_has(compose: dict[str, Any]) -> None:
    from flows.cli import app

    known = get_command(app)
    for service in compose["services"].values():
        program, *words = service.get("command", [""])
        if program == "labline":
            command = known.commands[words[0]]  # type: ignore[attr-defined]
            options = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options
