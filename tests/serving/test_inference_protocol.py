"""The open inference protocol: tensors as JSON and as bytes, either way, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from running_service import RAW, Running, prepare, running, write_classifier, write_forecaster
from small_versions import expected

HEADER = "inference-header-content-length"
IMAGES = np.stack([np.full((8, 8, 1), value, np.uint8) for value in (200, 20)])
TENSOR = {"name": "images", "shape": [2, 8, 8, 1], "datatype": "UINT8"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("service")
    one, two = write_classifier(root / "one", 0.05), write_classifier(root / "two", -0.05)
    with running(prepare(root, production=one, staging=two)) as found:
        yield found


def infer(
    service: Running, document: object, tail: bytes = b"", path: str = "/v2/models/parts/infer"
) -> httpx.Response:
    head = json.dumps(document).encode()
    return service.post(path, head + tail, RAW, **({HEADER: str(len(head))} if tail else {}))


@pytest.mark.parametrize("data", [IMAGES.tolist(), IMAGES.reshape(-1).tolist()], ids=["nested", "flat"])
def test_tensors_as_json(service: Running, data: list[Any]) -> None:
    answer = infer(service, {"id": "mine", "inputs": [{**TENSOR, "data": data}]}).json()

    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("parts", "1", "mine")
    (output,) = answer["outputs"]
    assert (output["name"], output["shape"], output["datatype"]) == ("probabilities", [2, 2], "FP32")
    assert output["data"][1] == pytest.approx(expected(0.05), rel=1e-5)
    ids = answer["parameters"]["prediction_ids"]
    assert service.say("/feedback", [{"id": id, "label": "bright"} for id in ids]).json() == {"accepted": 2}
    service.stored(2)


def test_tensors_as_bytes_both_ways(service: Running) -> None:
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    tensor = {**TENSOR, "parameters": {"binary_data_size": IMAGES.nbytes}}

    answer = infer(service, {"inputs": [tensor], "outputs": wanted}, IMAGES.tobytes())

    length = int(answer.headers[HEADER])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 16}
    probabilities_NK = np.frombuffer(answer.content[length:], "<f4").reshape(output["shape"])
    assert probabilities_NK[0, 1] == pytest.approx(expected(0.05), rel=1e-5)
    assert probabilities_NK[1, 0] > 0.99


def test_a_version_can_be_asked_for_by_its_number(service: Running) -> None:
    for version, label in (("1", 1), ("2", 0)):
        document = {"inputs": [{**TENSOR, "data": IMAGES.tolist()}], "parameters": {"binary_data_output": True}}
        answer = infer(service, document, path=f"/v2/models/parts/versions/{version}/infer")
        length = int(answer.headers[HEADER])
        assert json.loads(answer.content[:length])["model_version"] == version
        assert np.frombuffer(answer.content[length:], "<f4").reshape(2, 2)[0].argmax() == label


def test_metadata(service: Running) -> None:
    model = service.client.get("/v2/models/parts").json()

    assert (model["name"], model["versions"], model["platform"]) == ("parts", ["1", "2"], "onnxruntime_onnx")
    assert model["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]
    assert model["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}]
    assert service.client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert service.client.get("/v2/models/parts/ready").status_code == 200
    assert service.client.get("/v2/models/parts/versions/2/ready").status_code == 200
    for nobody in ("/v2/models/other", "/v2/models/parts/versions/3", "/v2/models/other/ready"):
        assert service.client.get(nobody).status_code == 404


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/parts/versions/3/infer"])
def test_nobody_answers_under_another_name(service: Running, path: str) -> None:
    assert infer(service, {"inputs": [{**TENSOR, "data": IMAGES.tolist()}]}, path=path).status_code == 404


@pytest.mark.parametrize(
    ("change", "tail"),
    [
        ({"name": "pixels"}, b""),
        ({"datatype": "FP32"}, b""),
        ({"shape": [2, 8, 8, 3]}, b""),
        ({"shape": [2, 64]}, b""),
        ({"shape": [0, 8, 8, 1], "data": []}, b""),
        ({"shape": [-2, 8, 8, 1]}, b""),
        ({"shape": [2.0, 8, 8, 1]}, b""),
        ({"shape": "2"}, b""),
        ({"data": [1, 2, 3]}, b""),
        ({"data": [256] * 128}, b""),
        ({"data": [-1] * 128}, b""),
        ({"data": [0.5] * 128}, b""),
        ({"data": [True] * 128}, b""),
        ({"data": ["1"] * 128}, b""),
        ({"data": [None] * 128}, b""),
        ({"data": [10**30] * 128}, b""),
        ({"data": [[1], 2]}, b""),
        ({"data": None}, b""),
        ({"parameters": {"binary_data_size": 128}}, b"short"),
        ({"parameters": {"binary_data_size": 5}}, b"short"),
        ({"parameters": {"binary_data_size": "128"}}, bytes(128)),
        ({"parameters": {"binary_data_size": -1}}, bytes(128)),
        ({"parameters": {"binary_data_size": 129}}, bytes(129)),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(service: Running, change: dict[str, Any], tail: bytes) -> None:
    answer = infer(service, {"inputs": [{**TENSOR, "data": IMAGES.tolist(), **change}]}, tail)

    assert (answer.status_code, bool(answer.json()["error"])) == (422, True), answer.text


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"inputs": []},
        {"inputs": [7]},
        {"inputs": [TENSOR, TENSOR]},
        {"inputs": [{**TENSOR, "data": IMAGES.tolist()}], "outputs": [{"name": "logits"}]},
        {"inputs": [{**TENSOR, "data": IMAGES.tolist()}], "outputs": [{"name": "probabilities"}] * 2},
        {"inputs": [{**TENSOR, "data": IMAGES.tolist()}], "outputs": [{}]},
        {"inputs": [{**TENSOR, "data": IMAGES.tolist()}], "outputs": "all"},
        {"inputs": [{**TENSOR, "data": IMAGES.tolist()}], "id": 7},
    ],
)
def test_a_request_that_is_none_is_refused(service: Running, document: object) -> None:
    assert infer(service, document).status_code == 422


def test_too_many_samples_and_a_wrong_header_are_refused(service: Running) -> None:
    assert infer(service, {"inputs": [{**TENSOR, "shape": [5000, 8, 8, 1], "data": []}]}).status_code == 413
    for length in ("x", "-1", "1000000"):
        assert service.post("/v2/models/parts/infer", b"{}", RAW, **{HEADER: length}).status_code == 422


def test_windows_of_a_series_are_float32(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("series")
    point = write_forecaster(root / "one").joinpath("extra_files", "usecase.toml")
    point.write_text(point.read_text().replace('head = "gaussian"', 'head = "point"'))
    tensor = {"name": "windows", "shape": [1, 20, 2], "datatype": "FP32"}
    with running(prepare(root, production=root / "one")) as service:
        said = infer(service, {"inputs": [{**tensor, "data": [0.25] * 40}]}).json()
        not_finite = np.full(40, np.nan, "<f4").tobytes()
        sized = {**tensor, "parameters": {"binary_data_size": len(not_finite)}}

        assert said["outputs"][0]["data"] == [0.25]
        assert infer(service, {"inputs": [sized]}, not_finite).status_code == 422
        assert infer(service, {"inputs": [{**tensor, "data": [1e300] * 40}]}).status_code == 422
