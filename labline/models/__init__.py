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
from labline.models.recurrent import gru, lstm, rnn
from labline.models.resnet import resnet
from labline.models.temporal import tcn
from labline.models.transformer import transformer

__all__ = ["ARCHITECTURES", "SERIES_ARCHITECTURES", "ImageClassifier", "build", "build_series"]

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"cnn": cnn, "resnet": resnet}
SERIES_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "rnn": rnn,
    "gru": gru,
    "lstm": lstm,
    "transformer": transformer,
    "tcn": tcn,
}
LARGEST_WIDTH = 8  # as for images


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
    offered = {"channels": channels, "classes": classes, "image_size": image_size, "width": width, "depth": depth}
    network = _construct(architecture, ARCHITECTURES, offered, options or {}, seed)
    _check_answer(network, architecture, (channels, image_size, image_size), classes, "logit", "classes")
    return network


def build_series(
    architecture: str,
    features: int,
    window: int,
    outputs: int,
    width: float = 1.0,
    depth: int = 1,
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A network for series with fresh weights: standardised float N x window x features to N x outputs.

    `architecture` is `rnn`, `gru`, `lstm`, `transformer`, `tcn` or the user's own `module:Class`; the rest is as in
    `build`, with features, window and outputs offered to the constructor. `width` multiplies the 32 units of the
    shipped networks' layers, as it multiplies channels for images, and is at most 8.
    """
    if not 0 < width <= LARGEST_WIDTH:
        raise BadInput(
            f"[model] width = {width:g} multiplies the units of every layer; expected above 0 and at most "
            f"{LARGEST_WIDTH}, 1 being 32 units"
        )
    offered = {"features": features, "window": window, "outputs": outputs, "width": width, "depth": depth}
    network = _construct(architecture, SERIES_ARCHITECTURES, offered, options or {}, seed)
    _check_answer(network, architecture, (window, features), outputs, "value", "outputs")
    return network


def _construct(
    architecture: str,
    shipped: dict[str, Callable[..., nn.Module]],
    offered: dict[str, Any],
    options: dict[str, Any],
    seed: int,
) -> nn.Module:
    constructor = _own_class(architecture) if ":" in architecture else shipped.get(architecture)
    if constructor is None:
        hint = nearest(architecture, [*shipped, "module:Class"])
        raise BadInput(f"[model] architecture = {architecture!r} is not a network labline knows; {hint}")
    arguments = _accepted(constructor, architecture, offered, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return constructor(**arguments)
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(f"[model] {architecture}({_spelled(arguments)}) failed: {error}") from error


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


def _check_answer(
    network: nn.Module, architecture: str, sample: tuple[int, ...], outputs: int, output: str, meaning: str
) -> None:
    zeros = torch.zeros(2, *sample)
    was_training = network.training
    try:
        with torch.no_grad():
            answer = network.eval()(zeros)
    except Exception as error:
        raise BadInput(f"[model] {architecture} fails on a batch of {tuple(zeros.shape)}: {error}") from error
    network.train(was_training)
    if not isinstance(answer, torch.Tensor) or answer.shape != (2, outputs):
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise BadInput(
            f"[model] {architecture} answers {got} to a batch of {tuple(zeros.shape)}; "
            f"expected one {output} for each of the {outputs} {meaning}: (2, {outputs})"
        )


def _spelled(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
