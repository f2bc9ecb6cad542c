"""A process that acknowledges predictions and labels on standard output, as fast as it can, until it is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import numpy as np
from saved_feedback import label, prediction

from serving.recording import Recorder


async def acknowledge(recorder: Recorder) -> None:
    """One client of many: predict, label, tell."""
    image = np.zeros((32, 32, 3), np.uint8)
    while True:
        given = prediction()
        if recorder.prediction(given, image):
            os.write(1, f"prediction {given.id}\n".encode())
        said = label(given)
        await recorder.label(said)
        os.write(1, f"label {said.id} {given.id}\n".encode())


async def main() -> None:
    """Eight clients at once, so that labels share their wait for the disk."""
    recorder = Recorder(sys.argv[1], Path(sys.argv[2]))
    await asyncio.gather(*(acknowledge(recorder) for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(main())
