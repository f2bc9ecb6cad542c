"""A registered version as it is run: the ONNX file, its signature and its labels, and nothing pickled.

Shape legend: N samples, H height, W width, C channels, K classes, T rows of a window, F features, D embedding.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
import yaml  # type: ignore[import-untyped]

from labline.errors import BadInput, LablineError
from labline.export.onnx_runtime import CPU, INPUT, OUTPUTS, session
from labline.export.onnx_runtime import EMBEDDING as EMBEDDING

Tensor = npt.NDArray[Any]

Kind = Literal["image", "series"]

PROBABILITIES = "probabilities"
WINDOWS, FORECAST = "windows", "forecast"
DIRECTIONS = ("not higher", "higher")  # the classes 0 and 1 of features.target = "direction"
INPUTS: dict[str, Kind] = {INPUT: "image", WINDOWS: "series"}
OUTPUTS_OF: dict[Kind, tuple[str, ...]] = {"image": OUTPUTS, "series": (FORECAST,)}
GPU = "CUDAExecutionProvider"
ELEMENT_TYPES = {"float": "float32", "double": "float64"}  # where ONNX Runtime's names are not NumPy's


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a signature; None in `shape` stands for any size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.name}: {_spelled(self.dtype, self.shape)}"

    def mismatch(self, tensor: object) -> str | None:
        """What is wrong with a tensor, in words that name what was expected; None where it fits."""
        if not isinstance(tensor, np.ndarray):
            return f"{self.name} must be a NumPy array {_spelled(self.dtype, self.shape)}, not {type(tensor).__name__}"
        if str(tensor.dtype) == self.dtype and _fits(tensor.shape, self.shape):
            return None
        return f"{self}, was expected, got {_spelled(str(tensor.dtype), tensor.shape)}"


@dataclass(frozen=True)
class PackagedModel:
    """A loaded version: the ONNX Runtime session, what it takes and gives, and what it tells apart.

    An "image" model takes raw pixels and tells K classes apart, whose names are `labels`. A "series" model takes
    windows of raw features and gives a forecast by its `head` (see `labline.series.forecaster.Forecaster.forward`):
    "classes" gives logits of `labels`, the others a forecast in the target's unit and have no labels. The head of an
    image model is "classes". Safe to call from several threads at once.
    """

    folder: Path
    session: onnxruntime.InferenceSession
    kind: Kind
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    head: str

    @property
    def answer_name(self) -> str:
        """The output that `predict` gives: probabilities of images, the forecast of windows."""
        return PROBABILITIES if self.kind == "image" else FORECAST

    @property
    def has_embedding(self) -> bool:
        """Whether the output `embedding`, float32 N x D, can be asked for: what the network's last layer saw."""
        return any(spec.name == EMBEDDING for spec in self.outputs)

    def predict(self, samples: Tensor) -> npt.NDArray[np.float32]:
        """Probabilities of raw images, float32 N x K in the order of `labels`, or forecasts of windows, N x outputs.

        `samples` are as the signature has them: uint8 N x H x W x C, or float32 N x T x F; N may be 0.
        Raises BadInput where dtype, rank or size differ from the signature, LablineError where the model fails.
        """
        (answers,) = self.answer(samples, (self.answer_name,))
        return answers

    def answer(self, samples: Tensor, names: tuple[str, ...]) -> list[Tensor]:
        """The named outputs for a batch of samples; raises as `predict` does."""
        if problem := self.input.mismatch(samples):
            inside = "preprocessing is" if self.kind == "image" else "scalers are"
            raw = "pixels" if self.kind == "image" else "features"
            raise BadInput(f"{problem}. Send the raw {raw}: the {inside} inside the model.")
        try:
            answers: list[Tensor] = self.session.run(list(names), {self.input.name: samples})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise LablineError(f"{self.folder}: the model failed on {len(samples)} samples: {error}") from error
        return answers


def open_model(folder: Path, threads: int = 1) -> PackagedModel:
    """Load the version in an MLflow model folder, to run on a GPU where ONNX Runtime finds one, else on the CPU.

    `threads` are those of the CPU. Reads `MLmodel`, the ONNX file that it names and what names its answers: the labels
    in `extra_files/evaluation.json` of an image model, the declaration `extra_files/usecase.toml` of a forecaster.
    Raises BadInput where the folder is no MLflow model, and LablineError where it holds a version that cannot be
    served: a file is missing or broken, or graph, signature and labels disagree.
    """
    description = _description(folder)
    inputs, outputs = (_specs(folder, description, side) for side in ("inputs", "outputs"))
    kind = _kind(folder, inputs, outputs)
    path = _graph_file(folder, description)
    try:
        graph = session(path, threads, _providers())
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise LablineError(
            f"{path} cannot be loaded: {error} Either the file is damaged, or it needs a newer onnxruntime than "
            f"{onnxruntime.__version__}. Fetch the version again, or register it anew."
        ) from error
    _check_graph(path, "input", graph.get_inputs(), inputs)
    _check_graph(path, "output", graph.get_outputs(), outputs)
    head = "classes" if kind == "image" else _head(folder)
    return PackagedModel(folder, graph, kind, inputs[0], outputs, _labels(folder, kind, head, outputs), head)


def _kind(folder: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Kind:
    names = {spec.name for spec in outputs}
    if len(inputs) == 1 and (kind := INPUTS.get(inputs[0].name)) and names.issuperset(OUTPUTS_OF[kind]):
        return kind
    raise LablineError(
        f"{folder / 'MLmodel'}: a signature with the input {INPUT} and the outputs {' and '.join(OUTPUTS)}, or with "
        f"the input {WINDOWS} and the output {FORECAST}, was expected, got {_listed(inputs)} to {_listed(outputs)}. "
        "Register the version with labline run."
    )


def _providers() -> list[str]:
    """A GPU first, where this build of ONNX Runtime knows of one; what it cannot run there runs on the CPU."""
    return [name for name in (GPU, CPU) if name in onnxruntime.get_available_providers()]


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "MLmodel"
    if not path.is_file():
        raise BadInput(f"{folder}: the folder of a registered version was expected, with the file MLmodel in it")
    try:
        found = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise LablineError(f"{path} is not YAML: {error}. Fetch the version again, or register it anew.") from error
    return found if isinstance(found, dict) else {}


def _specs(folder: Path, description: dict[str, Any], side: str) -> tuple[TensorSpec, ...]:
    """One side of the signature: MLflow keeps it as JSON within the YAML."""
    try:
        columns = json.loads(description["signature"][side])
        return tuple(
            TensorSpec(
                column["name"],
                column["tensor-spec"]["dtype"],
                tuple(None if size == -1 else size for size in column["tensor-spec"]["shape"]),
            )
            for column in columns
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LablineError(
            f"{folder / 'MLmodel'}: signature.{side} must list named tensors with dtype and shape, as MLflow writes "
            f"them for an ONNX model ({type(error).__name__}: {error}). Register the version with labline run."
        ) from error


def _graph_file(folder: Path, description: dict[str, Any]) -> Path:
    """The ONNX file that MLmodel names, which has to lie within the folder."""
    try:
        name = str(description["flavors"]["onnx"]["data"])
    except (KeyError, TypeError):
        raise LablineError(
            f"{folder / 'MLmodel'} has no flavors.onnx.data: only ONNX models are served. Register with labline run."
        ) from None
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise LablineError(
            f"{folder / 'MLmodel'} names {name!r} as its ONNX file, and there is no such file in the folder. "
            "Fetch the version again, or register it anew."
        )
    return path


def _check_graph(path: Path, side: str, tensors: list[Any], specs: tuple[TensorSpec, ...]) -> None:
    """Hold what the graph declares against the signature; a size the graph leaves open fits any."""
    declared = {tensor.name: tensor for tensor in tensors}
    for spec in specs:
        tensor = declared.get(spec.name)
        if tensor is None:
            raise LablineError(f"{path} has no {side} {spec.name!r}, which the signature names: {_mend(path)}")
        element = tensor.type.removeprefix("tensor(").removesuffix(")")
        dtype = ELEMENT_TYPES.get(element, element)
        shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
        if dtype != spec.dtype or not _agree(shape, spec.shape):
            raise LablineError(
                f"{path} has the {side} {spec.name}: {_spelled(dtype, shape)}, and the signature says "
                f"{_spelled(spec.dtype, spec.shape)}: {_mend(path)}"
            )


def _head(folder: Path) -> str:
    """The declared head of a forecaster."""
    path = folder / "extra_files" / "usecase.toml"
    try:
        return str(tomllib.loads(path.read_text(encoding="utf-8"))["model"]["head"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LablineError(
            f"{path}: the head of the forecaster cannot be read ({type(error).__name__}: {error}). A declaration with "
            "model.head, as labline run writes it, was expected: fetch the version again, or register it anew."
        ) from error


def _labels(folder: Path, kind: Kind, head: str, outputs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
    """The names of the classes, one a column of the answer; none where a number is forecast."""
    if head != "classes":
        return ()
    if kind == "series":
        path, labels = folder / "extra_files" / "usecase.toml", list(DIRECTIONS)
    else:
        path, labels = folder / "extra_files" / "evaluation.json", _evaluated_labels(folder)
    name = PROBABILITIES if kind == "image" else FORECAST
    (classes,) = {spec.shape[-1] for spec in outputs if spec.name == name}
    named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not named or len(set(labels)) != len(labels) or len(labels) != classes:
        raise LablineError(
            f"{path}: labels must be {classes} different names, one a class of the signature, "
            f"got {labels!r:.200}. Register the version anew."
        )
    return tuple(labels)


def _evaluated_labels(folder: Path) -> Any:
    path = folder / "extra_files" / "evaluation.json"
    try:
        return json.loads(path.read_bytes())["labels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LablineError(
            f"{path}: the labels cannot be read ({type(error).__name__}: {error}). A JSON object with labels, as "
            "labline run writes it, was expected: fetch the version again, or register it anew."
        ) from error


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(b in (None, a) for a, b in zip(shape, expected, strict=True))


def _agree(graph: tuple[int | None, ...], signature: tuple[int | None, ...]) -> bool:
    """Whether every tensor that the signature allows is one that the graph allows."""
    return len(graph) == len(signature) and all(g in (None, s) for g, s in zip(graph, signature, strict=True))


def _spelled(dtype: str, shape: tuple[int | None, ...]) -> str:
    return f"{dtype} {' x '.join('N' if size is None else str(size) for size in shape) or 'scalar'}"


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, specs)) or "none"


def _mend(path: Path) -> str:
    return f"{path.name} is not the file that was registered. Fetch the version again, or register it anew."
