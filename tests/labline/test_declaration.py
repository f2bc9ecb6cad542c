"""How a declaration is read, overridden and refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labline.declaration import as_toml, expand, load_usecase, shipped_names
from labline.errors import BadInput
from labline.usecase import ImageUseCase

USECASES = Path("usecases")
MINIMAL = """
name = "mine"
title = "My parts"
[data]
source = "image-folder"
path = "parts"
image_size = 32
[training]
epochs = 2
"""


@pytest.fixture
def declare(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", shipped_names(USECASES))
def test_every_shipped_declaration_can_be_used(name: str) -> None:
    assert load_usecase(name, USECASES).name == name


def test_what_tuning_wrote_is_no_use_case_of_its_own(tmp_path: Path) -> None:
    for name in ("steel.toml", "steel.tuned.toml", "cifar10.toml"):
        (tmp_path / name).write_text((USECASES / "steel.toml").read_text())
    assert shipped_names(tmp_path) == ["cifar10", "steel"]
    assert load_usecase("steel.tuned", tmp_path).name == "steel"


def test_a_declaration_of_ones_own_needs_little(declare) -> None:
    declaration = load_usecase(str(declare(MINIMAL)), USECASES)
    assert declaration.data.split.train == 0.7
    assert declaration.model.architecture == "cnn"


def test_values_are_overridden_from_the_command_line(declare) -> None:
    assignments = ["training.epochs=9", "model.architecture=resnet", 'augmentation.policy=["flip"]']
    declaration = load_usecase(str(declare(MINIMAL)), USECASES, assignments, data="other.zip")
    assert declaration.training.epochs == 9
    assert declaration.model.architecture == "resnet"
    assert declaration.augmentation.policy == ["flip"]
    assert declaration.data.path == "other.zip"


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("training.epoch=3", ["training.epoch", "unknown key", "did you mean 'epochs'"]),
        ("trainin.epochs=3", ["trainin", "did you mean 'training'"]),
        ("training.epochs=many", ["training.epochs", "integer", "'many'"]),
        ("training.epochs=0", ["training.epochs", "greater than or equal to 1"]),
        ("cleaning.duplicates=dropp", ["cleaning.duplicates", "'dropp'", "did you mean 'drop'"]),
        ("data.split={train=0.5}", ["data.split", "must be 1"]),
        ("gates.acuracy={min=0.9}", ["gates.acuracy", "did you mean 'accuracy'"]),
        ("gates.accuracy={}", ["gates.accuracy", "at least one of min, max and low"]),
        ("gates.accuracy={lo=0.9}", ["gates.accuracy.lo", "did you mean 'low'"]),
        ("gates.bytes={low=9}", ["gates.bytes.low", "no interval"]),
        ("evaluation.corruption={noise=0.1}", ["evaluation.corruption", "did you mean 'corruptions'"]),
        ("evaluation.corruptions={nois=0.1}", ["evaluation.corruptions", "'nois'", "did you mean 'noise'"]),
        ("evaluation.corruptions={noise=0}", ["evaluation.corruptions", "noise must be above 0", "leave it out"]),
        ("evaluation.corruptions={blur=-1}", ["evaluation.corruptions", "blur must be above 0 and at most 8, not -1"]),
        ("evaluation.corruptions={noise=nan}", ["evaluation.corruptions", "noise must be above 0"]),
        ("promotion.margn=0.1", ["promotion.margn", "did you mean 'margin'"]),
        ("promotion.margin=2", ["promotion.margin", "less than or equal to 1"]),
        ("promotion.confidence=1", ["promotion.confidence", "less than 1"]),
        ("serving.canry=0.1", ["serving.canry", "did you mean 'canary'"]),
        ("serving.canary=10", ["serving.canary", "less than or equal to 1"]),
        ("serving.keep=inputs", ["serving.keep", "did you mean 'input'"]),
        ("cleaning.label_issues=relabel", ["cleaning", "relabel_from"]),
        ("name=Not A Name", ["name", "pattern"]),
        ("training", ["--set training", "section.key=value"]),
        ("title.x=1", ["title", "not a section"]),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_was_expected(declare, assignment: str, told: list[str]) -> None:
    path = declare(MINIMAL)
    with pytest.raises(BadInput) as refused:
        load_usecase(str(path), USECASES, [assignment])
    for part in told:
        assert part in str(refused.value)


def test_a_gate_on_a_corruption_needs_that_corruption(declare) -> None:
    gate = "gates.accuracy_blur={min=0.5}"
    declaration = load_usecase(str(declare(MINIMAL)), USECASES, [gate])
    assert declaration.gates["accuracy_blur"].min == 0.5
    with pytest.raises(BadInput, match=r"accuracy_blur: blur is not measured; .* which has noise"):
        load_usecase(str(declare(MINIMAL)), USECASES, [gate, "evaluation.corruptions={noise=0.1}"])


def test_a_darker_image_is_a_corruption_too(declare) -> None:
    declaration = load_usecase(str(declare(MINIMAL)), USECASES, ["evaluation.corruptions={brightness=-0.2}"])
    assert declaration.evaluation.corruptions == {"brightness": -0.2}


def test_the_file_is_named(declare) -> None:
    path = declare(MINIMAL.replace("epochs", "epoch"))
    with pytest.raises(BadInput, match=r"mine\.toml"):
        load_usecase(str(path), USECASES)


def test_broken_toml_is_refused_with_its_line(declare) -> None:
    with pytest.raises(BadInput, match="line 2"):
        load_usecase(str(declare("name = 'x'\ntitle = y\n")), USECASES)


def test_an_unknown_use_case_gets_the_nearest_name() -> None:
    with pytest.raises(BadInput, match="did you mean 'surface'"):
        load_usecase("surfaec", USECASES)


def test_an_unset_variable_in_a_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABLINE_NOWHERE", raising=False)
    with pytest.raises(BadInput, match="LABLINE_NOWHERE is not set"):
        expand("${LABLINE_NOWHERE}/x.zip", "data.path")


@given(
    epochs=st.integers(1, 1000),
    rate=st.floats(1e-6, 1),
    title=st.text(min_size=1),
    policy=st.lists(st.sampled_from(["flip", "crop", "erase"])),
    options=st.dictionaries(st.text(min_size=1), st.one_of(st.integers(-9, 9), st.booleans(), st.text()), max_size=3),
)
def test_what_show_prints_declares_the_same_thing(
    epochs: int, rate: float, title: str, policy: list[str], options: dict[str, object]
) -> None:
    declared = {
        "name": "mine",
        "title": title,
        "data": {"source": "surfaces", "image_size": 32, "options": options},
        "augmentation": {"policy": policy},
        "training": {"epochs": epochs, "learning_rate": rate},
        "gates": {"accuracy": {"min": 0.5}},
    }
    declaration = ImageUseCase.model_validate(declared)
    assert ImageUseCase.model_validate(tomllib.loads(as_toml(declaration))) == declaration
