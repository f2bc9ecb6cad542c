"""imagededup on an array of images: `python imagededup_side.py images.npy RADIUS`, in its own environment.

Its perceptual hash of every image, from pixels in memory, and the pairs of hashes within RADIUS bits by the search it
uses by default. Prints seconds and how many images have a duplicate as one JSON object. Imports are not counted.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
from imagededup.methods import PHash  # type: ignore[import-not-found]


def main(path: str, radius: int) -> None:
    """Hash and search, each timed."""
    images_NHWC = np.load(path)
    method = PHash(verbose=False)
    method.encode_image(image_array=images_NHWC[0])
    begun, used = time.perf_counter(), _processor_seconds()
    encodings = {str(number): method.encode_image(image_array=image) for number, image in enumerate(images_NHWC)}
    hashed = time.perf_counter()
    found = method.find_duplicates(encoding_map=encodings, max_distance_threshold=radius)
    ended = time.perf_counter()
    result = {
        "seconds": ended - begun,
        "cpu_seconds": _processor_seconds() - used,
        "hashing_seconds": hashed - begun,
        "search_seconds": ended - hashed,
        "found": sum(bool(others) for others in found.values()),
    }
    print(json.dumps(result))


def _processor_seconds() -> float:
    """Of this process and of those it started and waited for: the search has several."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
