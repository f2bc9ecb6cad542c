"""Training: `fit` is one loop for CPU and GPU that can be killed at any moment and resumed to the same result.

Shape legend: N samples, H x W pixels, C channels, K classes.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from labline.augmentation import augment, mix
from labline.errors import BadInput, LablineError
from labline.evaluation import classification_metrics
from labline.models.classifier import ImageClassifier
from labline.models.cnn import fit_whitening
from labline.usecase import Augmentation, Metric, Training

log = logging.getLogger(__name__)

Samples = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]

WHITENING_SAMPLES = 5000  # of airbench, Jordan 2024, arXiv:2404.00498
CHECKPOINT_FORMAT = 1


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed. Losses are in nats; `learning_rate` is that of the last step.

    `seconds` is training alone, without validation and checkpoint; `losses` has one entry a step;
    `restored` marks an epoch that an earlier, interrupted call of `fit` trained.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    validation_balanced_accuracy: float
    validation_macro_f1: float
    validation_roc_auc: float
    learning_rate: float
    seconds: float
    images_per_second: float
    losses: tuple[float, ...]
    restored: bool = False


@dataclass(frozen=True)
class Fitted:
    """A trained classifier, on the CPU in evaluation mode, with its calibration temperature fitted.

    `history` has one row an epoch and the columns of `Epoch` but `losses` and `restored`;
    `validation_metric` is the declared metric of `best_epoch`, whose weights the model has.
    """

    model: ImageClassifier
    history: pd.DataFrame
    best_epoch: int
    validation_metric: float


def fit(
    backbone: nn.Module,
    train: Samples,
    validation: Samples,
    settings: Training,
    augmentation: Augmentation | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Fitted:
    """Train `backbone` (changed in place) on uint8 N x H x W x C images and int64 class indices.

    Which epoch's weights are kept: with early stopping or a constant rate, those of the best epoch by
    `settings.select` on validation, the later one of equals; otherwise those of the last epoch, because a
    schedule that ends at zero is made for its end, and the best of many noisy epochs flatters itself.

    With `checkpoint`, everything is saved to that file after each epoch, and a later call with the same
    arguments continues from there to exactly the result of a run that was never interrupted; a file of other
    settings or data is ignored, and the log says so. Restored epochs are handed to `on_epoch` first.

    Raises BadInput where samples and network do not fit together, LablineError where the loss is not finite.
    """
    augmentation = augmentation or Augmentation()
    device = choose_device(settings.device)
    classes = _check(backbone, train, validation, settings)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _sound_kernels(backbone):
        model = ImageClassifier(backbone, *_pixel_statistics(train[0])).to(device)
        model = model.to(memory_format=torch.channels_last)
        run = _Run(model, train, validation, settings, augmentation, device, classes)
        digest = _digest(backbone, train, validation, settings, augmentation)
        if checkpoint is not None and (saved := _read_checkpoint(checkpoint, digest)) is not None:
            run.restore(saved)
            _report(run.history, on_epoch)
        while not _finished(run.history, settings):
            run.train_epoch()
            if checkpoint is not None:
                _write_checkpoint(checkpoint, run.state() | {"digest": digest})
            if on_epoch is not None:
                on_epoch(run.history[-1])
        return run.result()


def predict_logits(
    model: ImageClassifier, images: npt.NDArray[np.uint8], batch_size: int = 512, device: str = "cpu"
) -> npt.NDArray[np.float32]:
    """Calibrated float32 logits N x K of uint8 N x H x W x C images; the model is left on `device`, evaluating."""
    target = choose_device(device)
    model = model.to(target).eval()
    with torch.inference_mode():
        batches = [
            model(_tensor(images[start : start + batch_size]).to(target)) for start in _starts(images, batch_size)
        ]
    return torch.cat(batches).cpu().numpy()


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


def learning_rate_share(progress: float, schedule: str, warmup: float) -> float:
    """The share of the largest learning rate at `progress` (0 to 1) through the run.

    All schedules rise linearly during the first `warmup` share. Then `one-cycle` falls linearly to zero (the
    triangle of Smith 2018, arXiv:1803.09820, as used by airbench), `cosine` falls along half a cosine to
    zero (Loshchilov and Hutter 2016, arXiv:1608.03983), and `constant` stays.
    """
    if progress < warmup:
        return max(progress / warmup, 0.02)
    remaining = (1 - progress) / (1 - warmup) if warmup < 1 else 1.0
    if schedule == "one-cycle":
        return remaining
    return (1 - math.cos(math.pi * remaining)) / 2 if schedule == "cosine" else 1.0


def fit_temperature(logits_NK: npt.NDArray[np.float32], targets_N: npt.NDArray[np.int64]) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017, arXiv:1706.04599).

    Targets are smoothed by Laplace's rule of succession, in the spirit of Platt 1999 ("Probabilistic outputs
    for support vector machines", section 2.2), so that a faultless validation split does not ask for
    infinite confidence. The answer lies within 0.05 and 20.
    """
    logits, targets = torch.from_numpy(logits_NK).double(), torch.from_numpy(targets_N)
    smoothing = logits.shape[1] / (len(logits) + logits.shape[1])

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), targets, label_smoothing=smoothing).item()

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return math.exp(found.x)


class _Run:
    """A training run under way: all that changes while it runs, and that a checkpoint holds."""

    def __init__(
        self,
        model: ImageClassifier,
        train: Samples,
        validation: Samples,
        settings: Training,
        augmentation: Augmentation,
        device: torch.device,
        classes: int,
    ) -> None:
        self.model, self.validation, self.settings, self.augmentation = model, validation, settings, augmentation
        self.device, self.classes = device, classes
        self.images_NHWC, self.targets_N = _tensor(train[0]), torch.from_numpy(np.ascontiguousarray(train[1]))
        self.precision = choose_precision(settings.precision, device)
        self.batch_size = min(settings.batch_size, len(self.targets_N))
        self.steps = len(self.targets_N) // self.batch_size
        self.class_weights_K = _class_weights(self.targets_N, classes)
        some_NHWC = self.images_NHWC[:: -(-len(self.images_NHWC) // WHITENING_SAMPLES)]  # of all classes, where sorted
        fit_whitening(model.backbone, model.normalize(some_NHWC.to(device)))
        self.optimizer = _optimizer(model.backbone, settings, device)
        self.averaged = _averaged(model, settings.ema)
        self.history: list[Epoch] = []
        self.kept: dict[str, Any] = {}

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are validated and kept: the moving average where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def train_epoch(self) -> None:
        """One pass over the training samples, then validation; appends to the history."""
        epoch = len(self.history)
        seed = int(np.random.SeedSequence([self.settings.seed, epoch]).generate_state(1)[0])
        torch.manual_seed(seed)  # for a network's own randomness, such as dropout
        generator = torch.Generator(self.device).manual_seed(seed)
        self.model.train()
        started = time.perf_counter()
        losses = [
            self._step(batch, epoch + step / self.steps, generator)
            for step, batch in enumerate(self._batches(generator))
        ]
        losses_at_host = torch.stack(losses).tolist()
        seconds = time.perf_counter() - started
        _check_finite(losses_at_host, "training loss", epoch + 1, self.settings)
        self.history.append(
            Epoch(
                epoch=epoch + 1,
                train_loss=float(np.mean(losses_at_host)),
                **self._validate(),
                learning_rate=self.optimizer.param_groups[0]["lr"],
                seconds=seconds,
                images_per_second=self.steps * self.batch_size / seconds,
                losses=tuple(losses_at_host),
            )
        )
        if _best_epoch(self.history, self.settings) == epoch + 1:
            self.kept = copy.deepcopy(self.evaluated.state_dict())

    def _batches(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Sample positions of each full batch, shuffled, or drawn with every class equally likely."""
        samples = len(self.targets_N)
        if self.settings.imbalance == "sampler":
            weights_N = self.class_weights_K[self.targets_N].to(self.device)
            order_N = torch.multinomial(weights_N, samples, replacement=True, generator=generator)
        else:
            order_N = torch.randperm(samples, generator=generator, device=self.device)
        return iter(torch.split(order_N.cpu()[: self.steps * self.batch_size], self.batch_size))

    def _step(self, batch: torch.Tensor, epochs_done: float, generator: torch.Generator) -> torch.Tensor:
        images_NCHW = self.model.normalize(self.images_NHWC[batch].to(self.device))
        targets = self.targets_N[batch].to(self.device)
        policy, strength = self.augmentation.policy, self.augmentation.strength
        images_NCHW = augment(images_NCHW, policy, strength, generator)
        images_NCHW, targets = mix(images_NCHW, targets, self.classes, policy, strength, generator)
        for group in self.optimizer.param_groups:
            progress = epochs_done / self.settings.epochs
            share = learning_rate_share(progress, self.settings.schedule, self.settings.warmup)
            group["lr"] = self.settings.learning_rate * share
        with self._autocast():
            logits_NK = self.model.backbone(images_NCHW.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(
            logits_NK.float(),
            targets,
            weight=self.class_weights_K.to(self.device) if self.settings.imbalance == "weighted-loss" else None,
            label_smoothing=self.settings.label_smoothing,
        )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self.settings.gradient_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)

    @torch.inference_mode()
    def _validate(self) -> dict[str, Any]:
        images, targets_N = self.validation
        network = self.evaluated.eval()
        with self._autocast():
            batches = [
                network(_tensor(images[start : start + 1000]).to(self.device)).float().cpu()
                for start in _starts(images, 1000)
            ]
        logits_NK = torch.cat(batches)
        _check_finite(logits_NK.sum(dim=1).tolist(), "validation output", len(self.history) + 1, self.settings)
        metrics = classification_metrics(logits_NK.double().softmax(dim=1).numpy(), targets_N)
        return {
            "validation_loss": metrics["log_loss"],
            **{f"validation_{name}": metrics[name] for name in get_args(Metric)},
        }

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, in types that `torch.load(weights_only=True)` reads."""
        return {
            "model": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "kept": self.kept,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from a state."""
        self.model.load_state_dict(saved["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.history = [Epoch(**(epoch | {"restored": True})) for epoch in saved["history"]]
        self.kept = saved["kept"]

    def result(self) -> Fitted:
        """The kept weights, calibrated."""
        self.model.load_state_dict(self.kept)
        model = self.model.cpu().to(memory_format=torch.contiguous_format).eval()
        images, targets_N = self.validation
        model.temperature.fill_(fit_temperature(predict_logits(model, images), targets_N))
        best = _best_epoch(self.history, self.settings)
        history = pd.DataFrame([asdict(epoch) for epoch in self.history]).drop(columns=["losses", "restored"])
        metric = getattr(self.history[best - 1], f"validation_{self.settings.select}")
        return Fitted(model, history, best, metric)


def _check_finite(values: list[float], what: str, epoch: int, settings: Training) -> None:
    if not all(map(math.isfinite, values)):
        raise LablineError(
            f"the {what} is no longer finite in epoch {epoch}: training diverged; lower [training] learning_rate "
            f"(now {settings.learning_rate:g}) or set gradient_clip = 1.0 (now {settings.gradient_clip:g})"
        )


def _best_epoch(history: list[Epoch], settings: Training) -> int:
    """The epoch whose weights are kept, counted from 1; see `fit`."""
    if settings.early_stopping == 0 and settings.schedule != "constant":
        return len(history)
    return max(history, key=lambda epoch: (getattr(epoch, f"validation_{settings.select}"), epoch.epoch)).epoch


def _finished(history: list[Epoch], settings: Training) -> bool:
    if len(history) >= settings.epochs:
        return True
    patience = settings.early_stopping
    return bool(patience and history and len(history) - _best_epoch(history, settings) >= patience)


def _optimizer(network: nn.Module, settings: Training, device: torch.device) -> torch.optim.Optimizer:
    """Weight decay acts on weights alone: not on biases and the scales of norms, which have one dimension."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=fused
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999), fused=fused)


def _averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    if decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def _class_weights(targets_N: torch.Tensor, classes: int) -> torch.Tensor:
    """Weights inverse to class frequency, 1 for a class of average size (King and Zeng 2001, as in scikit-learn)."""
    counts_K = torch.bincount(targets_N, minlength=classes).clamp_min(1)
    return len(targets_N) / (classes * counts_K.float())


def _pixel_statistics(images_NHWC: npt.NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per channel, from exact counts of the 256 pixel values."""
    values = np.arange(256.0)
    counts_CV = np.stack(
        [np.bincount(images_NHWC[..., c].ravel(), minlength=256) for c in range(images_NHWC.shape[-1])]
    )
    shares_CV = counts_CV / counts_CV.sum(axis=1, keepdims=True)
    mean_C = shares_CV @ values
    std_C = np.sqrt(shares_CV @ values**2 - mean_C**2)
    return torch.from_numpy(mean_C).float(), torch.from_numpy(std_C).float()


def _check(backbone: nn.Module, train: Samples, validation: Samples, settings: Training) -> int:
    """The number of classes the network tells apart; raises BadInput where data and network do not fit."""
    for name, (images, targets) in (("train", train), ("validation", validation)):
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(targets) or len(images) == 0:
            raise BadInput(
                f"the {name} split has images {images.dtype} {images.shape} and {len(targets)} targets; expected "
                "uint8 N x height x width x channels with N targets and N > 0; look at the split shares in [data]"
            )
    _, height, width, channels = train[0].shape
    with torch.no_grad():
        network = copy.deepcopy(backbone).cpu().eval()
        classes = network(torch.zeros(2, channels, height, width)).shape[1]
    largest = int(max(train[1].max(), validation[1].max()))
    if largest >= classes:
        raise BadInput(f"the network tells {classes} classes apart, but the data has class index {largest}; rebuild it")
    if settings.select == "roc_auc" and len(np.unique(validation[1])) < 2:
        raise BadInput('[training] select = "roc_auc" needs two classes in the validation split; use accuracy')
    return int(classes)


def _digest(
    backbone: nn.Module, train: Samples, validation: Samples, settings: Training, augmentation: Augmentation
) -> str:
    """sha256 of everything that decides the result but the initial weights, which a checkpoint replaces."""
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    described = (CHECKPOINT_FORMAT, settings.model_dump_json(), augmentation.model_dump_json(), str(backbone), shapes)
    digest = hashlib.sha256(repr(described).encode())
    for images, targets in (train, validation):
        digest.update(repr(images.shape).encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(targets).data)
    return digest.hexdigest()


def _read_checkpoint(path: Path, digest: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        log.warning("checkpoint %s cannot be read (%s): training starts anew", path, error)
        return None
    if saved.get("digest") != digest:
        log.warning("checkpoint %s is of other settings, data or network: training starts anew", path)
        return None
    log.info("resuming after epoch %d from %s", len(saved["history"]), path)
    return saved


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replaced in one move: whoever is killed meanwhile leaves the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _report(history: list[Epoch], on_epoch: Callable[[Epoch], None] | None) -> None:
    if on_epoch is not None:
        for epoch in history:
            on_epoch(epoch)


@contextmanager
def _sound_kernels(network: nn.Module) -> Iterator[None]:
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


def _tensor(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images))


def _starts(images: npt.NDArray[np.uint8], batch_size: int) -> range:
    return range(0, max(len(images), 1), batch_size)  # no images make one empty batch
