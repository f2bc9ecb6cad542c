"""Loading a version as the service does: what it answers, and what is refused with what words."""

from __future__ import annotations

import json
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

from labline.errors import BadInput, LablineError
from labline.export.onnx import export_onnx
from labline.models import ImageClassifier, build
from labline.packaged_model import open_model

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


def test_the_service_imports_neither_torch_nor_mlflow(versions: dict[str, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; import serving.check; serving.check.check(Path(sys.argv[1]), 1);"
        "assert not {'torch', 'mlflow', 'pandas', 'scipy', 'onnx'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code, str(versions["fp32"])], check=True)
