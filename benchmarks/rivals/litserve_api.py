"""LitServe's side, run in LitServe's environment: python litserve_api.py MODEL PORT MAX_BATCH BATCH_TIMEOUT.

The image comes as base64 in JSON, as in LitServe's own performance test. It takes no raw bytes (its issues 362 and
732); reaching them by typing `decode_request` as FastAPI types a body was no faster.
"""

# No `from __future__ import annotations`: LitServe hands what it finds here to FastAPI, and a `request` of no type is
# its own JSON.
import base64
import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
import onnxruntime


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """One image of 32 x 32 x 3 bytes to its probabilities."""

    def setup(self, device: str) -> None:
        """Load the model that the command line names."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """The pixels."""
        return np.frombuffer(base64.b64decode(request["image"]), np.uint8).reshape(32, 32, 3)

    def predict(self, images: Any) -> Any:
        """Probabilities of one image, or of a batch of them where LitServe was told to batch."""
        if self.max_batch_size > 1:
            return self.session.run(["probabilities"], {"images": np.asarray(images)})[0]
        return self.session.run(["probabilities"], {"images": images[np.newaxis]})[0][0]

    def encode_response(self, probabilities: Any) -> dict[str, list[float]]:
        """As JSON."""
        return {"probabilities": probabilities.tolist()}


if __name__ == "__main__":
    classifier = Classifier(max_batch_size=int(sys.argv[3]), batch_timeout=float(sys.argv[4]))
    litserve.LitServer(classifier, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
