"""Training: one loop for CPU and GPU that can be killed at any moment and resumed to the same result.

What images and series do differently, an `Objective` says: `labline.image_classification` has that of images,
`labline.series.forecasting` that of series.

Several processes can train together, each with its share of every batch (`labline.distribution`); each runs this loop.

Shape legend: N samples, B samples of a batch.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from labline.devices import choose_device, choose_precision, sound_kernels
from labline.distribution import ALONE, Distribution
from labline.errors import BadInput, LablineError, nearest
from labline.image_classification import ImageClassification, Samples, SomeSamples, fit_temperature, predict_logits
from labline.models.classifier import ImageClassifier
from labline.models.weights import restore_weights
from labline.muon import Muon

if TYPE_CHECKING:
    from labline.usecase import Augmentation, Training

__all__ = [
    "Epoch",
    "Fitted",
    "Objective",
    "Samples",
    "choose_device",
    "choose_precision",
    "fit",
    "fit_temperature",
    "learning_rate_share",
    "optimize",
    "predict_logits",
]

log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)
Better = Literal["higher", "lower"]

CHECKPOINT_FORMAT = 3


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one epoch showed. `learning_rate` is that of the last step.

    Losses are the objective's, for classification in nats. Beside these fields an epoch has `validation_<metric>`
    for each metric of its objective, and its speed, such as `images_per_second`.

    `seconds` is training alone, without validation and checkpoint; `losses` has one entry a step;
    `restored` marks an epoch that an earlier, interrupted call trained.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    seconds: float
    losses: tuple[float, ...]
    restored: bool = False

    if TYPE_CHECKING:  # the fields that an objective adds are made at run time

        def __getattr__(self, name: str) -> float: ...


@dataclass(frozen=True)
class Fitted(Generic[Network]):
    """A trained model, on the CPU in evaluation mode, calibrated where its objective does so.

    `history` has one row an epoch and the columns of `Epoch` but `losses` and `restored`;
    `validation_metric` is the selected metric of `best_epoch`, whose weights the model has.
    """

    model: Network
    history: pd.DataFrame
    best_epoch: int
    validation_metric: float


class Objective(Protocol[Network]):
    """What is learned from what: all that the loop does not know of images and series.

    `model` is trained and kept, on the device; `backbone` is its part that maps a batch's inputs to outputs.
    `samples` are those of one epoch, called `unit` in the history. `metrics` says of each validation metric
    which direction is better, and `select` names the one that decides.

    Where several processes train together, `distribution` says which part of each batch is this one's.
    """

    model: Network
    backbone: nn.Module
    samples: int
    unit: str
    metrics: Mapping[str, Better]
    select: str
    distribution: Distribution

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """N positions of training samples: one epoch, counted from 0."""

    def batch(self, positions_B: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of the backbone, augmented, and targets, both on the device: of a batch, this process's share."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The scalar to minimise, of the backbone's float32 outputs."""

    def validation_batches(self) -> Iterator[torch.Tensor]:
        """Inputs of the whole model, in the order of the validation split: every `size`-th batch, from `rank` on."""

    def validate(self, outputs: torch.Tensor) -> dict[str, float]:
        """`loss` and every metric, of the whole model's float32 outputs, N x outputs."""

    def finish(self) -> None:
        """Bring the model to the CPU, evaluating, and calibrate it."""

    def identity(self) -> Iterator[bytes | memoryview]:
        """All that decides the result beside settings and network: augmentation, choices, this process's data."""


def fit(
    backbone: nn.Module,
    train: SomeSamples,
    validation: SomeSamples,
    settings: Training,
    augmentation: Augmentation | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    start_from: Path | None = None,
    distribution: Distribution = ALONE,
) -> Fitted[ImageClassifier]:
    """Train `backbone` (changed in place) on uint8 N x H x W x C images and int64 class indices; see `optimize`.

    `start_from` is the .safetensors of an earlier model of this network, whose weights and preprocessing are gone on
    from. Raises BadInput where samples, network and weights do not fit together, LablineError where the loss is not
    finite.
    """
    device = choose_device(settings.device)
    objective = ImageClassification(backbone, train, validation, settings, augmentation, device, distribution)
    if start_from is not None:
        restore_weights(objective.model, start_from)
    return optimize(objective, settings, checkpoint, on_epoch)


def optimize(
    objective: Objective[Network],
    settings: Training,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Fitted[Network]:
    """Train the objective's model as the settings say.

    Which epoch's weights are kept: with early stopping or a constant rate, those of the best epoch by the
    objective's `select` on validation, the later one of equals; otherwise those of the last epoch, because a
    schedule that ends at zero is made for its end, and the best of many noisy epochs flatters itself.

    With `checkpoint`, everything is saved to that file after each epoch, and a later call with the same
    arguments continues from there to exactly the result of a run that was never interrupted; a file of other
    settings or data is ignored, and the log says so. Restored epochs are handed to `on_epoch` first.

    Of processes that train together, all call this with the same arguments; the first alone reads and writes the
    checkpoint, is asked to `on_epoch`, and returns a model that is finished.

    Raises BadInput for a metric to select by that the objective does not have and for batches too small to share,
    LablineError where the loss is not finite.
    """
    if objective.select not in objective.metrics:
        hint = nearest(objective.select, objective.metrics)
        raise BadInput(f"[training] select = {objective.select!r} is not measured here; {hint}")
    device = choose_device(settings.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), sound_kernels(objective.backbone):
        run = _Run(objective, settings, device)
        digest = "" if checkpoint is None else _digest(objective, settings)
        run.restore(objective.distribution.from_first(lambda: _read_checkpoint(checkpoint, digest)))
        first = objective.distribution.rank == 0
        if first:
            _report(run.history, on_epoch)
        while not run.finished():
            run.train_epoch()
            if first and checkpoint is not None:
                _write_checkpoint(checkpoint, run.state() | {"digest": digest})
            if first:
                _report(run.history[-1:], on_epoch)
        return run.result()


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


class _Run(Generic[Network]):
    """A training run under way: all that changes while it runs, and that a checkpoint holds."""

    def __init__(self, objective: Objective[Network], settings: Training, device: torch.device) -> None:
        self.objective, self.settings, self.device = objective, settings, device
        self.model, self.distribution = objective.model, objective.distribution
        # Machines may differ in what they compute natively, and in the last bits of what they start from.
        self.precision, products, start = self.distribution.from_first(self._first_choices)
        self.model.load_state_dict(start)
        self.batch_size = min(settings.batch_size, objective.samples)
        _check_shares(self.batch_size, settings, self.distribution)
        self.steps = objective.samples // self.batch_size
        self.network = self._compiled() if settings.compile else objective.backbone
        self.optimizer = _optimizer(objective.backbone, settings, device, products)
        self.averaged = _averaged(self.model, settings.ema)
        self.epoch_type = _epoch_type(objective)
        self.history: list[Epoch] = []
        self.kept: dict[str, Any] = {}

    def _first_choices(self) -> tuple[torch.dtype, torch.dtype, dict[str, Any]]:
        """The precisions of the network and of Muon's products, and the weights that training starts from."""
        precisions = [choose_precision(name, self.device) for name in (self.settings.precision, "auto")]
        state = self.model.state_dict()
        at_host = {name: one.cpu() if isinstance(one, torch.Tensor) else one for name, one in state.items()}
        return precisions[0], precisions[1], at_host

    def _compiled(self) -> Callable[[torch.Tensor], torch.Tensor]:
        if self.distribution.size == 1:
            return _compiled(self.objective.backbone, self.device)
        log.warning("[training] compile = true is for one worker: %d train without", self.distribution.size)
        return self.objective.backbone

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are validated and kept: the moving average where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def train_epoch(self) -> None:
        """One pass over the training samples, then validation; appends to the history."""
        epoch = len(self.history)
        seed = int(np.random.SeedSequence([self.settings.seed, epoch]).generate_state(1)[0])
        torch.manual_seed(seed + self.distribution.rank)  # for a network's own randomness, such as dropout
        generator = torch.Generator(self.device).manual_seed(seed)
        self.model.train()
        started = time.perf_counter()
        order_N = self.objective.order(epoch, generator).cpu()[: self.steps * self.batch_size]
        losses = [
            self._step(positions_B, epoch + step / self.steps, generator)
            for step, positions_B in enumerate(torch.split(order_N, self.batch_size))
        ]
        losses_at_host = torch.stack(losses).tolist()
        seconds = time.perf_counter() - started
        _check_finite(losses_at_host, "training loss", epoch + 1, self.settings)
        validated = {f"validation_{name}": figure for name, figure in self._validate().items()}
        figures: dict[str, Any] = validated | {
            f"{self.objective.unit}_per_second": self.steps * self.batch_size / seconds
        }
        self.history.append(
            self.epoch_type(
                epoch=epoch + 1,
                train_loss=float(np.mean(losses_at_host)),
                learning_rate=self.optimizer.param_groups[0]["lr"],
                seconds=seconds,
                losses=tuple(losses_at_host),
                **figures,
            )
        )
        if self.best_epoch() == epoch + 1:
            self.kept = copy.deepcopy(self.evaluated.state_dict())

    def _step(self, positions_B: torch.Tensor, epochs_done: float, generator: torch.Generator) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            progress = epochs_done / self.settings.epochs
            share = learning_rate_share(progress, self.settings.schedule, self.settings.warmup)
            group["lr"] = self.settings.learning_rate * share
        self.optimizer.zero_grad(set_to_none=True)
        parts = torch.tensor_split(positions_B, self.settings.accumulate)
        losses = [self._add_gradients(part_B, len(part_B) / len(positions_B), generator) for part_B in parts]
        self.distribution.add_gradients(self.model.parameters())
        if self.settings.gradient_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return torch.stack(losses).sum()

    def _add_gradients(self, positions_B: torch.Tensor, weight: float, generator: torch.Generator) -> torch.Tensor:
        """Forward and backward; returns the loss times its weight."""
        inputs, targets = self.objective.batch(positions_B, generator)
        with self._autocast(), self.distribution.statistics():
            outputs = self.network(inputs)
        loss = self.objective.loss(*self.distribution.whole(outputs.float(), targets)) * weight
        torch.autograd.backward(loss)
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        network = self.evaluated.eval()
        with self._autocast():
            batches = [network(inputs.to(self.device)).float().cpu() for inputs in self.objective.validation_batches()]
        outputs = _in_turns(self.distribution.collect(batches))
        _check_finite(outputs.sum(dim=1).tolist(), "validation output", len(self.history) + 1, self.settings)
        return self.objective.validate(outputs)

    def best_epoch(self) -> int:
        """The epoch whose weights are kept, counted from 1; see `optimize`."""
        if self.settings.early_stopping == 0 and self.settings.schedule != "constant":
            return len(self.history)
        sign = 1 if self.objective.metrics[self.objective.select] == "higher" else -1
        return max(self.history, key=lambda epoch: (sign * self._selected(epoch), epoch.epoch)).epoch

    def _selected(self, epoch: Epoch) -> float:
        return float(getattr(epoch, f"validation_{self.objective.select}"))

    def finished(self) -> bool:
        """Whether the epochs are done, or patience is."""
        if len(self.history) >= self.settings.epochs:
            return True
        patience = self.settings.early_stopping
        return bool(patience and self.history and len(self.history) - self.best_epoch() >= patience)

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, in types that `torch.load(weights_only=True)` reads."""
        return {
            "model": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "kept": self.kept,
        }

    def restore(self, saved: dict[str, Any] | None) -> None:
        """Continue from a state, if there is one."""
        if saved is None:
            return
        self.model.load_state_dict(saved["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.history = [self.epoch_type(**(epoch | {"restored": True})) for epoch in saved["history"]]
        self.kept = saved["kept"]

    def result(self) -> Fitted[Network]:
        """The kept weights; the first process's are calibrated."""
        self.model.load_state_dict(self.kept)
        if self.distribution.rank == 0:
            self.objective.finish()
        best = self.best_epoch()
        history = pd.DataFrame([asdict(epoch) for epoch in self.history]).drop(columns=["losses", "restored"])
        return Fitted(self.model, history, best, self._selected(self.history[best - 1]))


def _epoch_type(objective: Objective[Any]) -> type[Epoch]:
    """`Epoch` with the fields that this objective adds to it."""
    added = [*(f"validation_{name}" for name in objective.metrics), f"{objective.unit}_per_second"]
    return make_dataclass("Epoch", [(name, float) for name in added], bases=(Epoch,), frozen=True, kw_only=True)


def _in_turns(batches: Sequence[list[torch.Tensor]]) -> torch.Tensor:
    """The batches of all processes, each of which has every `size`-th, in their order."""
    turns = range(max(len(mine) for mine in batches))
    return torch.cat([mine[turn] for turn in turns for mine in batches if turn < len(mine)])


def _check_shares(batch_size: int, settings: Training, distribution: Distribution) -> None:
    parts = settings.accumulate * distribution.size
    if batch_size < parts:
        raise BadInput(
            f"batches of {batch_size} samples cannot be shared: {distribution.size} workers with [training] "
            f"accumulate = {settings.accumulate} need {parts} at least; increase batch_size, or lower one of the two"
        )


def _check_finite(values: list[float], what: str, epoch: int, settings: Training) -> None:
    if not all(map(math.isfinite, values)):
        raise LablineError(
            f"the {what} is no longer finite in epoch {epoch}: training diverged; lower [training] learning_rate "
            f"(now {settings.learning_rate:g}) or set gradient_clip = 1.0 (now {settings.gradient_clip:g})"
        )


def _optimizer(
    network: nn.Module, settings: Training, device: torch.device, products: torch.dtype
) -> torch.optim.Optimizer:
    """Weight decay acts on weights alone: not on biases and the scales of norms, which have one dimension.

    Muon's orthogonal steps, and its decay, are for hidden weights: not for those of the output layer, the last. It
    takes matrix products in the precision of `products`.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices, rest = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    if settings.optimizer == "muon":
        hidden = {"params": matrices[:-1], "weight_decay": settings.weight_decay, "orthogonal": True}
        return Muon([hidden, {"params": matrices[-1:] + rest}], settings.learning_rate, settings.momentum, products)
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    fused = device.type in ("cpu", "cuda")
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=fused
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999), fused=fused)


def _compiled(
    network: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network compiled for batches of one shape, as CUDA graphs on a GPU; as it is where compiling fails."""
    from torch._dynamo.exc import BackendCompilerFailed

    compiled = torch.compile(network, mode="reduce-overhead" if device.type == "cuda" else None, dynamic=False)
    failed = False

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        nonlocal failed
        if not failed:
            try:
                return compiled(inputs)
            except BackendCompilerFailed as error:
                log.warning("torch.compile failed (%s): training goes on without", str(error).split("\n", 1)[0])
                failed = True
        return network(inputs)

    return forward


def _averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    if decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]


def _digest(objective: Objective[Any], settings: Training) -> str:
    """sha256 of everything that decides the result but the initial weights, which a checkpoint replaces."""
    network = objective.backbone
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    described = (CHECKPOINT_FORMAT, settings.model_dump_json(), objective.select, str(network), shapes)
    digest = hashlib.sha256(repr(described).encode())
    for part in objective.identity():
        digest.update(part)
    digests = objective.distribution.collect(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_checkpoint(path: Path | None, digest: str) -> dict[str, Any] | None:
    if path is None or not path.is_file():
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


def _report(history: Sequence[Epoch], on_epoch: Callable[[Epoch], None] | None) -> None:
    if on_epoch is not None:
        for epoch in history:
            on_epoch(epoch)
