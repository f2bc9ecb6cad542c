"""Somebody promotes in MLflow's pages, with a real Chromium: `labline list` and `labline history` obey and say so."""

from __future__ import annotations

from typing import Any

from mlflow import MlflowClient
from outside import labline, needs_chromium, page

from tasks.registry import look, open_registry

pytestmark = needs_chromium


def register_two(name: str, servers: dict[str, str]) -> str:
    """Two versions in no stage; returns the address of their pages, less the number."""
    client = MlflowClient()
    client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version(name, source="nowhere")
    return f"{servers['mlflow']}/#/models/{name}/versions"


def listed(name: str, servers: dict[str, str]) -> dict[str, Any]:
    """What `labline list` says of the model."""
    (row,) = [row for row in labline(servers, "list", "--json").summary["usecases"] if row["usecase"] == name]
    return dict(row)


def shown(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The stage of each version and the aliases, as MLflow has them."""
    client = MlflowClient()
    stages = {str(found.version): found.current_stage for found in client.search_model_versions(f"name = '{name}'")}
    aliases: Any = client.get_registered_model(name).aliases
    return stages, {alias: str(version) for alias, version in aliases.items()}


def test_an_alias_set_in_the_new_pages_is_a_promotion(servers: dict[str, str]) -> None:
    pages = register_two("aliased-by-hand", servers)
    with page() as browser:
        browser.goto(f"{pages}/1")
        browser.get_by_role("button", name="Add", exact=True).first.click()
        dialog = browser.get_by_role("dialog")
        dialog.get_by_role("combobox").fill("production")
        browser.keyboard.press("Enter")
        dialog.get_by_role("button", name="Save aliases").click()
        dialog.wait_for(state="hidden")

    assert listed("aliased-by-hand", servers)["production"] == "1"
    history = labline(servers, "history", "aliased-by-hand", "--json").summary
    assert history["production"] == "1"
    (tenure,) = history["tenures"]
    assert (tenure["version"], tenure["stage"], tenure["end"]) == ("1", "Production", None)
    assert (tenure["action"], tenure["who"]) == ("by hand", "somebody in MLflow")
    assert shown("aliased-by-hand") == ({"1": "Production", "2": "None"}, {"production": "1"}), (
        "the stage follows the alias"
    )


def test_a_stage_set_in_the_old_pages_is_a_promotion(servers: dict[str, str]) -> None:
    pages = register_two("staged-by-hand", servers)
    MlflowClient().set_registered_model_alias("staged-by-hand", "production", "1")
    look(open_registry("staged-by-hand"))
    with page() as browser:
        browser.goto(f"{pages}/2")
        browser.get_by_role("switch", name="New model registry UI").click()
        browser.get_by_role("dialog").get_by_role("button", name="Disable").click()
        browser.locator(".mlflow-stage-transition-dropdown").click()
        browser.get_by_role("menuitem").filter(has_text="Production").click()
        dialog = browser.get_by_role("dialog").filter(has_text="Stage transition")
        dialog.get_by_role("button", name="OK").click()  # the box that archives version 1 is left unticked
        dialog.wait_for(state="hidden")

    history = labline(servers, "history", "staged-by-hand", "--json").summary
    assert (history["production"], history["previous"]) == ("2", "1")
    assert [tenure["action"] for tenure in history["tenures"] if tenure["version"] == "2"] == ["by hand"]
    assert listed("staged-by-hand", servers)["production"] == "2"
    assert shown("staged-by-hand") == ({"1": "Archived", "2": "Production"}, {"production": "2", "previous": "1"})
