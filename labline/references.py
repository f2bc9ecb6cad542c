"""What flows between stages: small frozen records that name things by path and content hash.

Never tensors: every record can be stored as JSON, cached by content and read on another machine.
Paths are relative to the storage root.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Reference(BaseModel):
    """A stage's result: where it lies and what it contains.

    `directory` is relative to the storage root; `digest` is a hash of the content that the next
    stage depends on; `figure` is the one number or phrase the closing table shows.
    """

    model_config = ConfigDict(frozen=True)

    directory: str
    digest: str
    figure: str = ""


class DatasetRef(Reference):
    """A dataset on disk (see `labline.data.dataset` and `labline.series.dataset`).

    `samples` are images, or rows of a series; `classes` is 0 where a number is forecast.
    """

    samples: int
    classes: int
    quarantined: int = 0


class AugmentedRef(Reference):
    """A checked augmentation policy: what training will see."""


class TrainedModel(Reference):
    """Trained weights (`model.safetensors` in `directory`), with their validation figures."""

    epochs: int
    metrics: dict[str, float]


class Candidate(BaseModel):
    """One file and what it costs; `metric` is measured on validation, latencies at batch 1 in milliseconds,
    `throughput` in samples per second at batch 64 (of a TensorFlow Lite file, which takes one at a time, at batch 1).

    `name` is its compression; `chosen` says whether it is the one released in its `format`: "onnx" or "tflite".
    """

    model_config = ConfigDict(frozen=True)

    name: str
    metric: float
    bytes: int
    latency_ms_p50: float
    latency_ms_p99: float
    throughput: float
    note: str = ""
    format: str = "onnx"
    chosen: bool = False


class CompressedModel(Reference):
    """All candidates (`<name>.onnx` in `directory`) and the one chosen; `unit` is what their throughput counts."""

    candidates: list[Candidate]
    chosen: str
    reason: str
    unit: str = "images"


class ExportedModel(Reference):
    """The release: `model.onnx` (fp32) and `chosen.onnx` in `directory`, agreeing with PyTorch.

    Where TensorFlow Lite was asked for also `model.tflite` and `chosen.tflite`; `candidates` are its float32 and int8
    files, and `tflite_reason` says why that one was chosen.
    """

    chosen: str
    parity: dict[str, float]
    candidates: list[Candidate] = []
    tflite_reason: str = ""


class EvaluatedModel(Reference):
    """Figures of the chosen model on the test split, with 95 % intervals.

    `rivals` has one record a model that was judged on the same rows, this one first, and `verdict` is what that comes
    to in words; both are empty where there are none.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    rivals: list[dict[str, str | int | float | None]] = []
    verdict: str = ""


class RegisteredVersion(Reference):
    """A version in the MLflow registry."""

    model: str
    version: str
    run_id: str


class GateRow(BaseModel):
    """One gate of a table: the figure seen, the limit declared, whether it holds, and why in plain words."""

    model_config = ConfigDict(frozen=True)

    gate: str
    figure: float
    limit: str
    passed: bool
    note: str = ""


class GateTable(BaseModel):
    """What a version showed for a stage; `champion` is the version in Production it was compared with.

    `digest` is the sha256 of all the rest: the evidence that the ledger cites.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    stage: str
    champion: str | None
    judgements: list[GateRow]
    passed: bool
    digest: str
