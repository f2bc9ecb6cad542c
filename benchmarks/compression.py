"""The chosen model of the compression search against PyTorch eager and against its own float32 file in ONNX Runtime.

On CIFAR-10 (12 epochs of its 30, to be done in time) and the steel use case, otherwise as declared: one image at a
time, one thread, every side in turn, in an order that alternates. Eager is the trained network as it is, in inference
mode; float32 in ONNX Runtime has all graph optimizations. Sizes are of the ONNX files; accuracies, of the whole test
split, of fp32 and of the chosen file. Trained networks and found candidates are kept in `.benchmarks/compression` and
taken from there while the declaration stays: the first run takes the most of an hour on two cores, the next ones a
minute.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from labline.compression.images import search_images
from labline.data.dataset import Dataset, open_dataset
from labline.data.ingest import ingest
from labline.declaration import load_image_usecase
from labline.errors import BadInput
from labline.export.onnx_runtime import onnx_logits, session
from labline.models.classifier import ImageClassifier
from labline.models.weights import build_declared, load_classifier, save_weights
from labline.training import fit
from labline.usecase import ImageUseCase

MINUTES = 45
USECASES = ("cifar10", "steel")
FOLDER = Path(".benchmarks") / "compression"
ROUNDS, SINGLES = 60, 20  # images a turn
FIGURES = ("bytes", "latency_ms_p50", "pareto", "chosen", "note")
SETTINGS = {"cifar10": ("training.epochs=12", "compression.finetune_epochs=8"), "steel": ()}

Answers = Callable[[npt.NDArray[np.uint8]], object]
log = logging.getLogger(__name__)


def measure() -> dict[str, Any]:
    """All sides; `ratio` is the chosen model's milliseconds over eager's, the worse of the two use cases."""
    found = {name: _measured(name) for name in USECASES}
    worst = max(found, key=lambda name: found[name]["chosen"]["ms"] / found[name]["eager"]["ms"])
    return {
        "name": "compression",
        "ratio": found[worst]["chosen"]["ms"] / found[worst]["eager"]["ms"],
        "ours": found[worst]["chosen"],
        "theirs": found[worst]["eager"],
        "usecases": found,
    }


def table(result: dict[str, Any]) -> str:
    """One row a side and use case."""
    lines = [
        "| use case | side | ms, median (5 % to 95 %) | times faster than eager | than fp32 | KiB | test accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for usecase, sides in result["usecases"].items():
        for name in ("eager", "fp32", "chosen"):
            side = sides[name]
            lines.append(
                f"| {usecase} | {name if name != 'chosen' else sides['name']} "
                f"| {side['ms']:.3f} ({side['low']:.3f} to {side['high']:.3f}) "
                f"| {sides['eager']['ms'] / side['ms']:.2f} | {sides['fp32']['ms'] / side['ms']:.2f} "
                f"| {side['bytes'] / 1024:.0f} | {side['accuracy']:.4f} |"
            )
    return "\n".join(lines)


def _measured(name: str) -> dict[str, Any]:
    declaration = load_image_usecase(name, Path("usecases"), SETTINGS[name])
    digest = hashlib.sha256(declaration.model_dump_json().encode()).hexdigest()[:12]
    folder = FOLDER / f"{name}-{digest}"
    data = _dataset(declaration, FOLDER / f"{name}-data")
    model = _trained(declaration, data, folder)
    chosen, candidates = _searched(declaration, data, model, folder)
    images, targets = data.split("test")
    fp32 = folder / "fp32.onnx"
    released = folder / f"{chosen}.onnx"
    sides: dict[str, Answers] = {"eager": _eager(model), "fp32": _onnx(fp32), "chosen": _onnx(released)}
    seen = _in_turns(sides, images)
    accuracies = {
        side: float((onnx_logits(session(path), images).argmax(axis=1) == targets).mean())
        for side, path in (("fp32", fp32), ("chosen", released))
    }
    accuracies["eager"] = accuracies["fp32"]  # parity is a test of its own
    sizes = {"eager": fp32, "fp32": fp32, "chosen": released}
    figures = {
        side: {**seen[side], "bytes": sizes[side].stat().st_size, "accuracy": accuracies[side]} for side in sides
    }
    return {"name": chosen, "images": len(targets), **figures, "candidates": candidates}


def _dataset(declaration: ImageUseCase, folder: Path) -> Dataset:
    if not (folder / "dataset.json").is_file():
        if not os.environ.get("LABLINE_DATA"):
            raise BadInput("LABLINE_DATA is not set; set it to the folder that holds cifar10.zip and neu-steel.zip")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log.info("decoding %s", declaration.data.path)
        ingest(declaration.data, folder)
    return open_dataset(folder)


def _trained(declaration: ImageUseCase, data: Dataset, folder: Path) -> ImageClassifier:
    weights = folder / "model.safetensors"
    if not weights.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        epochs = declaration.training.epochs
        fitted = fit(
            build_declared(declaration, len(data.labels)),
            data.split("train"),
            data.split("validation"),
            declaration.training,
            declaration.augmentation,
            checkpoint=folder / "checkpoint.pt",
            on_epoch=lambda epoch: log.info("%s: epoch %d of %d", declaration.name, epoch.epoch, epochs),
        )
        save_weights(fitted.model, weights)
    return load_classifier(weights, declaration, len(data.labels))


def _searched(
    declaration: ImageUseCase, data: Dataset, model: ImageClassifier, folder: Path
) -> tuple[str, list[dict[str, Any]]]:
    """The chosen candidate's name, and the table of all; of an earlier search in `folder` where there was one."""
    kept = folder / "search.json"
    if not kept.is_file():
        found = search_images(
            declaration,
            data,
            model,
            folder,
            on_epoch=lambda name, epoch, epochs: log.info("%s: epoch %d of %d", name, epoch.epoch, epochs),
        )
        log.info("%s: %s", declaration.name, found.reason)
        shown = found.candidates[["name", "metric", "lost", "lost_error", *FIGURES]]
        shown.to_json(kept, orient="records", indent=1)
    rows: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
    return next(row["name"] for row in rows if row["chosen"]), rows


def _eager(model: ImageClassifier) -> Answers:
    torch.set_num_threads(1)

    @torch.inference_mode()
    def answer(images_NHWC: npt.NDArray[np.uint8]) -> torch.Tensor:
        logits_NK: torch.Tensor = model(torch.from_numpy(images_NHWC))
        return logits_NK

    return answer


def _onnx(path: Path) -> Answers:
    opened = session(path)
    return lambda images: opened.run(["logits"], {"images": images})


def _in_turns(sides: dict[str, Answers], images: npt.NDArray[np.uint8]) -> dict[str, dict[str, float]]:
    """Milliseconds of single images: median, and the 5th and 95th percentile."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for turn in range(ROUNDS):
        for name in order:
            # The first call refills caches that the side before left cold, and is not counted.
            for position in range(SINGLES + 1):
                start = (turn * SINGLES + position) % len(images)
                begun = time.perf_counter()
                sides[name](images[start : start + 1])
                if position:
                    seconds[name].append(time.perf_counter() - begun)
        order.reverse()
    shares = {"ms": 0.5, "low": 0.05, "high": 0.95}
    return {
        name: {share: 1e3 * float(np.quantile(values, quantile)) for share, quantile in shares.items()}
        for name, values in seconds.items()
    }
