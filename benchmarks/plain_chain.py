"""The chain of `labline run` on images in plain Python: `python -m benchmarks.plain_chain [section.key=value …]`.

labline's own functions in one process, each fed what the one before it returned; what `overhead` compares with.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from labline.data.dataset import Dataset
from labline.usecase import ImageUseCase

if TYPE_CHECKING:
    from labline.models.classifier import ImageClassifier


def chain(assignments: list[str], folder: Path) -> float:
    """From the declared source of `surface` to the chosen file's accuracy on test, in `folder`."""
    from labline.declaration import load_image_usecase
    from labline.export.onnx_runtime import session
    from labline.export.parity import parity

    declaration = load_image_usecase("surface", Path("usecases"), assignments)
    data = _cleaned(declaration, folder)
    model = _trained(declaration, data)
    chosen = _compressed(declaration, data, model, folder)
    test, _ = data.split("test")
    for name in ("fp32", chosen):
        parity(model, session(folder / f"{name}.onnx"), test)
    return _evaluated(declaration, data, folder / f"{chosen}.onnx")


def _cleaned(declaration: ImageUseCase, folder: Path) -> Dataset:
    from labline.data.cleaning import clean
    from labline.data.dataset import open_dataset, write_dataset
    from labline.data.ingest import ingest
    from labline.data.label_issues import cross_validated_probabilities, find_label_issues
    from labline.screening import screening_classifier

    ingest(declaration.data, folder)
    data = open_dataset(folder)
    seen = (data.manifest["split"] != "test").to_numpy()
    rows, targets = data.manifest[seen], data.targets[seen]
    fit_predict = screening_classifier(declaration, len(data.labels))
    beliefs = cross_validated_probabilities(
        data.images[rows["row"].to_numpy()],
        targets,
        len(data.labels),
        declaration.cleaning.folds,
        declaration.training.seed,
        fit_predict,
    )
    issues = find_label_issues(beliefs, targets, data.labels, rows)
    cleaned = clean(data, declaration.cleaning, issues)
    write_dataset(folder, cleaned.manifest, data.labels, data.array, cleaned.quarantine)
    return open_dataset(folder)


def _trained(declaration: ImageUseCase, data: Dataset) -> ImageClassifier:
    from labline.models.weights import build_declared
    from labline.training import fit

    network = build_declared(declaration, len(data.labels))
    train, validation = data.split("train"), data.split("validation")
    return fit(network, train, validation, declaration.training, declaration.augmentation).model


def _compressed(declaration: ImageUseCase, data: Dataset, model: ImageClassifier, folder: Path) -> str:
    from labline.compression.images import judge_on_validation
    from labline.compression.search import search

    found = search(
        model,
        declaration.compression,
        declaration.data.image_size,
        declaration.data.channels,
        calibration_images=data.split("validation")[0],
        evaluate=judge_on_validation(declaration, data),
        finetune=lambda network, _: network,
        teach=lambda *_: model,
        directory=folder,
    )
    return found.chosen


def _evaluated(declaration: ImageUseCase, data: Dataset, released: Path) -> float:
    from scipy.special import softmax

    from labline.corruptions import corrupt
    from labline.evaluation import evaluate, robustness
    from labline.export.onnx_runtime import onnx_logits, session

    images, targets = data.split("test")
    chosen = session(released, threads=0)
    rows = data.rows("test").reset_index(drop=True)
    found = evaluate(softmax(onnx_logits(chosen, images), axis=1), targets, data.labels, rows)
    severities = declaration.evaluation.corruptions
    corrupted = {
        name: softmax(onnx_logits(chosen, corrupt(images, name, severity)), axis=1)
        for name, severity in severities.items()
    }
    robustness(corrupted, severities, targets)
    return float(found.metrics["accuracy"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="labline-plain-") as scratch:
        print(chain(sys.argv[1:], Path(scratch)))
