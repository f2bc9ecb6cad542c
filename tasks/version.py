"""A registered version, brought here: its files, and the test rows it was judged on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from labline.declaration import load_usecase, own_modules
from labline.errors import BadInput
from labline.series.usecase import SeriesUseCase
from labline.usecase import ImageUseCase
from tasks.environment import USECASES, storage_root
from tasks.lineage import Trained
from tasks.registry import Registry
from tasks.sharing import adopt, is_here, present
from tasks.stage import lost_connection

if TYPE_CHECKING:
    from mlflow.models import Model

    from labline.data.dataset import Dataset
    from labline.series.dataset import SeriesDataset

# What a network's last layer sees is for monitoring: a network of another width answers the same questions.
BESIDES = ("embedding",)


@dataclass(frozen=True)
class Version:
    """A version's tags, and its files in a local `folder` (see tasks/register.py for what lies in it)."""

    usecase: str
    number: str
    run_id: str
    tags: dict[str, str]
    folder: Path

    @property
    def onnx(self) -> Path:
        """The released ONNX file."""
        return self.folder / str(self.model.flavors["onnx"]["data"])

    @property
    def extra(self) -> Path:
        """The folder of everything but the model."""
        return self.folder / "extra_files"

    @cached_property
    def declaration(self) -> Trained:
        """The declaration it was trained by."""
        return cast(Trained, load_usecase(str(self.extra / "usecase.toml"), USECASES))

    @cached_property
    def model(self) -> Model:
        """MLflow's description of the model."""
        from mlflow.models import Model

        return Model.load(self.folder)

    @property
    def signature(self) -> str:
        """What is asked and what is answered: tensors in MLflow's notation, and what those of a series stand for."""
        signature = self.model.signature
        outputs = [spec for spec in signature.outputs if spec.name not in BESIDES]
        tensors = f"{list(signature.inputs)} to {outputs}"
        if isinstance(self.declaration, ImageUseCase):
            return tensors
        features, network = self.declaration.features, self.declaration.model
        levels = f" {network.quantiles}" if network.head == "quantile" else ""
        forecast = f"the {features.target} of {features.price} {features.horizon} rows ahead, as {network.head}{levels}"
        return f"{tensors}: from {', '.join(features.inputs)} {forecast}"


def fetch_version(registry: Registry, number: str) -> Version:
    """Bring a version's files here; raises BadInput where it does not exist or labline did not register it."""
    import mlflow
    from mlflow.exceptions import MlflowException

    found = registry.version(number)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{registry.usecase}/{number}"))
    except (MlflowException, OSError) as error:
        if lost_connection(error):
            raise  # whoever waits for servers tries again
        raise BadInput(f"the files of {registry.usecase} version {number} cannot be read: {error}") from error
    for name in ("MLmodel", "extra_files/usecase.toml", "extra_files/manifest.parquet"):
        if not (folder / name).is_file():
            raise BadInput(
                f"{registry.usecase} version {number} has no {name}: it was not registered by this labline; "
                f"register one with labline run {registry.usecase}"
            )
    return Version(registry.usecase, number, str(found.run_id or ""), dict(found.tags), folder)


def open_test_rows(version: Version) -> Dataset:
    """The images the version was judged on, from the storage root or, where they are not there, made again.

    Raises BadInput where what is made again is not what the version was judged on.
    """
    from labline.data.dataset import dataset_digest, open_dataset

    data = open_dataset(_kept_or_made_again(version))
    _refuse_other_data(version, dataset_digest(data.manifest, data.labels))
    return data


def open_test_series(version: Version) -> SeriesDataset:
    """The series the forecaster was judged on, as `open_test_rows` opens images."""
    from labline.series.dataset import open_series, series_digest

    data = open_series(_kept_or_made_again(version))
    _refuse_other_data(version, series_digest(data))
    return data


def _refuse_other_data(version: Version, digest: str) -> None:
    if digest != version.tags["dataset.digest"]:
        raise BadInput(
            f"the test rows of {version.usecase} version {version.number} cannot be had any more: its data was "
            f"{version.tags['dataset.digest'][:12]}…, the source holds other data now; train a new version"
        )


def _kept_or_made_again(version: Version) -> Path:
    name = version.tags.get("dataset.directory", "nowhere")
    kept = present(name) if is_here(name) or adopt(name) is not None else storage_root() / name
    return kept if (kept / "dataset.json").is_file() else _made_again(version.declaration)


def _made_again(declaration: Trained) -> Path:
    from tasks.recording import recording
    from tasks.turn import turn

    own_modules(declaration.name)
    with turn(declaration.name, storage_root()), recording(declaration):
        if isinstance(declaration, SeriesUseCase):
            from tasks.series.clean import clean as clean_series
            from tasks.series.ingest import ingest as ingest_series
            from tasks.series.validate import validate as validate_series

            series = clean_series(declaration, validate_series(declaration, ingest_series(declaration)))
            return present(series.directory)
        from tasks.clean import clean
        from tasks.ingest import ingest
        from tasks.validate import validate

        return present(clean(declaration, validate(declaration, ingest(declaration))).directory)
