"""The declaration of an application: what `usecases/<name>.toml` may say (read by `labline.declaration`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from labline.engine import Engine
from labline.errors import nearest
from labline.monitoring.declaration import Monitoring
from labline.retraining_declaration import Retraining
from labline.tuning.declaration import Tuning, check_space

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "roc_auc"]
Corruption = Literal["noise", "blur", "brightness"]
Calibration = Literal["minmax", "percentile", "entropy"]
CompressionPass = Literal["int8-static", "int8-dynamic", "int8-aware", "prune", "distil"]
Cost = Literal["latency_ms_p50", "latency_ms_p99", "throughput", "bytes"]
Figure = Literal[
    Metric, "log_loss", "calibration_error", "accuracy_noise", "accuracy_blur", "accuracy_brightness", Cost
]
ImageTransform = Literal[
    "flip", "flip-vertical", "rotate90", "crop", "affine", "photometric", "noise", "erase", "mixup", "cutmix"
]


NAME = r"^[a-z][a-z0-9-]*$"  # of a use case: it becomes part of file names, addresses and MLflow's filters


class Section(BaseModel):
    """A part of the declaration: strict keys, never changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(Section):
    """Shares of train, validation and test; used where the source brings no split of its own."""

    train: Fraction = 0.7
    validation: Fraction = 0.15
    test: Fraction = 0.15
    seed: int = 0

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, not {total:g}")
        return self


class Data(Section):
    """Where samples come from and the shape they are stored in."""

    source: str = Field(description="surfaces | image-folder | csv | medmnist-npz | torchvision | module:function")
    path: str | None = Field(None, description="folder, .zip, .npz or .csv; ${VARIABLES} are expanded")
    image_size: int = Field(ge=8, le=1024, description="images are stored as squares of this many pixels")
    channels: Literal[1, 3] = 3
    split: Split = Split()
    labels: list[str] | None = Field(None, description="the label set; default: the classes found")
    annotations: str | None = Field(None, description="CSV of sample_id, label, annotator")
    options: dict[str, Any] = Field(default_factory=dict, description="passed to the source")
    max_pixels: int = Field(64_000_000, gt=0, description="larger images are quarantined")
    max_rejected: Fraction = Field(0.2, description="a larger share of unreadable files stops the flow")
    feedback: str | None = Field(None, description="labelled feedback that joins them, as labline retrain writes it")


class Expectations(Section):
    """Which Great Expectations suite guards the data."""

    suite: str = "images"


class Cleaning(Section):
    """What happens to duplicates, blank images, outliers and suspicious labels."""

    duplicates: Literal["drop", "keep"] = "drop"
    near_duplicates: Literal["drop", "keep"] = "drop"
    blank: Literal["drop", "keep"] = "drop"
    outliers: Literal["quarantine", "keep"] = "keep"
    label_issues: Literal["off", "keep", "quarantine", "relabel"] = "keep"
    relabel_from: str | None = Field(None, description="CSV of sample_id, label: the reviewed list")
    folds: int = Field(3, ge=2, le=10, description="folds of the cross-validated predictions")

    @model_validator(mode="after")
    def _relabel_needs_a_file(self) -> Cleaning:
        if self.label_issues == "relabel" and not self.relabel_from:
            raise ValueError('label_issues = "relabel" needs relabel_from = "reviewed.csv"')
        return self


class Augmentation(Section):
    """Which random transforms training images pass through, and how strongly."""

    policy: list[ImageTransform] = []
    strength: Fraction = 0.5


class Model(Section):
    """The network: a shipped architecture or the user's own `module:Class`."""

    architecture: str = Field("cnn", description="cnn | resnet | module:Class")
    width: float = Field(1.0, gt=0, le=8, description="multiplies the channels of every layer")
    depth: int = Field(1, ge=1, le=8, description="blocks per stage")
    start_from: str | None = Field(None, description="model.safetensors of a version to go on from; default: scratch")
    options: dict[str, Any] = Field(default_factory=dict, description="passed to the constructor")


class Training(Section):
    """The training loop."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(128, ge=1)
    accumulate: int = Field(1, ge=1, description="parts of a batch that are computed one after the other: saves memory")
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: float = Field(2e-3, gt=0)
    momentum: Fraction = 0.9
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    warmup: Fraction = Field(0.25, description="share of the steps in which the rate rises first")
    label_smoothing: Fraction = 0.0
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the weights' moving average; 0 is off")
    gradient_clip: float = Field(0.0, ge=0, description="largest gradient norm; 0 is off")
    early_stopping: int = Field(0, ge=0, description="epochs without progress on validation; 0 is off")
    select: Metric = Field("accuracy", description="the validation metric that decides")
    imbalance: Literal["none", "weighted-loss", "sampler"] = "none"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = Field(False, description="torch.compile the network: pays on a GPU, and in long runs")
    device: str = "auto"
    seed: int = 0


class Compression(Section):
    """Which smaller candidates are searched for, and how much they may lose and cost."""

    passes: list[CompressionPass] = ["int8-static", "int8-aware", "prune"]
    max_metric_drop: Fraction = 0.005
    max_bytes: int | None = Field(None, gt=0, description="largest file that may be chosen")
    max_latency_ms_p99: float | None = Field(None, gt=0, description="slowest model that may be chosen, for one sample")
    prune_ratios: list[Annotated[float, Field(gt=0, lt=0.95)]] = Field(
        [0.25, 0.5, 0.75], description="shares of channels removed; the search halves the list, it does not try all"
    )
    student_widths: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.5], description="shares of the declared width that networks taught from scratch have"
    )
    finetune_epochs: int | None = Field(None, ge=0, description="of pruned networks; default: a third of training's")
    calibrations: list[Calibration] = Field(
        ["minmax", "percentile", "entropy"], min_length=1, description="the second is tried where the first loses"
    )
    calibration_samples: int = Field(256, ge=8)
    float_layers: int = Field(3, ge=0, description="layers that may stay in float32 where quantizing them loses most")
    objective: Literal["latency", "throughput", "size"] = "latency"
    minutes: float = Field(15.0, ge=0, description="after so long no further network is trained")


class Export(Section):
    """The formats of the released model."""

    formats: list[Literal["onnx", "tflite"]] = ["onnx"]


LARGEST_SEVERITY: dict[Corruption, float] = {"noise": 1.0, "blur": 8.0, "brightness": 1.0}


class Evaluation(Section):
    """What the released model is shown besides the test images as they are."""

    corruptions: dict[Corruption, float] = Field(
        {"noise": 0.02, "blur": 0.4, "brightness": 0.1},
        description="severities: noise and brightness as a share of 255, blur as sigma at 32 pixels",
    )

    @field_validator("corruptions", mode="before")
    @classmethod
    def _are_known(cls, declared: object) -> object:
        known = get_args(Corruption)
        for name in declared if isinstance(declared, dict) else ():
            if name not in known:
                raise ValueError(f"{name!r} is not known; {nearest(str(name), known)}")
        return declared

    @field_validator("corruptions")
    @classmethod
    def _change_something(cls, corruptions: dict[Corruption, float]) -> dict[Corruption, float]:
        for name, severity in corruptions.items():
            most = LARGEST_SEVERITY[name]
            size = abs(severity) if name == "brightness" else severity  # darker is a corruption too
            if not 0 < size <= most:
                limits = f"above 0 and at most {most:g}" + (", or its negative" if name == "brightness" else "")
                raise ValueError(f"{name} must be {limits}, not {severity:g}; leave it out if it is not wanted")
        return corruptions


class Gate(Section):
    """Limits on one figure of the evaluation."""

    min: float | None = None
    max: float | None = None
    low: float | None = Field(None, description="smallest lower end of the 95 % interval")

    @model_validator(mode="after")
    def _says_something(self) -> Gate:
        if self.min is None and self.max is None and self.low is None:
            raise ValueError("a gate needs at least one of min, max and low")
        return self


class Promotion(Section):
    """What a challenger must show against the champion before it takes its place."""

    margin: Fraction = Field(0.01, description="how much worse it may be on training.select: non-inferiority")
    slice_margin: Fraction = Field(0.05, description="how much worse it may be on any class, slice or corruption")
    smallest_slice: int = Field(20, ge=1, description="classes and slices of fewer samples are not judged")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the one-sided bound held against the margin")


class Serving(Section):
    """How the service answers with a version, and what it remembers of its answers."""

    canary: Fraction = Field(0.0, description="share of requests that the version in Staging answers")
    shadow: Fraction = Field(0.0, description="share of requests that it answers too, unseen, for comparison")
    max_batch: int = Field(32, ge=1, le=4096, description="requests answered in one run of the model at most")
    max_wait_ms: float = Field(0.0, ge=0, le=1000, description="how long a request may wait for others to join it")
    keep: Literal["input", "features"] = Field("input", description="features: no image, no window is stored")
    unknown_labels: Literal["refuse", "accept"] = Field("refuse", description="in feedback: classes it never saw")
    retention_days: float = Field(365.0, gt=0, description="labline feedback USECASE retain deletes what is older")


class UseCase(Section):
    """What every application declares, whatever it learns from."""

    name: str = Field(pattern=NAME)
    title: str
    expectations: Expectations = Expectations()
    compression: Compression = Compression()
    export: Export = Export()
    gates: dict[str, Gate] = Field(default_factory=dict, description="limits on figures of the released model")
    promotion: Promotion = Promotion()
    serving: Serving = Serving()
    monitoring: Monitoring = Monitoring()
    retraining: Retraining = Retraining()
    tuning: Tuning = Tuning()
    engine: Engine = Engine()

    @property
    def data_path(self) -> str | None:
        """Where the data lie, if they are not built in."""
        return None

    @model_validator(mode="after")
    def _space_names_settings(self) -> UseCase:
        check_space(self.tuning.space, type(self))
        return self


class ImageUseCase(UseCase):
    """An application that classifies images."""

    task: Literal["classification"] = "classification"
    modality: Literal["image"] = "image"
    data: Data
    cleaning: Cleaning = Cleaning()
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    training: Training
    evaluation: Evaluation = Evaluation()

    @property
    def data_path(self) -> str | None:
        """Folder, archive or file, as declared."""
        return self.data.path

    @model_validator(mode="after")
    def _gates_name_figures(self) -> ImageUseCase:
        measured = list(self.evaluation.corruptions)
        for name, gate in self.gates.items():
            corruption = name.removeprefix("accuracy_")
            if name not in get_args(Figure):
                raise ValueError(f"gates.{name}: no such figure; {nearest(name, get_args(Figure))}")
            if corruption in get_args(Corruption) and corruption not in measured:
                raise ValueError(
                    f"gates.{name}: {corruption} is not measured; add it to evaluation.corruptions, "
                    f"which has {', '.join(measured) or 'none'}"
                )
            if name in get_args(Cost) and gate.low is not None:
                raise ValueError(f"gates.{name}.low: a cost has no interval; use min or max")
        return self
