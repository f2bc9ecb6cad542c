"""The service over real HTTP: what it answers, what it remembers, and what it refuses."""

from __future__ import annotations

import base64
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from malformed import as_arrow, as_npy, encode
from running_service import JSON, NPY, RAW, VOLATILITY, Running, prepare, running, write_classifier, write_forecaster
from small_versions import expected

from labline.feedback import FeedbackStore
from labline.feedback.inputs import is_picture
from serving.assignment import Assigned, Assignment, write_assignment

SIZE = 8
ARROW = "application/vnd.apache.arrow.stream"
BRIGHT = np.full((SIZE, SIZE, 1), 200, np.uint8)
DARK = np.full((SIZE, SIZE, 1), 20, np.uint8)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("service")
    with running(prepare(root, production=write_classifier(root / "one"))) as found:
        yield found


@pytest.fixture(scope="module")
def forecasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("forecasting")
    point = VOLATILITY.replace('head = "gaussian"', 'head = "point"')
    with running(prepare(root, production=write_forecaster(root / "one", point))) as found:
        yield found


def test_an_image_is_answered_the_same_however_it_is_sent(service: Running) -> None:
    png = encode(BRIGHT, "PNG")
    coded = {"instances": [{"b64": base64.b64encode(png).decode()}]}
    for content, media in [
        (BRIGHT.tobytes(), RAW),
        (png, "image/png"),
        (as_npy(BRIGHT), NPY),
        (as_arrow(pa.table({"image": [png]})), ARROW),
        (json.dumps(coded).encode(), JSON),
    ]:
        answer = service.post("/predict", content, media)

        assert answer.status_code == 200, answer.text
        assert answer.headers["x-labline-version"] == "1"
        said = answer.json()
        assert said["version"] == "1"
        one = said["predictions"][0] if "predictions" in said else said
        assert one["label"] == "bright"
        assert one["confidence"] == pytest.approx(expected(0.05), rel=1e-5)
        assert one["probabilities"] == pytest.approx({"dark": 1 - expected(0.05), "bright": expected(0.05)}, abs=1e-5)
        assert "recorded" not in one


def test_a_batch_is_answered_in_its_order_each_with_an_id(service: Running) -> None:
    images = np.stack([BRIGHT, DARK] * 50)

    said = service.post("/predict", images.tobytes(), RAW).json()

    assert [each["label"] for each in said["predictions"]] == ["bright", "dark"] * 50
    assert len({each["id"] for each in said["predictions"]}) == 100


def test_what_was_answered_is_remembered_with_its_input(service: Running) -> None:
    answer = service.post("/predict", DARK.tobytes(), RAW, **{"x-source": "camera 7, part 12"}).json()

    store = FeedbackStore(service.settings.feedback)
    for _ in range(1200):
        if store.known(answer["id"]):
            break
        time.sleep(0.05)
    row = store.window("parts").set_index("id").loc[answer["id"]]
    assert (row["answer"], row["version"], row["role"]) == ("dark", "1", "production")
    assert row["confidence"] == answer["confidence"]
    np.testing.assert_allclose(row["outputs"], list(answer["probabilities"].values()), rtol=1e-6)
    assert (row["mean"], row["std"]) == (20, 0)
    assert 0 < row["latency_ms"] < 10_000
    assert is_picture(store.inputs([answer["id"]])[answer["id"]])


def test_feedback_reaches_its_prediction_and_the_latest_counts(service: Running) -> None:
    answer = service.post("/predict", DARK.tobytes(), RAW).json()
    now = time.time()

    for label, at in [("bright", now), ("dark", now - 60)]:  # the second came later and is of before
        said = service.say("/feedback", {"id": answer["id"], "label": label, "source": "operator", "at": at})
        assert (said.status_code, said.json()) == (200, {"accepted": 1})

    store = FeedbackStore(service.settings.feedback)
    for _ in range(1200):  # the prediction and its labels arrive in files of their own, either first
        if len(labels := store.labels(answer["id"])) == 2 and store.known(answer["id"]):
            break
        time.sleep(0.05)
    assert {label.label for label in labels} == {"bright", "dark"}
    row = store.window("parts").set_index("id").loc[answer["id"]]
    assert (row["label"], row["label_source"]) == ("bright", "operator")


@pytest.mark.parametrize(
    ("wrong", "status", "told"),
    [
        ({"id": "0" * 40}, 404, "names no prediction"),
        ({"id": 7}, 404, "names no prediction"),
        ({"label": "crack"}, 422, "expected one of dark, bright"),
        ({"label": 3}, 422, "must be one of dark, bright"),
        ({"label": None}, 422, "must be one of"),
        ({"source": "x" * 201}, 422, "1 to 200 printable"),
        ({"source": "a\u0000b"}, 422, "printable"),
        ({"label_id": ""}, 422, "1 to 200 printable"),
        ({"at": "yesterday"}, 422, "ISO 8601"),
        ({"at": "2026-01-01T00:00:00"}, 422, "with its offset"),
        ({"at": 1e300}, 422, "not in the future"),
        ({"at": -1}, 422, "seconds since 1970"),
        ({"at": True}, 422, "seconds since 1970"),
        ({"other": 1}, 422, "was expected"),
    ],
)
def test_feedback_that_is_wrong_is_refused_with_the_reason(
    service: Running, wrong: dict[str, Any], status: int, told: str
) -> None:
    answer = service.post("/predict", DARK.tobytes(), RAW).json()

    said = service.say("/feedback", {"id": answer["id"], "label": "dark", **wrong})

    assert (said.status_code, told in said.json()["error"]) == (status, True), said.text


def test_of_a_list_all_right_labels_are_kept_and_the_others_named(service: Running) -> None:
    ids = [service.post("/predict", DARK.tobytes(), RAW).json()["id"] for _ in range(2)]
    right = [{"id": id, "label": "dark", "at": "2026-01-01T12:00:00+01:00"} for id in ids]

    mixed = service.say("/feedback", [right[0], {"id": ids[1], "label": "crack"}, right[1], "nonsense"])
    none = service.say("/feedback", ["nonsense"])
    every = service.say("/feedback", right)

    assert (mixed.status_code, mixed.json()["accepted"]) == (207, 2)
    assert [(error["index"], error["status"]) for error in mixed.json()["errors"]] == [(1, 422), (3, 422)]
    assert (none.status_code, none.json()["accepted"]) == (422, 0)
    assert (every.status_code, every.json()) == (200, {"accepted": 2})
    assert service.say("/feedback", []).status_code == 422
    assert service.say("/feedback", [{}] * 1001).status_code == 413
    assert service.post("/feedback", b"{}", "text/plain").status_code == 415


def test_without_the_key_only_life_signs_and_the_page_are_answered(service: Running) -> None:
    paths = [
        "/predict",
        "/feedback",
        "/model",
        "/metrics",
        "/openapi.json",
        "/v2",
        "/v2/models/parts/infer",
        "/nothing",
    ]
    with httpx.Client(base_url=service.client.base_url) as stranger:
        for path in paths:
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"x-api-key": "wrong"},
                {"authorization": "Basic x"},
            ):
                posted = path in ("/predict", "/feedback") or path.endswith("infer")
                answer = stranger.request("POST" if posted else "GET", path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        for path in ("/health", "/ready", "/v2/health/live", "/v2/health/ready", "/docs", "/docs/swagger-ui.css"):
            assert stranger.get(path).status_code == 200
        key = {"x-api-key": service.settings.key}
        assert stranger.get("/model", headers=key).status_code == 200


def test_the_service_describes_itself(service: Running) -> None:
    model = service.client.get("/model").json()

    assert (model["usecase"], model["title"], model["version"], model["stage"]) == ("parts", "Parts", "1", "production")
    assert model["labels"] == ["dark", "bright"]
    assert model["inputs"] == ["images: uint8 N x 8 x 8 x 1"]
    assert model["refused"] == []
    assert service.client.get("/ready").json() == {"status": "ready", "version": "1"}
    assert service.client.get("/health").json() == {"status": "alive"}


@pytest.mark.parametrize(
    ("method", "path", "content", "media", "status"),
    [
        ("GET", "/predict", b"", RAW, 405),
        ("POST", "/model", b"", RAW, 405),
        ("GET", "/nothing", b"", RAW, 404),
        ("GET", "/docs/../settings.py", b"", RAW, 404),
        ("POST", "/predict", b"", RAW, 422),
        ("POST", "/predict", b"123", RAW, 422),
        ("POST", "/predict", b"123", "text/plain", 415),
        ("POST", "/predict", b"123", "image/png", 422),
        ("POST", "/predict", b"[" * 100_000, JSON, 422),
        ("POST", "/predict", b'{"instances": [NaN]}', JSON, 422),
        ("POST", "/feedback", b"{", JSON, 422),
    ],
)
def test_what_is_wrong_is_told_as_json_without_a_path_or_a_trace(
    service: Running, method: str, path: str, content: bytes, media: str, status: int
) -> None:
    answer = service.client.request(method, path, content=content, headers={"content-type": media})

    assert answer.status_code == status
    told = answer.json()["error"]
    assert told and "Traceback" not in told and str(service.settings.store) not in told
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_metrics_count_what_happened(service: Running) -> None:
    def value(name: str) -> float:
        page = service.client.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))

    answered = 'labline_requests_total{role="production",route="/predict",status="200",version="1"}'
    before, recorded = value(answered), value('labline_predictions_total{outcome="recorded"')
    service.post("/predict", np.stack([BRIGHT, DARK]).tobytes(), RAW)

    assert value(answered) == before + 1
    assert value('labline_predictions_total{outcome="recorded"') == recorded + 2
    assert value("labline_request_seconds_count") > 0
    assert value("labline_batch_samples_count") > 0


def test_the_openapi_page_comes_from_here_and_its_examples_work(service: Running, forecasting: Running) -> None:
    for each in (service, forecasting):
        page = each.client.get("/docs")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "http" not in page.text
        assert "SwaggerUIBundle" in each.client.get("/docs/page.js").text
        assert len(each.client.get("/docs/swagger-ui-bundle.js").content) > 100_000
        tried = 0
        for path, methods in each.client.get("/openapi.json").json()["paths"].items():
            for media, body in methods.get("post", {}).get("requestBody", {}).get("content", {}).items():
                if "example" in body:
                    answer = each.post(path, json.dumps(body["example"]).encode(), media)
                    assert answer.status_code == 200, (path, answer.text)
                    tried += 1
        assert tried == 3


def test_rows_and_windows_of_a_series_are_forecast(forecasting: Running) -> None:
    windows = np.stack([np.full((20, 2), 0.5), np.full((20, 2), 2.0)]).astype(np.float32)

    several = forecasting.post("/predict", as_npy(windows), NPY).json()
    one = forecasting.post("/predict", as_npy(windows[0]), NPY).json()

    assert [each["forecast"] for each in several["predictions"]] == [{"mean": 0.5}, {"mean": 2.0}]
    assert one["forecast"] == {"mean": 0.5}
    label = forecasting.say("/feedback", {"id": one["id"], "label": 0.75})
    assert label.status_code == 200
    for wrong in ("0.75", True, None):
        assert forecasting.say("/feedback", {"id": one["id"], "label": wrong}).status_code == 422
    (row, *_) = (row for row in forecasting.stored(3) if row["id"] == one["id"])
    assert row["answer"] == "0.5"
    assert math.isnan(row["confidence"])
    assert forecasting.post("/predict", as_npy(windows * np.float32(np.nan)), NPY).status_code == 422


def test_an_answer_that_is_not_finite_is_refused_and_not_sent_as_null(forecasting: Running) -> None:
    answer = forecasting.post("/predict", as_npy(np.full((20, 2), 3e38, np.float32)), NPY)

    assert (answer.status_code, "no finite answer" in answer.text) == (422, True)


def test_the_version_in_staging_answers_its_share_and_unseen(tmp_path: Path) -> None:
    production = write_classifier(tmp_path / "one", 0.05)
    staging = write_classifier(tmp_path / "two", -0.05)  # says the opposite
    with running(prepare(tmp_path, production=production, staging=staging, canary=0.3, shadow=1.0)) as service:
        answers = [service.post("/predict", BRIGHT.tobytes(), RAW).json() for _ in range(200)]
        by_version = {version: [a for a in answers if a["version"] == version] for version in ("1", "2")}

        assert {answer["label"] for answer in by_version["1"]} == {"bright"}
        assert {answer["label"] for answer in by_version["2"]} == {"dark"}
        assert 25 < len(by_version["2"]) < 100  # six deviations either way
        assert service.client.get("/model").json()["candidate"]["version"] == "2"
        shadows = service.stored(1, role=("shadow",))
        assert {(row["version"], row["answer"]) for row in shadows} == {("2", "dark")}
        assert {row["shadow_of"] for row in shadows} <= {answer["id"] for answer in by_version["1"]}
        service.stored(200)  # each answer was recorded, with whoever gave it
        canaries = service.stored(len(by_version["2"]), role=("canary",))
        assert {row["id"] for row in canaries} == {answer["id"] for answer in by_version["2"]}


def test_what_the_declaration_says_of_inputs_and_unknown_labels_is_done(tmp_path: Path) -> None:
    version = write_classifier(tmp_path / "one", keep="features", unknown_labels="accept")
    with running(prepare(tmp_path, production=version)) as service:
        answer = service.post("/predict", BRIGHT.tobytes(), RAW).json()
        assert service.say("/feedback", {"id": answer["id"], "label": "scratch"}).status_code == 200
        (row,) = service.stored(1)
        assert row["mean"] == 200
        assert FeedbackStore(service.settings.feedback).inputs([answer["id"]]) == {}


def test_a_full_journal_still_answers_and_refuses_feedback(tmp_path: Path) -> None:
    version = write_classifier(tmp_path / "one")
    with running(prepare(tmp_path, production=version), journal_bytes=10) as service:
        answer = service.post("/predict", BRIGHT.tobytes(), RAW).json()
        label = service.say("/feedback", {"id": answer["id"], "label": "bright"})

        assert (answer["label"], answer["recorded"]) == ("bright", False)
        assert (label.status_code, label.headers["retry-after"]) == (503, "5")
        assert (
            'labline_predictions_total{outcome="unrecorded",role="production"} 1.0'
            in service.client.get("/metrics").text
        )


def test_without_a_version_it_lives_and_is_not_ready(tmp_path: Path) -> None:
    with running(prepare(tmp_path, production=None)) as service:
        assert service.client.get("/health").status_code == 200
        for answer in (
            service.client.get("/ready"),
            service.client.get("/model"),
            service.client.get("/v2/models/parts"),
            service.post("/predict", BRIGHT.tobytes(), RAW),
            service.say("/feedback", {"id": "x", "label": "y"}),
            service.say("/v2/models/parts/infer", {}),
        ):
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert service.client.get("/openapi.json").status_code == 200


def test_asked_to_end_it_finishes_what_is_in_hand(tmp_path: Path) -> None:
    version = write_classifier(tmp_path / "one")
    with running(prepare(tmp_path, production=version)) as service:
        client = httpx.Client(base_url=service.client.base_url, headers=service.client.headers, timeout=20)
        ended = threading.Event()

        def slowly() -> Iterator[bytes]:
            yield BRIGHT.tobytes()[:30]
            service.process.send_signal(signal.SIGTERM)
            ended.set()
            time.sleep(0.5)
            yield BRIGHT.tobytes()[30:]

        answer = client.post("/predict", content=slowly(), headers={"content-type": RAW})

        assert (ended.is_set(), answer.status_code, answer.json()["label"]) == (True, 200, "bright")
        assert service.process.wait(20) == -signal.SIGTERM
        (row,) = service.stored(1)  # flushed before the end
        assert row["id"] == answer.json()["id"]


def test_while_versions_are_exchanged_each_answer_is_of_the_version_it_names(tmp_path: Path) -> None:
    folders = {"1": write_classifier(tmp_path / "one", 0.05), "2": write_classifier(tmp_path / "two", -0.02)}
    right = {"1": expected(0.05), "2": expected(-0.02)}
    with running(prepare(tmp_path, production=folders["1"])) as service:
        answers: list[tuple[int, str, float]] = []
        done = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=service.client.base_url, headers=service.client.headers, timeout=20) as client:
                while not done.is_set():
                    answer = client.post("/predict", content=BRIGHT.tobytes(), headers={"content-type": RAW})
                    said = answer.json()
                    answers.append((answer.status_code, said["version"], said["probabilities"]["bright"]))

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        for version in ("2", "1", "2"):
            write_assignment(
                service.settings.folder, Assignment("production", Assigned(version, str(folders[version])))
            )
            while service.client.get("/ready").json()["version"] != version:
                time.sleep(0.02)
            time.sleep(0.2)
        done.set()
        for asker in askers:
            asker.join()

        assert {status for status, _, _ in answers} == {200}
        assert {version for _, version, _ in answers} == {"1", "2"}
        assert all(found == pytest.approx(right[version], abs=1e-5) for _, version, found in answers)
        time.sleep(1.1)  # gauges are looked up every second
        page = service.client.get("/metrics").text
        assert "labline_version_swaps 3.0" in page
        assert 'labline_model_version{role="production",version="2"} 1.0' in page
        assert 'labline_model_version{role="production",version="1"} 0.0' in page
