"""Parity: does the exported file decide as the PyTorch model does?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import onnxruntime

from labline.errors import BadInput
from labline.export.onnx_runtime import onnx_logits
from labline.models.classifier import ImageClassifier
from labline.training import predict_logits

# Two float32 runtimes that sum in a different order differ by about 1e-6 of the largest logit; with a hundredfold
# reserve, a lead of the winner below this share of it is a coin toss that neither side can be blamed for.
NEAR_TIE = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from the PyTorch model on the same samples.

    `max_abs_difference` is over all logits. `decision_agreement` (0 to 1) is the share of samples with the same
    winning class, near ties counted like all others; `near_ties` says how many samples have a PyTorch winner that
    leads by less than NEAR_TIE of its largest logit, and `unexplained` how many decisions differ beyond those.
    `largest` is the largest absolute logit of PyTorch, the scale of the difference.
    """

    max_abs_difference: float
    decision_agreement: float
    samples: int
    near_ties: int
    unexplained: int
    largest: float


def parity(
    model: ImageClassifier, session: onnxruntime.InferenceSession, images: npt.NDArray[np.uint8], samples: int = 1000
) -> Parity:
    """Compare an ONNX Runtime session with the PyTorch model, in float32 on the CPU.

    `images` are uint8 NHWC; of more than `samples`, that many are taken, evenly spread over their order.
    Raises BadInput where there is no image to compare on.
    """
    return parity_of(model, partial(onnx_logits, session), images, samples)


def parity_of(
    model: ImageClassifier,
    logits: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]],
    images: npt.NDArray[np.uint8],
    samples: int = 1000,
) -> Parity:
    """Compare any function from uint8 NHWC images to logits with the PyTorch model, as `parity` does."""
    if len(images) == 0:
        raise BadInput("parity needs at least one image, got none. Give it the test split.")
    chosen = images[np.linspace(0, len(images) - 1, min(samples, len(images))).round().astype(int)]
    # A copy on the CPU: TF32 or bfloat16 of the training device would be measured otherwise.
    expected_NK = predict_logits(copy.deepcopy(model), chosen)
    exported_NK = logits(chosen)
    differs = expected_NK.argmax(axis=1) != exported_NK.argmax(axis=1)
    near_tie = _lead(expected_NK) < NEAR_TIE * np.abs(expected_NK).max(axis=1)
    return Parity(
        max_abs_difference=float(np.abs(expected_NK - exported_NK).max()),
        decision_agreement=float(1 - differs.mean()),
        samples=len(chosen),
        near_ties=int(near_tie.sum()),
        unexplained=int((differs & ~near_tie).sum()),
        largest=float(np.abs(expected_NK).max()),
    )


def _lead(logits_NK: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """By how much the winning logit exceeds the second; infinite with one class."""
    if logits_NK.shape[1] < 2:
        return np.full(len(logits_NK), np.inf, dtype=np.float32)
    top_two_N2 = np.partition(logits_NK, -2, axis=1)[:, -2:]
    lead_N: npt.NDArray[np.float32] = top_two_N2[:, 1] - top_two_N2[:, 0]
    return lead_N
