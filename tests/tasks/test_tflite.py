"""Releasing TensorFlow Lite: what is refused, and why."""

from __future__ import annotations

import pytest

from labline.errors import BadInput, LablineError
from labline.export.parity import Parity
from labline.usecase import Export
from tasks.tflite import check_parity, require_formats


def seen(**figures: float) -> Parity:
    """What a file showed that agrees with PyTorch, but for `figures`."""
    agreeing = {"max_abs_difference": 1e-5, "decision_agreement": 1.0, "samples": 1000, "near_ties": 0}
    return Parity(**{**agreeing, "unexplained": 0, "largest": 20.0, **figures})  # type: ignore[arg-type]


def test_a_file_that_answers_as_pytorch_does_passes() -> None:
    check_parity(seen())
    check_parity(seen(decision_agreement=0.999, near_ties=1))
    check_parity(seen(max_abs_difference=0.05, largest=1000.0))  # float32 is no finer at that size


@pytest.mark.parametrize(
    "figures", [{"unexplained": 1}, {"max_abs_difference": 3e-3}, {"max_abs_difference": 2e-4, "largest": 0.5}]
)
def test_a_file_that_answers_otherwise_is_refused_with_what_was_seen(figures: dict[str, float]) -> None:
    with pytest.raises(
        LablineError, match="model.tflite and PyTorch decide differently on . of 1000 images"
    ) as refused:
        check_parity(seen(**figures))

    assert refused.value.exit_code == 1


def test_a_format_without_its_packages_is_refused_before_anything_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labline.export.tflite_runtime.find_spec", lambda name: None)

    require_formats(Export(formats=["onnx"]))
    with pytest.raises(BadInput, match="needs ai-edge-litert, ai-edge-quantizer, litert-torch.*make setup") as refused:
        require_formats(Export(formats=["onnx", "tflite"]))
    assert refused.value.exit_code == 2
