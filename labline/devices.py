"""Devices: where training runs, in which precision, and with which kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from labline.errors import BadInput


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one. Raises BadInput for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:
        raise BadInput(f"[training] device = {name!r} cannot be used here ({error}); use auto, cpu or cuda") from None
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The declared precision; `auto` is bfloat16 where the hardware multiplies it natively, float32 elsewhere.

    Decided by capability and never by timing, so that a resumed run computes what the first one did.
    """
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32


@contextmanager
def sound_kernels(network: nn.Module) -> Iterator[None]:
    """Reproducible kernels on a GPU; on a CPU none of oneDNN's for a network that it cannot train.

    oneDNN's weight gradient of a strided 1x1 convolution, channels last, with fewer input channels than a vector
    register holds (16 floats at most) writes past its buffer: the process dies, hangs or, worse, goes on
    (uxlfoundation/oneDNN#6035, open in torch 2.14).
    """
    broken = any(
        isinstance(layer, nn.Conv2d)
        and set(layer.kernel_size) == {1}
        and max(layer.stride) > 1
        and layer.in_channels < 16 * layer.groups
        for layer in network.modules()
    )
    enabled = bool(torch.backends.mkldnn.enabled)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        torch.backends.mkldnn.enabled = enabled and not broken  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = enabled  # type: ignore[assignment]
