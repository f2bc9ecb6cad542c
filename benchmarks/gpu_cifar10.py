"""CIFAR-10 on one GPU: seconds to 94 % on test, by labline's training loop and by a published speed run's recipe.

    python benchmarks/gpu_cifar10.py --data cifar10.zip        # on the card; --side ours|recipe runs one of them
    python benchmarks/gpu_cifar10.py --data cifar10.zip --smoke # a few images, on any machine

Needs torch and torchvision, and pandas, scipy, scikit-learn and safetensors, which labline's loop imports; nothing
else of labline's packages: neither pydantic nor MLflow nor Prefect. The archive has `train/` and `test/`, one folder
of images a class; a folder so laid out does as well.

Counted on both sides: the seconds of training, compiling included, from images that lie on the card. Not counted:
decoding, evaluating. Both train on all 50,000 training images and are looked at on the 10,000 test images after each
epoch; nothing is chosen by what is seen there, and what they end with is the last epoch's. `seconds_to_goal` is of the
first epoch at 94 %, none where there was none.

The recipe is `benchmarks.airbench`. Written and tried on a CPU alone so far: never yet run on a GPU.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # labline is not installed on a borrowed machine

from benchmarks import airbench
from labline.models.cnn import cnn
from labline.training import Samples, fit

if TYPE_CHECKING:
    from labline.training import Epoch
    from labline.usecase import Augmentation, Training

GOAL = 0.94
CHANNELS, CLASSES, SIZE = 3, 10, 32
SMOKE_IMAGES, SMOKE_EPOCHS = 60, 2

OUR_NETWORK = {"width": 1.5, "depth": 2, "stride": 1}
OUR_SETTINGS = {
    "epochs": 16, "batch_size": 1000, "optimizer": "muon", "learning_rate": 0.24, "momentum": 0.6,
    "weight_decay": 0.12, "schedule": "one-cycle", "warmup": 0.0, "label_smoothing": 0.2, "ema": 0.0,
    "gradient_clip": 0.0, "early_stopping": 0, "select": "accuracy", "imbalance": "none", "precision": "auto",
    "compile": True, "device": "auto", "seed": 0, "accumulate": 1,
}  # fmt: skip
OUR_AUGMENTATION = {"policy": ["flip", "crop"], "strength": 0.25}


def main() -> int:
    """The exit code: 0 measured, 2 bad input. The result is one JSON object on standard output."""
    arguments = _parse()
    if not arguments.smoke and not torch.cuda.is_available():
        print("no GPU is here (torch.cuda.is_available() is false); --smoke tries the code without", file=sys.stderr)
        return 2
    try:
        train, test = read_images(arguments.data, SMOKE_IMAGES if arguments.smoke else None)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        print(f"--data {arguments.data}: {error}; expected train/ and test/, one folder a class", file=sys.stderr)
        return 2
    sides = {"ours": train_ours, "recipe": train_recipe}
    chosen = sides if arguments.side is None else {arguments.side: sides[arguments.side]}
    result: dict[str, Any] = {"name": "gpu_cifar10", "goal": GOAL, "device": _device_name(), "torch": torch.__version__}
    for name, side in chosen.items():
        result[name] = side(train, test, SMOKE_EPOCHS if arguments.smoke else None)
    print(json.dumps(result))
    return 0


def read_images(path: Path, at_most: int | None = None) -> tuple[Samples, Samples]:
    """Train and test: uint8 N x 32 x 32 x 3 with int64 class indices, `at_most` so many of each, evenly picked."""
    archive = zipfile.ZipFile(path) if path.is_file() else None
    names = archive.namelist() if archive else [str(file.relative_to(path)) for file in path.rglob("*")]
    parts = [(name, *name.split("/")) for name in sorted(names) if name.count("/") == 2 and not name.endswith("/")]

    def read(name: str) -> bytes:
        return archive.read(name) if archive else (path / name).read_bytes()

    def split(wanted: str) -> Samples:
        listed = [(name, label) for name, split, label, _ in parts if split == wanted]
        listed = listed[:: max(1, len(listed) // at_most)][:at_most] if at_most else listed
        if not listed:
            raise ValueError(f"there are no images in {wanted}/")
        labels = sorted({label for _, _, label, _ in parts})
        encoded = [read(name) for name, _ in listed]
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(_decode, encoded))
        return np.stack(images), np.array([labels.index(label) for _, label in listed])

    return split("train"), split("test")


def train_ours(train: Samples, test: Samples, epochs: int | None = None) -> dict[str, Any]:
    """labline's `fit`, as `labline run` calls it; the test images stand where validation does."""
    settings = SimpleNamespace(**OUR_SETTINGS | ({"epochs": epochs, "compile": False} if epochs else {}))
    settings.batch_size = min(settings.batch_size, len(train[1]) // 2)
    torch.manual_seed(settings.seed)
    network = cnn(CHANNELS, CLASSES, SIZE, **cast("dict[str, Any]", OUR_NETWORK))
    seen: list[tuple[float, float, int]] = []

    def on_epoch(epoch: Epoch) -> None:
        seen.append((epoch.seconds, epoch.validation_accuracy, len(epoch.losses) * settings.batch_size))

    _reset_memory()
    augmentation = cast("Augmentation", SimpleNamespace(**OUR_AUGMENTATION))
    fit(network, train, test, cast("Training", settings), augmentation, on_epoch=on_epoch)
    return _figures(seen)


def train_recipe(train: Samples, test: Samples, epochs: int | None = None) -> dict[str, Any]:
    """The published recipe, on the same card and images."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _reset_memory()
    epochs_seen = airbench.train(train, test, device, epochs or airbench.EPOCHS, compiled=epochs is None)
    return _figures([(epoch.seconds, epoch.accuracy, epoch.images) for epoch in epochs_seen])


def _figures(seen: list[tuple[float, float, int]]) -> dict[str, Any]:
    """Of each epoch its seconds, its accuracy on test and its images: the figures that are reported."""
    seconds = np.cumsum([taken for taken, _, _ in seen])
    reached = [float(total) for total, (_, accuracy, _) in zip(seconds, seen, strict=True) if accuracy >= GOAL]
    steady = seen[1:] or seen  # the first compiles
    return {
        "seconds": float(seconds[-1]),
        "seconds_to_goal": reached[0] if reached else None,
        "accuracy": seen[-1][1],
        "accuracies": [accuracy for _, accuracy, _ in seen],
        "first_epoch_seconds": seen[0][0],
        "images_per_second": float(np.median([images / taken for taken, _, images in steady])),
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
    }


def _decode(encoded: bytes) -> npt.NDArray[np.uint8]:
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    return np.asarray(image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE)))


def _reset_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CIFAR-10 on one GPU: seconds to 94 % on test.")
    parser.add_argument("--data", type=Path, required=True, help="cifar10.zip, or a folder laid out like it")
    parser.add_argument("--side", choices=("ours", "recipe"), help="measure this side alone")
    parser.add_argument("--smoke", action="store_true", help="few images and epochs, on any machine: does it run?")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
