"""Loading a version as the service does: what it answers, and what is refused with what words."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from saved_forecasters import small_forecaster

from labline.errors import BadInput, LablineError
from labline.export.onnx import export_onnx
from labline.models import ImageClassifier, build
from labline.packaged_model import DIRECTIONS, TensorSpec, open_model
from labline.series.declaration import Head

LABELS = ("crack", "dent", "good", "scratch", "stain")


def test_a_version_answers_with_the_probabilities_of_its_labels(version: Path, images: np.ndarray) -> None:
    model = open_model(version)

    probabilities = model.predict(images)

    assert model.labels == LABELS
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (64, 5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert model.predict(images[:0]).shape == (0, 5)


def test_fp32_answers_what_pytorch_answers(
    versions: dict[str, Path], classifier: ImageClassifier, images: np.ndarray
) -> None:
    with torch.inference_mode():
        expected = torch.softmax(classifier(torch.from_numpy(images)), dim=1).numpy()

    np.testing.assert_allclose(open_model(versions["fp32"]).predict(images), expected, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(batch=arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.just(16), st.just(16), st.just(3))))
def test_an_image_is_answered_alike_whatever_it_is_batched_with(versions: dict[str, Path], batch: np.ndarray) -> None:
    for folder in versions.values():
        model = open_model(folder)
        alone = np.concatenate([model.predict(image[np.newaxis]) for image in batch])
        np.testing.assert_allclose(model.predict(batch), alone, atol=1e-4)


def test_threads_may_share_a_model_and_views_need_no_copy(version: Path, images: np.ndarray) -> None:
    model = open_model(version)
    mirrored = images[:, :, ::-1]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(model.predict, [mirrored] * 20))

    expected = model.predict(np.ascontiguousarray(mirrored))
    assert all(np.array_equal(answer, expected) for answer in answers)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (np.zeros((2, 16, 16, 3), np.float32), "got float32 2 x 16 x 16 x 3"),
        (np.zeros((2, 16, 16, 3), np.int64), "got int64"),
        (np.zeros((16, 16, 3), np.uint8), "got uint8 16 x 16 x 3"),
        (np.zeros((2, 3, 16, 16), np.uint8), "got uint8 2 x 3 x 16 x 16"),
        (np.zeros((2, 32, 16, 3), np.uint8), "got uint8 2 x 32 x 16 x 3"),
        (np.uint8(7), "uint8"),
        ([[1, 2]], "list"),
    ],
)
def test_wrong_images_are_refused_naming_what_was_expected(versions: dict[str, Path], wrong: object, got: str) -> None:
    with pytest.raises(BadInput, match=r"uint8 N x 16 x 16 x 3.*" + got):
        open_model(versions["fp32"]).predict(wrong)


def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "MLmodel"
    description = yaml.safe_load(path.read_text())
    change(description)
    path.write_text(yaml.safe_dump(description))


def names_graph(name: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda description: description["flavors"]["onnx"].update(data=name))


def truncate(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def take_larger_images(folder: Path) -> None:
    model = ImageClassifier(build("cnn", 3, 5, 32, width=0.25), torch.zeros(3), torch.ones(3))
    export_onnx(model, folder / "model.onnx", 32, 3)


def tell_fewer_classes(folder: Path) -> None:
    model = ImageClassifier(build("cnn", 3, 4, 16, width=0.25), torch.zeros(3), torch.ones(3))
    export_onnx(model, folder / "model.onnx", 16, 3)


def rename_an_output(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"probabilities", b"probabilitoes"))


def write_evaluation(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "extra_files" / "evaluation.json").write_text(content) and None


def write_description(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "MLmodel").write_text(content) and None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "model.onnx cannot be loaded"),
        (take_larger_images, "images: uint8 N x 32 x 32 x 3, and the signature says uint8 N x 16 x 16 x 3"),
        (tell_fewer_classes, "logits: float32 N x 4, and the signature says float32 N x 5"),
        (rename_an_output, "no output 'probabilities'"),
        (names_graph("other.onnx"), "names 'other.onnx'.*no such file in the folder"),
        (names_graph("../outside.onnx"), "names '../outside.onnx'"),
        (names_graph("MLmodel"), "MLmodel cannot be loaded"),
        (names_graph(""), "no such file"),
        (lambda folder: rewrite(folder, lambda description: description["flavors"].pop("onnx")), "only ONNX models"),
        (lambda folder: rewrite(folder, lambda description: description.pop("signature")), "signature.inputs"),
        (lambda folder: rewrite(folder, lambda d: d["signature"].update(outputs="[]")), "outputs logits and prob"),
        (write_description("{"), "MLmodel is not YAML"),
        (write_description("- a\n- list\n"), "signature.inputs must list"),
        (write_evaluation("{broken"), "evaluation.json: the labels cannot be read"),
        (write_evaluation("[]"), "labels cannot be read"),
        (write_evaluation(json.dumps({"labels": "abcde"})), "5 different names"),
        (write_evaluation(json.dumps({"labels": ["a", "b", "c", "d"]})), "5 different names"),
        (write_evaluation(json.dumps({"labels": ["a", "b", "c", "d", "a"]})), "5 different names"),
    ],
)
def test_a_damaged_version_is_refused_with_the_file_and_the_reason(
    copied: Path, damage: Callable[[Path], None], message: str
) -> None:
    (copied.parent / "outside.onnx").write_bytes((copied / "model.onnx").read_bytes())
    damage(copied)

    with pytest.raises(LablineError, match=message) as caught:
        open_model(copied)
    assert not isinstance(caught.value, BadInput)


def test_the_file_that_is_loaded_is_the_one_mlmodel_names(copied: Path, images: np.ndarray) -> None:
    before = open_model(copied).predict(images)
    (copied / "model.onnx").write_bytes(b"not looked at")
    names_graph("extra_files/fp32.onnx")(copied)

    np.testing.assert_array_equal(open_model(copied).predict(images), before)


@pytest.mark.parametrize("name", ["nothing-here", "version/MLmodel", "empty"])
def test_what_is_no_version_is_bad_input(copied: Path, name: str) -> None:
    (copied.parent / "empty").mkdir()

    with pytest.raises(BadInput, match="the folder of a registered version was expected"):
        open_model(copied.parent / name)


@pytest.mark.parametrize("kind", ["image", "series"])
def test_the_service_imports_neither_torch_nor_mlflow(
    versions: dict[str, Path], forecasters: dict[str, Path], kind: str
) -> None:
    folder = versions["fp32"] if kind == "image" else forecasters["quantile"]
    code = (
        "import sys; from pathlib import Path; import serving.check; serving.check.check(Path(sys.argv[1]), 1);"
        "assert not {'torch', 'mlflow', 'pandas', 'scipy', 'onnx'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


# --- embeddings --------------------------------------------------------------------------------------------------


def without_embedding(description: dict) -> None:
    """The graph gives one whatever is signed."""
    columns = json.loads(description["signature"]["outputs"])
    description["signature"]["outputs"] = json.dumps([each for each in columns if each["name"] != "embedding"])


def test_an_embedding_is_answered_where_the_version_names_one(version: Path, images: np.ndarray) -> None:
    model = open_model(version)

    embedding, probabilities = model.answer(images, ("embedding", "probabilities"))

    assert model.has_embedding
    assert (embedding.dtype, embedding.shape) == (np.float32, (64, 64))
    np.testing.assert_array_equal(probabilities, model.predict(images))


def test_a_version_that_names_no_embedding_is_served_like_any_other(copied: Path, images: np.ndarray) -> None:
    expected = open_model(copied).predict(images)
    rewrite(copied, without_embedding)
    model = open_model(copied)

    assert not model.has_embedding
    np.testing.assert_array_equal(model.predict(images), expected)


# --- forecasters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["gaussian", "quantile", "point", "classes"])
def test_a_forecaster_answers_what_pytorch_answers(
    forecasters: dict[str, Path], windows: np.ndarray, head: Head
) -> None:
    model = open_model(forecasters[head])
    with torch.inference_mode():
        expected = small_forecaster(head)(torch.from_numpy(windows)).numpy()

    assert (model.kind, model.head) == ("series", head)
    assert model.input == TensorSpec("windows", "float32", (None, 12, 3))
    assert model.labels == (DIRECTIONS if head == "classes" else ())
    assert not model.has_embedding
    np.testing.assert_allclose(model.predict(windows), expected, atol=1e-5)
    assert model.predict(windows[:0]).shape == (0, expected.shape[1])


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (np.zeros((2, 12, 3)), "got float64 2 x 12 x 3"),
        (np.zeros((2, 11, 3), np.float32), "got float32 2 x 11 x 3"),
        (np.zeros((2, 12, 4), np.float32), "got float32 2 x 12 x 4"),
        (np.zeros((12, 3), np.float32), "got float32 12 x 3"),
    ],
)
def test_wrong_windows_are_refused_naming_what_was_expected(
    forecasters: dict[str, Path], wrong: np.ndarray, got: str
) -> None:
    with pytest.raises(BadInput, match=rf"windows: float32 N x 12 x 3, was expected, {got}.*raw features"):
        open_model(forecasters["gaussian"]).predict(wrong)


def declare(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "extra_files" / "usecase.toml").write_text(content) and None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "model.onnx cannot be loaded"),
        (declare("[model"), "usecase.toml: the head of the forecaster cannot be read"),
        (declare('name = "small"'), "head of the forecaster cannot be read.*KeyError"),
        (lambda folder: rewrite(folder, lambda d: d["signature"].update(outputs="[]")), "windows and the output forec"),
    ],
)
def test_a_damaged_forecaster_is_refused_with_the_file_and_the_reason(
    forecasters: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(forecasters["gaussian"], tmp_path / "version"))
    damage(folder)

    with pytest.raises(LablineError, match=message) as caught:
        open_model(folder)
    assert not isinstance(caught.value, BadInput)


def test_classes_that_have_no_names_are_refused(forecasters: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(forecasters["quantile"], tmp_path / "version"))
    declare('[model]\nhead = "classes"\n')(folder)

    with pytest.raises(LablineError, match="labels must be 7 different names"):
        open_model(folder)
