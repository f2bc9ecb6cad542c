"""`fit`: one loop that learns, that can be killed at any moment, and that says what went wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from labline.distribution import ALONE
from labline.errors import BadInput, LablineError
from labline.image_classification import METRICS, ImageClassification
from labline.models import build
from labline.training import (
    Epoch,
    Fitted,
    Samples,
    choose_precision,
    fit,
    fit_temperature,
    learning_rate_share,
    optimize,
    predict_logits,
)
from labline.usecase import Augmentation, Metric, Training

FULL = Augmentation(policy=["flip", "crop", "photometric", "noise", "erase", "cutmix"], strength=0.3)


def stripes(samples: int, seed: int = 0, share: float = 0.5) -> Samples:
    """Two classes of noisy 28 x 28 images: horizontal (0) and vertical (1) stripes, `share` of them vertical."""
    random = np.random.default_rng(seed)
    targets = (np.arange(samples) < samples * share).astype(np.int64)
    random.shuffle(targets)
    rows, columns = np.mgrid[:28, :28] // 4 % 2
    patterns = np.where(targets[:, None, None] == 1, columns, rows) * 80 + 80
    images = (patterns + random.normal(0, 25, (samples, 28, 28))).clip(0, 255).astype(np.uint8)
    return images[..., None], targets


def train(
    settings: Training, checkpoint: Path | None = None, augmentation: Augmentation | None = None, **fit_options: object
) -> Fitted:
    backbone = build("cnn", channels=1, classes=2, image_size=28, width=0.25, seed=settings.seed)
    return fit(backbone, stripes(300), stripes(100, seed=1), settings, augmentation, checkpoint, **fit_options)  # type: ignore[arg-type]


def assert_same(one: Fitted, other: Fitted) -> None:
    clock = ["seconds", "images_per_second"]
    pd.testing.assert_frame_equal(one.history.drop(columns=clock), other.history.drop(columns=clock), check_exact=True)
    assert one.best_epoch == other.best_epoch
    weights, others = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_it_learns_and_reports_every_epoch() -> None:
    seen: list[Epoch] = []
    fitted = train(Training(epochs=4, batch_size=50), on_epoch=seen.append)
    assert fitted.validation_metric == 1.0
    assert fitted.best_epoch == 4
    assert fitted.history["epoch"].tolist() == [1, 2, 3, 4]
    assert len(seen[0].losses) == 6
    assert fitted.history["train_loss"].iloc[-1] < fitted.history["train_loss"].iloc[0]
    assert {"validation_loss", "validation_accuracy", "validation_roc_auc", "learning_rate", "seconds"} < set(
        fitted.history
    )


@pytest.mark.parametrize("options", [
    {"optimizer": "sgd", "learning_rate": 0.05, "schedule": "cosine"},
    {"schedule": "constant", "ema": 0.8, "precision": "float32"},
    {"imbalance": "weighted-loss", "label_smoothing": 0.1, "gradient_clip": 1.0},
    {"imbalance": "sampler", "precision": "bfloat16"},
    {"optimizer": "muon", "learning_rate": 0.05, "momentum": 0.6},
])  # fmt: skip
def test_every_way_of_training_learns(options: dict[str, object]) -> None:
    settings = Training.model_validate({"epochs": 5, "batch_size": 50, "select": "roc_auc"} | options)
    assert train(settings, augmentation=Augmentation(policy=["flip"])).validation_metric > 0.95


def test_resnet_and_own_networks_train_with_the_same_loop() -> None:
    own = nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Dropout(0.1), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)
    )
    for backbone in (build("resnet", 1, 2, 28, width=0.25), own):
        fitted = fit(backbone, stripes(200), stripes(80, 1), Training(epochs=5, batch_size=25, learning_rate=5e-3))
        assert fitted.validation_metric > 0.9


def test_narrow_strided_projections_do_not_end_the_process() -> None:
    """oneDNN's weight gradient of such a layer, channels last, writes past its buffer (uxlfoundation/oneDNN#6035)."""
    projected = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 1, stride=2), nn.ReLU(),
        nn.Conv2d(8, 8, 5), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    fitted = fit(projected, stripes(200), stripes(80, 1), Training(epochs=4, batch_size=25, learning_rate=5e-3))
    assert fitted.validation_metric > 0.9


def test_the_model_comes_back_ready_to_predict() -> None:
    model = train(Training(epochs=2, batch_size=50, ema=0.5)).model
    assert not model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    logits = predict_logits(model, stripes(100, 1)[0], batch_size=33)
    assert logits.shape == (100, 2)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, predict_logits(model, stripes(100, 1)[0]), rtol=1e-4, atol=1e-5)
    assert predict_logits(model, stripes(100)[0][:0]).shape == (0, 2)


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    settings = Training(epochs=2, batch_size=50)
    assert_same(train(settings, augmentation=FULL), train(settings, augmentation=FULL))
    other = train(settings.model_copy(update={"seed": 1}), augmentation=FULL)
    assert not torch.equal(other.model.backbone.head.weight, train(settings).model.backbone.head.weight)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, optimizer: str) -> None:
    settings = Training.model_validate({"epochs": 5, "batch_size": 50, "optimizer": optimizer, "ema": 0.9})
    checkpoint = tmp_path / "training.pt"

    def interrupt(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, checkpoint, FULL, on_epoch=interrupt)
    seen: list[Epoch] = []
    resumed = train(settings, checkpoint, FULL, on_epoch=seen.append)
    assert [epoch.restored for epoch in seen] == [True, True, False, False, False]
    assert_same(resumed, train(settings, augmentation=FULL))


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_training as example
from labline.usecase import Training

def kill(epoch):
    if epoch.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)

example.train(Training(epochs=5, batch_size=50, ema=0.9), Path(sys.argv[2]), example.FULL, on_epoch=kill)
"""


def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.pt"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(Path(__file__).parent), str(checkpoint)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    settings = Training(epochs=5, batch_size=50, ema=0.9)
    resumed: list[Epoch] = []
    after_the_kill = train(settings, checkpoint, FULL, on_epoch=resumed.append)
    assert sum(epoch.restored for epoch in resumed) == 3
    assert_same(after_the_kill, train(settings, augmentation=FULL))


def small_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)]
        return nn.Sequential(*layers)


def losses(compiled: bool) -> list[float]:
    settings = Training(epochs=2, batch_size=50, precision="float32", compile=compiled)
    seen: list[Epoch] = []
    fit(small_network(), stripes(200), stripes(80, 1), settings, on_epoch=seen.append)
    return [loss for epoch in seen for loss in epoch.losses]


def test_compiling_changes_no_loss() -> None:
    assert losses(compiled=True) == pytest.approx(losses(compiled=False), rel=1e-4)


def test_where_nothing_can_be_compiled_training_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    torch.compiler.reset()
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with fresh_cache():
        assert losses(compiled=True) == losses(compiled=False)
    assert "torch.compile failed" in caplog.text


def test_two_epochs_show_both_sides_of_every_image() -> None:
    samples = stripes(60)
    objective = ImageClassification(
        small_network(), samples, samples, Training(epochs=2), Augmentation(policy=["flip"]), torch.device("cpu")
    )
    plain = objective.model.normalize(torch.from_numpy(samples[0]))
    generator = torch.Generator().manual_seed(0)
    mirrored = []
    for epoch in range(3):
        order = objective.order(epoch, generator)
        images, _ = objective.batch(order, generator)
        as_it_is = (images == plain[order]).flatten(1).all(dim=1)
        assert torch.equal(images[~as_it_is], plain[order][~as_it_is].flip(-1))
        mirrored.append(torch.zeros(60, dtype=torch.bool).scatter(0, order, ~as_it_is))
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[0], mirrored[2])
    assert 15 < mirrored[0].sum() < 45


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    settings = Training(epochs=2, batch_size=50)
    first = train(settings, tmp_path / "training.pt")
    seen: list[Epoch] = []
    assert_same(first, train(settings, tmp_path / "training.pt", on_epoch=seen.append))
    assert all(epoch.restored for epoch in seen)


@pytest.mark.parametrize("checkpoint_content", ["other settings", "half a file"])
def test_a_checkpoint_that_does_not_fit_is_ignored_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, checkpoint_content: str
) -> None:
    checkpoint = tmp_path / "training.pt"
    train(Training(epochs=1, batch_size=60), checkpoint)
    if checkpoint_content == "half a file":
        checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    seen: list[Epoch] = []
    train(Training(epochs=1, batch_size=50), checkpoint, on_epoch=seen.append)
    assert not seen[0].restored
    assert "training starts anew" in caplog.text


def test_early_stopping_keeps_the_best_and_latest_epoch() -> None:
    fitted = train(Training(epochs=40, batch_size=50, early_stopping=3, schedule="constant"))
    scores = fitted.history["validation_accuracy"]
    assert fitted.best_epoch == scores[scores == scores.max()].index[-1] + 1
    assert len(fitted.history) == 40 or len(fitted.history) == fitted.best_epoch + 3
    probabilities = torch.from_numpy(predict_logits(fitted.model, stripes(100, 1)[0])).argmax(dim=1).numpy()
    assert (probabilities == stripes(100, 1)[1]).mean() == pytest.approx(fitted.validation_metric, abs=0.02)


def test_every_metric_that_can_be_declared_is_measured() -> None:
    assert get_args(Metric) == METRICS


class Line:
    """The least that `optimize` takes: a straight line through points, scored by error or by agreement."""

    samples, unit = 64, "points"
    metrics = {"error": "lower", "agreement": "higher"}  # noqa: RUF012
    distribution = ALONE

    def __init__(self, select: str) -> None:
        self.select = select
        self.model = nn.Sequential(nn.Linear(1, 1, bias=False))
        nn.init.zeros_(self.model[0].weight)
        self.backbone = self.model[0]
        self.x = torch.linspace(-1, 1, self.samples).unsqueeze(1)

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(self.samples, generator=generator)

    def batch(self, positions: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[positions], 3 * self.x[positions]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).square().mean()

    def validation_batches(self) -> list[torch.Tensor]:
        return [self.x]

    def validate(self, outputs: torch.Tensor) -> dict[str, float]:
        error = self.loss(outputs, self.x).item()  # validation wants another slope, which training passes through
        return {"loss": error, "error": error, "agreement": -error}

    def finish(self) -> None:
        self.model.eval()

    def identity(self) -> list[bytes]:
        return [self.x.numpy().tobytes()]


def test_the_loop_takes_any_objective_and_knows_which_direction_is_better() -> None:
    settings = Training(epochs=12, batch_size=16, schedule="constant", learning_rate=0.1, precision="float32")
    by_error, by_agreement = optimize(Line("error"), settings), optimize(Line("agreement"), settings)
    errors = by_error.history["validation_error"]
    assert by_error.best_epoch == by_agreement.best_epoch == errors.idxmin() + 1
    assert 1 < by_error.best_epoch < 12
    assert by_error.validation_metric == errors.min() == -by_agreement.validation_metric
    assert {"validation_agreement", "points_per_second"} < set(by_error.history)


def test_an_objective_without_the_selected_metric_is_refused() -> None:
    with pytest.raises(BadInput, match="select = 'eror' is not measured here; did you mean 'error'"):
        optimize(Line("eror"), Training(epochs=1))


@pytest.mark.parametrize("batch_size", [50, 300])  # with one step an epoch, validation is the first to see it
def test_a_diverging_run_says_what_to_lower(batch_size: int) -> None:
    with pytest.raises(LablineError, match="lower .*learning_rate"):
        train(Training(epochs=3, batch_size=batch_size, optimizer="sgd", learning_rate=1e38, gradient_clip=0))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ((np.zeros((0, 28, 28, 1), np.uint8), np.zeros(0, np.int64)), "N > 0"),
        ((np.zeros((4, 28, 28, 1), np.float32), np.zeros(4, np.int64)), "expected uint8"),
        ((np.zeros((4, 28, 28, 1), np.uint8), np.full(4, 2)), "class index 2"),
    ],
)
def test_data_that_does_not_fit_is_refused(split: Samples, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fit(build("cnn", 1, 2, 28), stripes(10), split, Training(epochs=1))


def test_selecting_by_roc_auc_needs_two_classes_in_validation() -> None:
    images, targets = stripes(20)
    one_class = images[targets == 0], targets[targets == 0]
    with pytest.raises(BadInput, match="two classes"):
        fit(build("cnn", 1, 2, 28), stripes(20), one_class, Training(epochs=1, select="roc_auc"))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(BadInput, match="device = 'gpu0'"):
        train(Training(epochs=1, device="gpu0"))


def test_training_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    train(Training(epochs=1, batch_size=50), augmentation=FULL)
    assert torch.equal(before, torch.get_rng_state())


def test_declared_precision_wins_over_the_hardware() -> None:
    assert choose_precision("float32", torch.device("cpu")) == torch.float32
    assert choose_precision("bfloat16", torch.device("cpu")) == torch.bfloat16


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_schedules_rise_to_one_and_fall_to_zero(schedule: str) -> None:
    shares = [learning_rate_share(progress, schedule, 0.25) for progress in np.linspace(0, 1, 101)]
    assert np.argmax(shares) == 25
    assert max(shares) == pytest.approx(1)
    assert shares[-1] == pytest.approx(0)
    assert np.all(np.diff(shares[:26]) > -1e-9)
    assert np.all(np.diff(shares[25:]) < 0)


def test_constant_schedule_stays_after_warmup() -> None:
    assert learning_rate_share(0.05, "constant", 0.1) == pytest.approx(0.5)
    assert learning_rate_share(0.9, "constant", 0.1) == 1
    assert learning_rate_share(0.0, "constant", 0.0) == 1


def test_temperature_recovers_the_factor_by_which_logits_are_overconfident() -> None:
    random = np.random.default_rng(0)
    honest = torch.from_numpy(random.normal(0, 1.5, (20_000, 3))).float()
    targets = torch.multinomial(honest.softmax(dim=1), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    assert fit_temperature((honest * 4).numpy(), targets.numpy()) == pytest.approx(4, rel=0.05)


def test_faultless_validation_does_not_ask_for_infinite_confidence() -> None:
    targets = np.arange(50) % 2
    logits = np.eye(2, dtype=np.float32)[targets] * 3
    calibrated = torch.from_numpy(logits / fit_temperature(logits, targets)).softmax(dim=1).amax(dim=1)
    assert calibrated.mean().item() == pytest.approx(51 / 52, abs=1e-3)  # Laplace: one mistake in N + 2 expected
