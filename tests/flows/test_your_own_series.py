"""docs/your-own-series.md, word for word, on a table of made-up prices."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from small_runs import invoke

from tests.labline.series.market import make_prices

pytestmark = pytest.mark.usefixtures("servers")

PAGE = (Path(__file__).parents[2] / "docs" / "your-own-series.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader of the page is: the declaration and the table beside each other."""
    monkeypatch.chdir(tmp_path)
    make_prices(700).drop(columns="entity").to_csv("prices.csv", index=False)
    Path("prices.toml").write_text(blocks("toml")[0])
    return tmp_path


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """A declaration with sections of another in place of its own."""
    both = {key: {**first.get(key, {}), **value} for key, value in second.items() if isinstance(value, dict)}
    return {**first, **second, **both}


def declare(folder: Path, name: str, *parts: str, **others: Any) -> str:
    """The first declaration of the page, changed by others of it."""
    declared: dict[str, Any] = tomllib.loads(blocks("toml")[0]) | {"gates": {}}
    for part in parts:
        declared = merged(declared, tomllib.loads(part))
    declared = merged(declared, {"name": name, "export": {"formats": ["onnx"]}, **others})
    (folder / f"{name}.toml").write_text(tomli_w.dumps(declared))
    return f"{name}.toml"


def test_the_first_declaration_checks_and_runs(folder: Path) -> None:
    (console,) = blocks("console")
    check, run = (line.split("#")[0].removeprefix("$ labline").split() for line in console.splitlines())
    assert invoke(*check).code == 0
    ended = invoke(*run, "--set=gates={}", '--set=export.formats=["onnx"]', "--json")
    assert ended.code == 0, ended.err
    assert {"test_qlike", "har_qlike", "garch_qlike", "ewma_qlike"} <= set(ended.summary["metrics"])


def test_the_split_by_days_is_one(folder: Path) -> None:
    ended = invoke("check", declare(folder, "days", blocks("toml")[1]))
    assert ended.code == 0, ended.err


def test_the_direction_is_classified(folder: Path) -> None:
    ended = invoke("run", declare(folder, "directions", blocks("toml")[2], training={"epochs": 2}), "--json")
    assert ended.code == 0, ended.err
    assert "test_accuracy" in ended.summary["metrics"]


def test_ones_own_network_and_reader_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mynet", "myreader"):  # those of another test would be taken
        monkeypatch.delitem(sys.modules, module, raising=False)
    network, reader = blocks("python")
    (folder / "mynet.py").write_text(network)
    (folder / "myreader.py").write_text(reader)
    ended = invoke("run", declare(folder, "ownseries", blocks("toml")[3], training={"epochs": 2}), "--json")
    assert ended.code == 0, ended.err
    assert ended.summary["version"] == "1"


def test_the_csv_of_the_page_has_the_columns_it_declares() -> None:
    header = blocks("csv")[0].splitlines()[0].split(",")
    assert header == list(make_prices(1).drop(columns="entity").columns)
