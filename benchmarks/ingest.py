"""Ingesting the 60,000 JPEG files of CIFAR-10, beside a plain loop over them with Pillow, and what bounds it.

The plain loop reads each member of the archive, opens, converts and copies it into an array: one process, no checks,
no digests, no manifest. labline does all of it from the archive to a finished dataset, with one process and with one
a core. The bounds are decoding alone, the files being in memory: by labline, by Pillow as the plain loop calls it, and
by the thinnest door to libjpeg-turbo that is installed, torchvision's operator. Importing torch in every decoding
process costs more than that door saves on 100,000 such files, and Pillow decodes large photographs at a fraction of
their size, which torchvision does not; so labline keeps Pillow.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.cifar10_files import archive, declared_data
from benchmarks.turns import summary, take_turns, timed
from labline.data.decoding import decode
from labline.data.ingest import ingest

MINUTES = 2.0
ROUNDS = 3
SIZE = 32  # pixels


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """All sides; `ratio` is labline's images a second with a process a core over the plain loop's.

    Raises BadInput without the archive.
    """
    path = archive()
    with zipfile.ZipFile(path) as opened:
        names = [name for name in opened.namelist() if name.endswith(".jpg")]
        encoded = [opened.read(name) for name in names]
    sides: dict[str, Callable[[], Any]] = {
        "plain loop": lambda: plain_loop(path, names),
        "labline, 1 process": lambda: _ingest(1),
        "labline": lambda: _ingest(None),
        "labline, decoding alone": lambda: [decode(content, SIZE, 3, SIZE * SIZE) for content in encoded],
        "Pillow, decoding alone": lambda: [_pixels(content) for content in encoded],
        "torchvision, decoding alone": _torchvision(encoded),
    }
    turns = take_turns({name: partial(timed, side) for name, side in sides.items()}, rounds)
    found = {name: _rates(summary(turns[name]), len(names)) for name in sides}
    plain, ours = found["plain loop"], found["labline"]
    return {
        "name": "ingest",
        "ratio": ours["per_second"] / plain["per_second"],
        "ratio_one_process": found["labline, 1 process"]["per_second"] / plain["per_second"],
        "decoding_share": found["labline, decoding alone"]["cpu_us"] / found["labline, 1 process"]["cpu_us"],
        "most_possible": plain["cpu_us"] / found["torchvision, decoding alone"]["cpu_us"],
        "ours": {name: found[name] for name in found if name.startswith("labline")},
        "theirs": {name: found[name] for name in found if not name.startswith("labline")},
        "settings": {"images": len(names), "rounds": rounds},
        "versions": {"pillow": version("pillow")},
    }


def table(result: dict[str, Any]) -> str:
    """The result for a person to read."""
    sides = {**result["ours"], **result["theirs"]}
    lines = [f"{'side':28} images/s  seconds  lowest highest  cpu us an image"]
    for name, side in sides.items():
        lines.append(
            f"{name:28} {side['per_second']:8,.0f} {side['seconds']:8.2f} {side['lowest']:7.2f} {side['highest']:7.2f} "
            f"{side['cpu_us']:16.1f}"
        )
    lines += [
        f"labline ingests {result['ratio']:.2f} times the plain loop's images a second, "
        f"{result['ratio_one_process']:.2f} times with one process; {result['decoding_share']:.0%} of what that process"
        " computes is decoding",
        "a core that did nothing but decode, through the thinnest door, would reach "
        f"{result['most_possible']:.1f} times the plain loop",
    ]
    return "\n".join(lines)


def plain_loop(path: Path, names: list[str]) -> None:
    """What anybody would write first."""
    images_NHWC = np.empty((len(names), SIZE, SIZE, 3), np.uint8)
    with zipfile.ZipFile(path) as opened:
        for number, name in enumerate(names):
            images_NHWC[number] = _pixels(opened.read(name))


def _pixels(encoded: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def _ingest(workers: int | None) -> None:
    with tempfile.TemporaryDirectory(prefix="labline-benchmark-") as directory:
        ingest(declared_data(), Path(directory), workers)


def _torchvision(encoded: list[bytes]) -> Callable[[], Any]:
    """Decode from tensors made beforehand, on one thread."""
    import torch
    import torchvision.io  # registers the operator

    contents = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in encoded]
    rgb = torchvision.io.ImageReadMode.RGB.value
    return lambda: [torch.ops.image.decode_jpeg(content, rgb, False) for content in contents]


def _rates(side: dict[str, Any], images: int) -> dict[str, Any]:
    return side | {"per_second": images / side["seconds"], "cpu_us": 1e6 * side["cpu_seconds"] / images}
