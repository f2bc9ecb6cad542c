"""Sensitivity: which layers lose most when they are quantized, and may better stay in float32."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from labline.compression.quantization import layers, quantize
from labline.export.onnx_runtime import onnx_logits, session


def sensitivities(source: Path, images: npt.NDArray[np.uint8]) -> dict[str, float]:
    """How far the answers of a float32 ONNX file move when one layer alone is quantized, the most sensitive first.

    In nats: the mean divergence (Kullback and Leibler 1951) of the class probabilities of `images` (uint8 NHWC), which
    calibrate too. Finer than accuracy, which a few hundred images know only in steps. Wu et al. 2020, "Integer
    Quantization for Deep Learning Inference", arXiv:2004.09602, section 6.1, rank by one layer at a time as well.
    """
    names = layers(source)
    expected_NK = log_softmax(onnx_logits(session(source), images), axis=1)
    divergences = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            others = [other for other in names if other != name]
            path = quantize(source, Path(scratch) / "one-layer.onnx", images, float_layers=others)
            found_NK = log_softmax(onnx_logits(session(path), images), axis=1)
            divergences[name] = float((np.exp(expected_NK) * (expected_NK - found_NK)).sum(axis=1).mean())
    return dict(sorted(divergences.items(), key=lambda item: -item[1]))
