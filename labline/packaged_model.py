"""A registered version as it is run: the ONNX file, its signature and its labels, and nothing pickled.

Shape legend: N samples, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import yaml  # type: ignore[import-untyped]

from labline.errors import BadInput, LablineError
from labline.export.onnx_runtime import INPUT, OUTPUTS, session

Tensor = npt.NDArray[Any]

PROBABILITIES = "probabilities"
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
    """A loaded version: the ONNX Runtime session, what it takes and gives, and the names of its K classes.

    Safe to call from several threads at once.
    """

    folder: Path
    session: onnxruntime.InferenceSession
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]

    def predict(self, images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Probabilities, float32 N x K in the order of `labels`, of raw images as the signature has them; N may be 0.

        Raises BadInput where dtype, rank or size differ from the signature, LablineError where the model fails.
        """
        (probabilities_NK,) = self.answer(images_NHWC, (PROBABILITIES,))
        return probabilities_NK

    def answer(self, images_NHWC: npt.NDArray[np.uint8], names: tuple[str, ...]) -> list[Tensor]:
        """The named outputs for a batch of images; raises as `predict` does."""
        if problem := self.input.mismatch(images_NHWC):
            raise BadInput(f"{problem}. Send the raw pixels: the preprocessing is inside the model.")
        try:
            answers: list[Tensor] = self.session.run(list(names), {INPUT: images_NHWC})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise LablineError(f"{self.folder}: the model failed on {len(images_NHWC)} images: {error}") from error
        return answers


def open_model(folder: Path, threads: int = 1) -> PackagedModel:
    """Load the version in an MLflow model folder, to run on the CPU with the given number of threads.

    Reads `MLmodel`, the ONNX file that it names and the labels in `extra_files/evaluation.json`.
    Raises BadInput where the folder is no MLflow model, and LablineError where it holds a version that cannot be
    served: a file is missing or broken, or graph, signature and labels disagree.
    """
    description = _description(folder)
    inputs, outputs = (_specs(folder, description, side) for side in ("inputs", "outputs"))
    names = {spec.name for spec in outputs}
    if [spec.name for spec in inputs] != [INPUT] or not names.issuperset(OUTPUTS):
        raise LablineError(
            f"{folder / 'MLmodel'}: a signature with the input {INPUT} and the outputs {' and '.join(OUTPUTS)} was "
            f"expected, got {_listed(inputs)} to {_listed(outputs)}. Register the version with labline run."
        )
    path = _graph_file(folder, description)
    try:
        graph = session(path, threads)
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise LablineError(
            f"{path} cannot be loaded: {error} Either the file is damaged, or it needs a newer onnxruntime than "
            f"{onnxruntime.__version__}. Fetch the version again, or register it anew."
        ) from error
    _check_graph(path, "input", graph.get_inputs(), inputs)
    _check_graph(path, "output", graph.get_outputs(), outputs)
    (probabilities,) = (spec for spec in outputs if spec.name == PROBABILITIES)
    return PackagedModel(folder, graph, inputs[0], outputs, _labels(folder, probabilities))


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


def _labels(folder: Path, probabilities: TensorSpec) -> tuple[str, ...]:
    path = folder / "extra_files" / "evaluation.json"
    try:
        labels = json.loads(path.read_bytes())["labels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LablineError(
            f"{path}: the labels cannot be read ({type(error).__name__}: {error}). A JSON object with labels, as "
            "labline run writes it, was expected: fetch the version again, or register it anew."
        ) from error
    named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not named or len(set(labels)) != len(labels) or len(labels) != probabilities.shape[-1]:
        raise LablineError(
            f"{path}: labels must be {probabilities.shape[-1]} different names, one a class of the signature, "
            f"got {labels!r:.200}. Register the version anew."
        )
    return tuple(labels)


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
