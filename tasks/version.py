"""A registered version, brought here: its files, and the test rows it was judged on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from labline.declaration import load_image_usecase, load_usecase, own_modules
from labline.errors import BadInput
from labline.usecase import ImageUseCase
from tasks.environment import USECASES, storage_root
from tasks.registry import Registry

if TYPE_CHECKING:
    from mlflow.models import Model

    from labline.data.dataset import Dataset


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
    def declaration(self) -> ImageUseCase:
        """The declaration it was trained by."""
        return load_image_usecase(str(self.extra / "usecase.toml"), USECASES)

    @cached_property
    def model(self) -> Model:
        """MLflow's description of the model."""
        from mlflow.models import Model

        return Model.load(self.folder)

    @property
    def signature(self) -> str:
        """Inputs and outputs, in MLflow's notation."""
        return str(self.model.signature)


def fetch_version(registry: Registry, number: str) -> Version:
    """Bring a version's files here; raises BadInput where it does not exist or labline did not register it."""
    import mlflow
    from mlflow.exceptions import MlflowException

    found = registry.version(number)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{registry.usecase}/{number}"))
    except (MlflowException, OSError) as error:
        raise BadInput(f"the files of {registry.usecase} version {number} cannot be read: {error}") from error
    for name in ("MLmodel", "extra_files/usecase.toml", "extra_files/manifest.parquet"):
        if not (folder / name).is_file():
            raise BadInput(
                f"{registry.usecase} version {number} has no {name}: it was not registered by this labline; "
                f"register one with labline run {registry.usecase}"
            )
    if not isinstance(load_usecase(str(folder / "extra_files" / "usecase.toml"), USECASES), ImageUseCase):
        raise BadInput(
            f"{registry.usecase} forecasts a series, and only image classifiers can be judged and load-tested so far: "
            "move its versions by hand in MLflow's pages (labline ui), which labline obeys, or roll back with --force"
        )
    return Version(registry.usecase, number, str(found.run_id or ""), dict(found.tags), folder)


def open_test_rows(version: Version) -> Dataset:
    """The data set the version was judged on, from the storage root or, where it is not there, made again.

    Raises BadInput where what is made again is not what the version was judged on.
    """
    from labline.data.dataset import dataset_digest, open_dataset

    kept = storage_root() / version.tags.get("dataset.directory", "nowhere")
    if not (kept / "dataset.json").is_file():
        kept = _made_again(version.declaration)
    data = open_dataset(kept)
    if dataset_digest(data.manifest, data.labels) != version.tags["dataset.digest"]:
        raise BadInput(
            f"the test rows of {version.usecase} version {version.number} cannot be had any more: its data was "
            f"{version.tags['dataset.digest'][:12]}…, the source holds other data now; train a new version"
        )
    return data


def _made_again(declaration: ImageUseCase) -> Path:
    from tasks.clean import clean
    from tasks.ingest import ingest
    from tasks.recording import recording
    from tasks.turn import turn
    from tasks.validate import validate

    own_modules(declaration.name)
    with turn(declaration.name, storage_root()), recording(declaration):
        return storage_root() / clean(declaration, validate(declaration, ingest(declaration))).directory
