"""Conversion to TensorFlow Lite, a program of its own that `labline.export.tflite` starts.

`python -m labline.export.tflite_conversion convert PROGRAM TARGET` turns a program that torch.export saved into a float
file; `… quantize SOURCE TARGET [--calibration SAMPLES.npy]` turns that into int8. Everything heavy stays in here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says; an error ends the process with its message on the last line."""
    parser = argparse.ArgumentParser(prog="tflite_conversion", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("convert", "quantize"):
        command = commands.add_parser(name)
        command.add_argument("source", type=Path)
        command.add_argument("target", type=Path)
    command.add_argument("--calibration", type=Path)
    parsed = parser.parse_args(arguments)
    if parsed.command == "convert":
        convert(parsed.source, parsed.target)
    else:
        quantize(parsed.source, parsed.target, parsed.calibration)


def convert(program: Path, target: Path) -> None:
    """Write the float32 file of a program that torch.export saved, with the names and shapes of its example input.

    `program` is the caller's own, in a folder that only its user can write: its example input is read by torch.load.
    """
    import litert_torch
    import torch

    exported = torch.export.load(program)
    positional, named = exported.example_inputs
    litert_torch.convert(exported.module(), positional, named).export(str(target))


def quantize(source: Path, target: Path, calibration: Path | None) -> None:
    """Write an int8 version: static with calibration samples (N x the input's shape, .npy), dynamic range without."""
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.quantizer import Quantizer

    if calibration is None:
        quantized = Quantizer(str(source), recipe.dynamic_wi8_afp32()).quantize(enable_progress_report=False)
    else:
        static = _static_recipe()
        quantizer = Quantizer(str(source), static.get_quantization_recipe())
        quantized = quantizer.quantize(_ranges(source, static, calibration), enable_progress_report=False)
    quantized.export_model(str(target), overwrite=True)


def _static_recipe() -> Any:
    """int8 weights, a scale a channel, and int8 activations; inputs, outputs and linear layers' answers stay float32.

    256 levels of logits would make ties and coarse probabilities, and win no time.
    """
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    manager = RecipeManager()
    everything = ".*"
    manager.add_static_config(everything, TFLOperationName.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    manager.add_dynamic_config(everything, TFLOperationName.FULLY_CONNECTED, num_bits=8)
    for kept in (TFLOperationName.INPUT, TFLOperationName.OUTPUT, TFLOperationName.SOFTMAX):
        manager.add_quantization_config(everything, kept, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return manager


def _ranges(source: Path, recipe_manager: Any, calibration: Path) -> Any:
    """Smallest and largest value of each tensor over all samples.

    The quantizer's own default, a moving average, forgets: here it clipped, and cost six points of accuracy.
    """
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    samples = np.load(calibration, allow_pickle=False)
    ((signature, names),) = Interpreter(model_path=str(source)).get_signature_list().items()
    calibrator = Calibrator(str(source), num_threads=1, qsv_update_func=min_max_update)
    calibrator.calibrate({signature: [{names["inputs"][0]: sample[np.newaxis]} for sample in samples]}, recipe_manager)
    return calibrator.get_model_qsvs()


if __name__ == "__main__":
    main(sys.argv[1:])
