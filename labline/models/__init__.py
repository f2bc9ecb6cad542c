"""The networks: `build` makes a shipped one or the user's own from its name in the declaration."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from labline.errors import BadInput, nearest
from labline.models.classifier import ImageClassifier
from labline.models.cnn import cnn
from labline.models.resnet import resnet

__all__ = ["ARCHITECTURES", "ImageClassifier", "build"]

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"cnn": cnn, "resnet": resnet}


def build(
    architecture: str,
    channels: int,
    classes: int,
    image_size: int,
    width: float = 1.0,
    depth: int = 1,
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A network with fresh weights: normalised float N x channels x size x size to logits N x classes.

    `architecture` is `cnn`, `resnet` or the user's own `module:Class`; a constructor is handed those of
    channels, classes, image_size, width, depth and `options` that its signature names. The same `seed`
    gives the same weights. Raises BadInput for an unknown name, a class that cannot be imported or
    constructed, and a network whose answer to a batch of zeros is not N x classes.
    """
    constructor = _own_class(architecture) if ":" in architecture else ARCHITECTURES.get(architecture)
    if constructor is None:
        hint = nearest(architecture, [*ARCHITECTURES, "module:Class"])
        raise BadInput(f"[model] architecture = {architecture!r} is not a network labline knows; {hint}")
    offered = {"channels": channels, "classes": classes, "image_size": image_size, "width": width, "depth": depth}
    arguments = _accepted(constructor, architecture, offered, options or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = constructor(**arguments)
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(f"[model] {architecture}({_spelled(arguments)}) failed: {error}") from error
    _check_answer(network, architecture, channels, classes, image_size)
    return network


def _own_class(architecture: str) -> Callable[..., nn.Module]:
    module_name, _, class_name = architecture.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise BadInput(
            f"[model] architecture = {architecture!r}: module {module_name!r} cannot be imported ({error}); "
            "it must be on PYTHONPATH or installed"
        ) from error
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        classes = inspect.getmembers(module, inspect.isclass)
        networks = [name for name, value in classes if issubclass(value, nn.Module)]
        problem = "does not exist" if found is None else "is not a torch.nn.Module"
        hint = nearest(class_name, networks) if networks else f"{module_name} defines no torch.nn.Module"
        raise BadInput(f"[model] architecture = {architecture!r}: {class_name!r} {problem}; {hint}")
    return found


def _accepted(
    constructor: Callable[..., nn.Module], architecture: str, offered: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """The offered arguments the signature names, and the options, all of which it must name."""
    parameters = inspect.signature(constructor).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in options:
        if not takes_any and name not in parameters:
            raise BadInput(f"[model] options.{name} is no argument of {architecture}; {nearest(name, parameters)}")
    return {name: value for name, value in offered.items() if takes_any or name in parameters} | options


def _check_answer(network: nn.Module, architecture: str, channels: int, classes: int, image_size: int) -> None:
    zeros_NCHW = torch.zeros(2, channels, image_size, image_size)
    was_training = network.training
    try:
        with torch.no_grad():
            answer = network.eval()(zeros_NCHW)
    except Exception as error:
        raise BadInput(f"[model] {architecture} fails on a batch of {tuple(zeros_NCHW.shape)}: {error}") from error
    network.train(was_training)
    if not isinstance(answer, torch.Tensor) or answer.shape != (2, classes):
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise BadInput(
            f"[model] {architecture} answers {got} to a batch of {tuple(zeros_NCHW.shape)}; "
            f"expected one logit for each of the {classes} classes: (2, {classes})"
        )


def _spelled(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
