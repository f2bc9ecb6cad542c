"""BentoML's side, run in BentoML's environment: bentoml serve bentoml_service:Classifier, BENCHMARK_MODEL set.

Three documented ways to the same model: batched arrays, single arrays and files.
"""

# No `from __future__ import annotations`: BentoML reads the annotations themselves.
import os
from pathlib import Path
from typing import Annotated

import bentoml  # type: ignore[import-not-found]
import numpy as np
import onnxruntime
from bentoml.validators import ContentType, DType, Shape  # type: ignore[import-not-found]

Array = np.ndarray  # without its parameters: BentoML reads them otherwise than NumPy
Images = Annotated[Array, DType("uint8"), Shape((-1, 32, 32, 3))]


@bentoml.service(workers=1)
class Classifier:
    """Images of 32 x 32 x 3 bytes to their probabilities."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = os.environ["BENCHMARK_MODEL"]
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=True, max_batch_size=64)  # type: ignore[untyped-decorator]
    def batched(self, images: Images) -> Array:
        """What BentoML collects from several requests, as one array."""
        return self._probabilities(images)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def array(self, images: Images) -> Array:
        """The array of one request, on the event loop: quicker here than in a thread."""
        return self._probabilities(images)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def file(self, pixels: Annotated[Path, ContentType("application/octet-stream")], /) -> Array:
        """Raw pixels, which BentoML hands over as a file."""
        return self._probabilities(np.frombuffer(pixels.read_bytes(), np.uint8).reshape(1, 32, 32, 3))

    def _probabilities(self, images_NHWC: Array) -> Array:
        probabilities_NK: Array = self.session.run(["probabilities"], {"images": images_NHWC})[0]
        return probabilities_NK
