"""Near duplicates of the 60,000 images of CIFAR-10: labline's search, and on a part of them beside imagededup's.

Both start from decoded pixels in memory, hash every image perceptually and look for hashes at most 8 of 64 bits apart;
imagededup compares all pairs, on all cores, and stops there. labline finds the pairs by multi-index hashing and then
compares thumbnails, which tells copies from images that are only of one kind: so it names fewer. The sides are
compared on 15,000 images: all 60,000 make sixteen times as many pairs, for which imagededup takes longer than five
minutes. It is installed into an environment of its own, in `.benchmarks`. Imports and decoding are not counted.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cifar10_files import decoded, part_of
from benchmarks.rivals.environments import DECODING, DEDUPLICATION, environment
from benchmarks.turns import answered, summary, take_turns, timed
from labline.data.dataset import Dataset
from labline.data.duplicates import near_duplicates

MINUTES = 4.0
ROUNDS = 3
RADIUS = 8
PART = 15_000  # images, for both sides
GOAL_SECONDS = 60.0
SIDE = Path(__file__).parent / "rivals" / "imagededup_side.py"


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """Both sides; `ratio` is labline's seconds over imagededup's.

    Raises BadInput without the archive, LablineError where imagededup cannot be installed or fails.
    """
    python = environment("imagededup", DECODING) / "python"
    with tempfile.TemporaryDirectory(prefix="labline-benchmark-") as directory:
        dataset = decoded(Path(directory))
        part = part_of(dataset, PART)
        images = Path(directory) / "pixels.npy"
        np.save(images, dataset.images[part.manifest["row"].to_numpy()])
        turns = take_turns(
            {
                "labline": lambda: _labline(part),
                "imagededup": lambda: answered([str(python), str(SIDE), str(images), str(RADIUS)]),
                "everything": lambda: _labline(dataset),
            },
            rounds,
        )
    ours, theirs, everything = (summary(turns[name]) for name in ("labline", "imagededup", "everything"))
    return {
        "name": "near_duplicates",
        "ratio": ours["seconds"] / theirs["seconds"],
        "within_goal": everything["highest"] < GOAL_SECONDS,
        "ours": {"part": ours, "everything": everything},
        "theirs": theirs,
        "settings": {"images": len(dataset.manifest), "part": PART, "radius": RADIUS, "rounds": rounds},
        "versions": {"imagededup": DEDUPLICATION["imagededup"].split("==")[1], "scipy": version("scipy")},
    }


def table(result: dict[str, Any]) -> str:
    """The result for a person to read."""
    part, images = result["settings"]["part"], result["settings"]["images"]
    sides = {
        f"labline, {images:,}": result["ours"]["everything"],
        f"labline, {part:,}": result["ours"]["part"],
        f"imagededup, {part:,}": result["theirs"],
    }
    lines = [f"{'side, images':20} seconds  lowest highest   cpu s  images named"]
    for name, side in sides.items():
        lines.append(
            f"{name:20} {side['seconds']:7.2f} {side['lowest']:7.2f} {side['highest']:7.2f} "
            f"{side['cpu_seconds']:7.2f}  {side['found']:12,}"
        )
    theirs = result["theirs"]
    lines.append(
        f"on {part:,} images labline takes {result['ratio']:.3f} of the seconds of imagededup (hashing "
        f"{theirs['hashing_seconds']:.1f} s, search {theirs['search_seconds']:.1f} s); the goal for all {images:,} is "
        f"{GOAL_SECONDS:.0f} s"
    )
    return "\n".join(lines)


def _labline(dataset: Dataset) -> dict[str, Any]:
    found: list[int] = []
    turn = timed(lambda: found.append(len(near_duplicates(dataset, radius=RADIUS))))
    return turn | {"found": found[0]}
