"""The model card: one page that says what a version is for, what it showed and where it is weak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from labline.evaluation import evaluate, robustness
from labline.gates import Judgement
from labline.markdown import markdown_table
from labline.model_card import model_card
from labline.usecase import ImageUseCase

LABELS = ("crazing", "inclusion", "scratches")
CANDIDATES = pd.DataFrame(
    {
        "name": ["fp32", "int8-static"],
        "metric": [0.991, 0.99],
        "bytes": [640_000, 180_000],
        "latency_ms_p50": [0.42, 0.17],
        "note": ["", ""],
    }
)
PARITY = {"max_abs_difference": 3.1e-6, "decision_agreement": 1.0}
GATES = [Judgement("accuracy", 0.9, "at least 0.85", True), Judgement("latency_ms_p99", 7.0, "at most 5", False)]


def card(
    wrong: int = 10, gates: list[Judgement] | None = None, source: str = "image-folder", corrupted: bool = True
) -> str:
    """The card of a classifier that takes `wrong` of 100 crazing images for scratches, dark ones first."""
    declaration = ImageUseCase.model_validate(
        {
            "name": "steel",
            "title": "Hot-rolled steel strip",
            "data": {"source": source, "path": "neu-steel.zip", "image_size": 64, "channels": 1},
            "training": {"epochs": 3},
        }
    )
    targets = np.repeat([0, 1, 2], 100)
    predicted = targets.copy()
    predicted[:wrong] = 2
    probabilities = np.where(predicted[:, None] == np.arange(3), 0.9, 0.05)
    rows = pd.DataFrame({"mean": np.arange(300.0), "std": 30.0, "width": 200, "source": "neu-steel.zip"})
    evaluation = evaluate(probabilities, targets, LABELS, rows, bootstrap=100)
    if corrupted:  # dark noise: every crazing image is lost
        noisy = np.where(np.arange(3) == np.where(targets == 0, 2, targets)[:, None], 0.9, 0.05)
        beliefs, severities = {"blur": probabilities, "noise": noisy}, {"blur": 0.8, "noise": 0.08}
        evaluation = replace(evaluation, robustness=robustness(beliefs, severities, targets))
    chosen = GATES if gates is None else gates
    return model_card(declaration, evaluation, CANDIDATES, "int8-static", {"train images": 1260}, PARITY, chosen)


def test_it_says_what_the_model_is_for_and_what_it_takes() -> None:
    assert card().startswith("# Model card: steel\n")
    assert "Hot-rolled steel strip. Takes uint8 images of 64 × 64 pixels and 1 channel" in card()
    assert "crazing, inclusion, scratches" in card()
    assert "- train images: 1,260" in card()


def test_sections_stand_in_reading_order() -> None:
    titles = [line[3:] for line in card().splitlines() if line.startswith("## ")]
    assert titles == [
        "Intended use", "Data", "Model", "Metrics", "Classes", "Slices", "Robustness", "Limits", "Compression", "Gates"
    ]  # fmt: skip


def test_limits_name_the_weakest_class_slice_and_commonest_mistake() -> None:
    text = card()
    assert "Weakest class: crazing, recall 0.9" in text
    assert "Weakest slice: brightness 0 to 99, accuracy 0.9" in text
    assert "Most frequent mistake: crazing taken for scratches, 10 of 100." in text


def test_robustness_shows_every_corruption_and_names_the_worst() -> None:
    text = card()
    assert "| noise | 0.08 | 0.6667 | 0.6115 | 0.7176 |" in text
    assert "Weakest under noise of 0.08: accuracy 0.6667 (0.6115 to 0.7176)." in text
    assert "Not measured" in card(corrupted=False)
    assert "Weakest under" not in card(corrupted=False)


def test_a_perfect_score_states_what_it_still_allows() -> None:
    text = card(wrong=0)
    assert "No mistake in 300 samples still allows an error rate up to 1.00%" in text
    assert "Most frequent mistake" not in text


def test_synthetic_data_are_called_so() -> None:
    assert "rendered by a program" in card(source="surfaces")
    assert "rendered by a program" not in card()


def test_compression_and_gates() -> None:
    text = card()
    assert "| int8-static | 0.99 | 180,000 | 0.17 | yes |" in text
    assert "max abs difference 3.1e-06, decision agreement 1" in text
    assert "| latency_ms_p99 | at most 5 | 7 | no |" in text
    assert "None declared" in card(gates=[])
    noted = Judgement("accuracy", 0.9, "interval from 0.85", True, "95 % interval 0.87 to 0.93")
    assert "| accuracy | interval from 0.85 | 0.9 | yes | 95 % interval 0.87 to 0.93 |" in card(gates=[noted])


def test_tables_escape_their_own_marks() -> None:
    table = markdown_table(pd.DataFrame({"name": ["a|b"], "value": [float("nan")]}))
    assert table.splitlines()[-1] == "| a\\|b | – |"
