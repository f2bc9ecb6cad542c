"""The open inference protocol, version 2, as KServe, Triton and MLServer speak it: `/v2/models/<use case>/infer`.

Tensors come as JSON, or as bytes after the JSON where the header `Inference-Header-Content-Length` says how long that
is (the binary tensor data extension); they go as the client asks. Predictions are recorded as those of `/predict`;
their ids are in the answer's `parameters.prediction_ids`.

Specification: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

Shape legend: N samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from labline.feedback import Role
from labline.packaged_model import PackagedModel, TensorSpec
from serving.batching import output_names
from serving.http import Answer, Request, Unavailable
from serving.image_bodies import pixel_facts
from serving.json_bodies import read_json
from serving.limits import Limits, Refused
from serving.predicting import Asked, Predicting, source
from serving.series_bodies import window_facts
from serving.versions import Served

Tensor = npt.NDArray[Any]

DATATYPES = {"uint8": "UINT8", "float32": "FP32", "float64": "FP64", "int64": "INT64"}
HEADER = b"inference-header-content-length"
BINARY = b"application/octet-stream"
LONGEST_ID = 200
SMALL = 16_384  # bytes of JSON that take less than a millisecond to read
NUMBERS = {int, float}
EXPECTED_INPUT = '"inputs" must be a list of one tensor, {"name", "shape", "datatype", "data"}'


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that was asked for, and whether as bytes."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class Inference:
    """A request as read: the client's own id, the model's input with what is known of it, the outputs wanted."""

    id: str
    inputs: Tensor
    facts: list[dict[str, float]]
    wanted: list[Wanted]


class InferenceProtocol:
    """Answers `infer` for one use case, the only model of the service."""

    def __init__(self, usecase: str, predicting: Predicting, limits: Limits) -> None:
        self.usecase = usecase
        self._predicting = predicting
        self._limits = limits

    async def infer(self, request: Request) -> Answer:
        """`POST /v2/models/<use case>[/versions/<version>]/infer`."""
        served, role = self._chosen(request)
        reading = partial(_read, request, served.model, self._limits)
        read = reading() if len(request.body) <= SMALL else await self._predicting.aside(reading)
        asked = Asked(served, role, read.inputs, read.facts, request.started, source(request))
        remembered, outputs = await self._predicting.ask(asked)
        given = dict(zip(output_names(served.model), outputs, strict=True))
        described, blobs = _outputs(given, read.wanted)
        answer = {
            "model_name": self.usecase,
            "model_version": served.version,
            **({"id": read.id} if read.id else {}),
            "parameters": {"prediction_ids": [each.id for each in remembered]},
            "outputs": described,
        }
        body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        told = self._predicting.answer(asked, remembered, b"".join((body, *blobs)))
        if blobs:
            told.media = BINARY
            told.headers.append((HEADER, b"%d" % len(body)))
        return told

    def served(self, name: str, version: str | None) -> Served:
        """Who answers under a name and a version; without one, Production. Raises Refused (404) for nobody."""
        if name != self.usecase:
            raise Refused(404, f"this service answers for the model {self.usecase!r} alone")
        versions = self._predicting.versions
        standing = [each for each in (versions.production, versions.staging) if each is not None]
        if version is None and not standing:
            raise Unavailable("no version is served yet", retry_after=5)
        for each in standing:
            if version in (None, each.version):
                return each
        raise Refused(404, f"served are the versions {', '.join(each.version for each in standing)}")

    def _chosen(self, request: Request) -> tuple[Served, Role]:
        version = request.parameters.get("version")
        named = self.served(request.parameters["name"], version)
        if version is None:
            return self._predicting.choose()
        return named, self._predicting.versions.role(named)


def metadata(usecase: str, served: Served, versions: list[str]) -> dict[str, Any]:
    """What `GET /v2/models/<use case>` says of a version."""
    model = served.model
    return {
        "name": usecase,
        "versions": versions,
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor(model.input)],
        "outputs": [_tensor(spec) for spec in model.outputs if spec.name in output_names(model)],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES.get(spec.dtype, spec.dtype.upper()), "shape": shape}


def _read(request: Request, model: PackagedModel, limits: Limits) -> Inference:
    """A request's JSON and bytes; raises Refused."""
    head, tail = _split(request, limits)
    identifier = head.get("id", "")
    if not isinstance(identifier, str) or len(identifier) > LONGEST_ID:
        raise Refused(422, f'"id" must be a text of at most {LONGEST_ID} characters')
    wanted = _wanted(head, model)
    inputs = _input(head, tail, model, limits)
    facts = pixel_facts(inputs) if model.kind == "image" else window_facts(inputs, model)
    return Inference(identifier, inputs, facts, wanted)


def _split(request: Request, limits: Limits) -> tuple[dict[str, Any], memoryview]:
    """The JSON of a request, and the bytes behind it."""
    length = request.headers.get(HEADER)
    body = memoryview(request.body)
    if length is None:
        head, tail = request.body, body[:0]
    else:
        if not length.isdigit() or int(length) > len(body):
            raise Refused(422, "Inference-Header-Content-Length must say how many bytes of the body are JSON")
        head, tail = bytes(body[: int(length)]), body[int(length) :]
    if len(head) > limits.max_json:
        raise Refused(413, f"{len(head):,} bytes of JSON; at most {limits.max_json:,} are taken: send tensors as bytes")
    found = read_json(head)
    if not isinstance(found, dict):
        raise Refused(422, 'an object with the key "inputs" was expected')
    return found, tail


def _input(head: dict[str, Any], tail: memoryview, model: PackagedModel, limits: Limits) -> Tensor:
    """The model's input, from JSON or from bytes; a view of the body where it can be."""
    given = head.get("inputs")
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        raise Refused(422, EXPECTED_INPUT)
    (tensor,) = given
    spec = model.input
    datatype = DATATYPES[spec.dtype]
    if tensor.get("name") != spec.name or tensor.get("datatype") != datatype:
        raise Refused(422, f"the input must have the name {spec.name!r} and the datatype {datatype!r}")
    shape = _shape(tensor.get("shape"), spec, limits)
    parameters = tensor.get("parameters", {})
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        array = _from_json(tensor.get("data"), spec.dtype, math.prod(shape))
    else:
        expected = math.prod(shape) * np.dtype(spec.dtype).itemsize
        if type(size) is not int or size != expected or len(tail) != expected:
            raise Refused(422, f"{expected:,} bytes of tensor data were expected after the JSON, got {len(tail):,}")
        array = np.frombuffer(tail, np.dtype(spec.dtype).newbyteorder("<"))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(422, "the input holds numbers that are not finite")
    return array.reshape(shape)


def _shape(given: object, spec: TensorSpec, limits: Limits) -> tuple[int, ...]:
    expected = " x ".join("N" if size is None else str(size) for size in spec.shape)
    if (
        not isinstance(given, list)
        or len(given) != len(spec.shape)
        or not all(type(size) is int for size in given)
        or any(known is not None and size != known for size, known in zip(given, spec.shape, strict=True))
        or given[0] < 1
    ):
        raise Refused(422, f'"shape" must be {expected}, N at least 1')
    if given[0] > limits.max_samples:
        raise Refused(413, f"{given[0]:,} samples were sent; at most {limits.max_samples:,} are taken at once")
    return tuple(given)


def _from_json(data: object, dtype: str, size: int) -> Tensor:
    """Numbers in a flat or nested list, row-major."""
    numbers: list[Any] = data if isinstance(data, list) else []
    # By hand: NumPy makes of one long text among the numbers an array of texts as long as that.
    while set(map(type, numbers)) == {list}:
        numbers = list(chain.from_iterable(numbers))
    fits = len(numbers) == size and set(map(type, numbers)) <= NUMBERS
    if dtype == "uint8" and fits:
        fits = all(number == number and 0 <= number <= 255 and number == int(number) for number in numbers)
    if not fits:
        raise Refused(422, f'"data" must hold {size:,} numbers, as "shape" says, each of them {DATATYPES[dtype]}')
    return np.array(numbers, np.float64).astype(dtype)


def _wanted(head: dict[str, Any], model: PackagedModel) -> list[Wanted]:
    """The outputs asked for; without any, the model's answer."""
    known = output_names(model)
    overall = head.get("parameters")
    binary = isinstance(overall, dict) and overall.get("binary_data_output") is True
    given = head.get("outputs")
    if given is None:
        return [Wanted(model.answer_name, binary)]
    if not isinstance(given, list) or not given or not all(isinstance(each, dict) for each in given):
        raise Refused(422, '"outputs" must be a list of objects, each with a "name"')
    if any(each.get("name") not in known for each in given) or len(given) > len(known):
        raise Refused(422, f'"outputs" may name {" and ".join(known)}, each once')
    asked = []
    for each in given:
        parameters = each.get("parameters")
        own = parameters.get("binary_data") if isinstance(parameters, dict) else None
        asked.append(Wanted(each["name"], binary if own is None else own is True))
    return asked


def _outputs(given: dict[str, Tensor], wanted: list[Wanted]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The outputs as the answer's JSON describes them, and the bytes that follow it."""
    described, blobs = [], []
    for each in wanted:
        tensor = np.ascontiguousarray(given[each.name])
        entry: dict[str, Any] = {
            "name": each.name,
            "shape": list(tensor.shape),
            "datatype": DATATYPES[str(tensor.dtype)],
        }
        if each.binary:
            blobs.append(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = tensor.reshape(-1)
        described.append(entry)
    return described, blobs
