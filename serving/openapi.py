"""The OpenAPI description, with examples that work: they are made of the version's own input example.

FastAPI describes the routes that it answers; those that are answered beside it are described here.
"""

from __future__ import annotations

import base64
import math
from datetime import date, timedelta
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import labline
from labline.errors import LablineError
from labline.feedback import new_id
from labline.feedback.inputs import to_png
from labline.packaged_model import PackagedModel
from serving.batching import output_names
from serving.check import open_example
from serving.decoding import ENCODED
from serving.inference_protocol import DATATYPES
from serving.series_bodies import declaration_of
from serving.service import Service

Schema = dict[str, Any]

RAW, NPY, ARROW, JSON = (
    "application/octet-stream",
    "application/x-npy",
    "application/vnd.apache.arrow.stream",
    "application/json",
)
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
BINARY: Schema = {"type": "string", "format": "binary"}
REFUSALS = {
    "400": "the request is no HTTP as it should be",
    "401": "the key is missing or wrong",
    "404": "there is no such model or version",
    "408": "the body came too slowly",
    "413": "the body, or what it unpacks to, is too large",
    "415": "the content type is not taken",
    "422": "the content is not what the content type or the model calls for",
    "503": "not now: no version is loaded, or there is too much to do; Retry-After says when to come again",
}


def document(application: FastAPI, service: Service) -> Schema:
    """The description of the service with the version that stands in Production now."""
    served = service.versions.production
    described = get_openapi(
        title=f"labline: {service.settings.usecase}",
        version=labline.__version__,
        description=(served.title if served else "") or "One declared model, as it stands in Production.",
        routes=application.routes,
    )
    model = served.model if served else None
    described["paths"] = {
        "/predict": {"post": _predict(model)},
        "/feedback": {"post": _feedback(model, new_id(service.key))},
        f"/v2/models/{service.settings.usecase}/infer": {"post": _infer(model)},
        **described["paths"],
    }
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = _object({"error": TEXT}, ["error"])
    for methods in described["paths"].values():
        for operation in methods.values():
            _drop_validation(operation)
    if service.guard.asks:
        described["components"]["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        described["security"] = [{"key": []}, {"bearer": []}]
    return described


def _predict(model: PackagedModel | None) -> Schema:
    return {
        "tags": ["predict"],
        "summary": "What is in the image, or what comes next in the series",
        "description": "One sample or many; raw pixels (application/octet-stream) are the fastest way in.",
        "parameters": [
            {
                "name": "X-Source",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 200, "pattern": "^[ -~]*$"},
                "description": "your own reference; it is kept with the prediction",
            }
        ],
        "requestBody": {"required": True, "content": _bodies(model)},
        "responses": {
            "200": _answer("the prediction, and the version that made it", _prediction_schema(model)),
            **_refusals("400", "401", "408", "413", "415", "422", "503"),
        },
    }


def _bodies(model: PackagedModel | None) -> Schema:
    if model is None:
        return {JSON: {"schema": {"type": "object"}}}
    if model.kind == "series":
        rows = _object({"rows": {"type": "array", "items": {"type": "object"}, "minItems": 1}}, ["rows"])
        return {
            JSON: {"schema": rows, "example": {"rows": _rows(model)}},
            NPY: {"schema": BINARY},
            ARROW: {"schema": BINARY},
        }
    encoded = _object({"b64": {"type": "string", "format": "byte", "description": "an encoded image"}}, ["b64"])
    nested: Schema = {"type": "array", "items": {}}
    instances = _object(
        {"instances": {"type": "array", "items": {"anyOf": [encoded, nested]}, "minItems": 1}}, ["instances"]
    )
    return {
        JSON: {"schema": instances, "example": {"instances": [{"b64": _png(model)}]}},
        **{media: {"schema": BINARY} for media in ENCODED},
        RAW: {"schema": BINARY},
        NPY: {"schema": BINARY},
        ARROW: {"schema": BINARY},
    }


def _prediction_schema(model: PackagedModel | None) -> Schema:
    own: Schema = {"id": TEXT, "recorded": {"type": "boolean", "description": "only where it was not"}}
    if model is not None and not model.labels:
        forecast = {"mean": NUMBER, "deviation": NUMBER, "quantiles": {"type": "object"}}
        own["forecast"] = _object(forecast, ["mean"])
        needed = ["id", "forecast"]
    else:
        probabilities = {"type": "object", "additionalProperties": NUMBER}
        own |= {"label": TEXT, "confidence": NUMBER, "probabilities": probabilities}
        needed = ["id", "label", "confidence", "probabilities"]
    one = _object({**own, "version": TEXT}, [*needed, "version"])
    many = _object(
        {"version": TEXT, "predictions": {"type": "array", "items": _object(own, needed)}}, ["version", "predictions"]
    )
    return {"oneOf": [one, many]}


def _feedback(model: PackagedModel | None, identifier: str) -> Schema:
    label: Schema = TEXT if model is None or model.labels else NUMBER
    text: Schema = {"type": "string", "minLength": 1, "maxLength": 200}
    moment = {"oneOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}]}
    one = _object({"id": TEXT, "label": label, "source": text, "at": moment, "label_id": text}, ["id", "label"])
    one["additionalProperties"] = False
    example = {"id": identifier, "label": model.labels[0] if model and model.labels else 0.0, "source": "operator"}
    error = _object({"index": {"type": "integer"}, "status": {"type": "integer"}, "error": TEXT}, ["index", "error"])
    accepted = _object({"accepted": {"type": "integer"}, "errors": {"type": "array", "items": error}}, ["accepted"])
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": 1000}
    refused = _refusals("400", "401", "404", "408", "413", "415", "503")
    return {
        "tags": ["feedback"],
        "summary": "What turned out to be true of a prediction",
        "description": "Late, repeated and contradicting labels are all kept; the latest by `at` counts. "
        "Send `label_id` to be able to send the same label twice.",
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": {"oneOf": [one, several]}, "example": example}},
        },
        "responses": {
            "200": _answer("all labels are kept, whatever happens now", accepted),
            "207": _answer("some labels are kept, and why others are not", accepted),
            "422": _answer(
                "no label is kept, and why", {"anyOf": [accepted, {"$ref": "#/components/schemas/Problem"}]}
            ),
            **refused,
        },
    }


def _infer(model: PackagedModel | None) -> Schema:
    tensor = _object(
        {
            "name": TEXT,
            "shape": {"type": "array", "items": {"type": "integer"}},
            "datatype": TEXT,
            "data": {"type": "array", "items": {}},
            "parameters": {"type": "object"},
        },
        ["name", "shape", "datatype"],
    )
    tensors: Schema = {"type": "array", "items": tensor, "minItems": 1}
    body = _object(
        {"id": TEXT, "inputs": tensors, "outputs": {"type": "array", "items": {"type": "object"}}}, ["inputs"]
    )
    answer = _object(
        {
            "model_name": TEXT,
            "model_version": TEXT,
            "id": TEXT,
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": tensor},
        },
        ["model_name", "model_version", "outputs"],
    )
    content: Schema = {JSON: {"schema": body}}
    if model is not None and (example := _tensor_example(model)):
        content[JSON]["example"] = example
    return {
        "tags": ["open inference protocol"],
        "summary": "Inference as KServe, Triton and MLServer clients ask for it",
        "description": "Also at /v2/models/{name}/versions/{version}/infer, and with tensors as bytes "
        "(Inference-Header-Content-Length).",
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _answer("the outputs", answer),
            **_refusals("400", "401", "404", "408", "413", "415", "422", "503"),
        },
    }


def _tensor_example(model: PackagedModel) -> Schema | None:
    try:
        example = open_example(model.folder, model.input)[:1]
    except LablineError:
        return None
    spec = model.input
    tensor = {"name": spec.name, "shape": list(example.shape), "datatype": DATATYPES[spec.dtype]}
    return {
        "inputs": [{**tensor, "data": example.reshape(-1).tolist()}],
        "outputs": [{"name": output_names(model)[0]}],
    }


def _png(model: PackagedModel) -> str:
    """The version's input example as an encoded image."""
    return base64.b64encode(to_png(open_example(model.folder, model.input)[0])).decode()


def _rows(model: PackagedModel) -> list[Schema]:
    """As many made-up rows as a forecast needs, one a day: a wave that is positive everywhere."""
    from labline.series.latest import rows_needed

    declaration = declaration_of(model.folder)
    columns = declaration.features.columns
    first = date(2026, 1, 1)
    around = {"high": 1.01, "low": 0.99, "open": 0.999}
    return [
        {"timestamp": (first + timedelta(days=i)).isoformat()}
        | {name: round(100 * around.get(name, 1.0) * (1 + 0.02 * math.sin(0.7 * i)), 4) for name in columns}
        for i in range(rows_needed(declaration))
    ]


def _object(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required}


def _answer(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _refusals(*statuses: str) -> Schema:
    return {status: _answer(REFUSALS[status], {"$ref": "#/components/schemas/Problem"}) for status in statuses}


def _drop_validation(operation: Schema) -> None:
    """FastAPI tells of its own 422 for every parameter; none of these parameters can be wrong in that way."""
    told = operation["responses"].get("422", {})
    if "HTTPValidationError" in orjson.dumps(told).decode():
        del operation["responses"]["422"]
