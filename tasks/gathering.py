"""Gathering: the declaration of a challenger, whose data are the champion's and the labelled feedback since."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.declaration import as_toml
from labline.errors import BadInput
from labline.markdown import markdown_table
from labline.retraining import Attempt, Chosen, choose_feedback
from labline.usecase import ImageUseCase
from tasks.environment import storage_root
from tasks.feedback_store import opened_feedback
from tasks.version import Version

if TYPE_CHECKING:
    import pandas as pd

STORE = "${LABLINE_STORE}"  # in declared paths, so that a storage root may be moved


@dataclass(frozen=True)
class Gathered:
    """What a challenger is trained by: `declaration` is the path of its .toml, below the storage root.

    `counts` of the feedback that joins: by split, and `fresh`, what the champion has never seen. `left_out`: by reason.
    """

    declaration: str
    counts: dict[str, int]
    left_out: dict[str, int]


def gather(champion: Version, attempt: Attempt) -> Gathered | None:
    """Put together what the challenger learns from; None where there is too little that is new.

    Once gathered, an attempt keeps to it: labels that come while it runs, or after it was killed, are for the next.
    Raises BadInput for a version of a series.
    """
    declaration = refuse_series(champion)
    folder = storage_root() / "retraining" / champion.usecase
    kept = folder / "attempts" / f"{attempt.id}.json"
    if kept.is_file():
        return Gathered(**json.loads(kept.read_text()))
    chosen, path = _feedback(champion, declaration, attempt, folder)
    if path is None:
        return None
    gathered = Gathered(
        declaration=str(_declare(champion, declaration, path).relative_to(storage_root())),
        counts={**_counts(chosen.rows["split"]), "fresh": chosen.fresh},
        left_out=_counts(chosen.left_out["reason"]),
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(asdict(gathered)))
    return gathered


def refuse_series(version: Version) -> ImageUseCase:
    """The declaration of a version of images; raises BadInput for a series, which learns from rows of its source."""
    if not isinstance(version.declaration, ImageUseCase):
        raise BadInput(
            f"{version.usecase} learns from the rows of a series, and the feedback holds none: bring its source up to "
            f"date, move data.split on and train it again with labline run {version.usecase} --reason …"
        )
    return version.declaration


def as_markdown(gathered: Gathered) -> str:
    """What joins and what does not, for the Prefect page."""
    import pandas as pd

    tables = {"labelled feedback that joins": gathered.counts, "left out": gathered.left_out}
    return "\n\n".join(
        f"**{heading}**\n\n" + markdown_table(pd.DataFrame({"": list(counts), "predictions": list(counts.values())}))
        for heading, counts in tables.items()
        if counts
    )


def _feedback(
    champion: Version, declaration: ImageUseCase, attempt: Attempt, folder: Path
) -> tuple[Chosen, Path | None]:
    """What was chosen, and the file it was written to; no file where too little is new."""
    from labline.data.feedback import PREFIX, write_feedback

    rules = declaration.retraining
    labels = json.loads((champion.extra / "evaluation.json").read_text())["labels"]
    with opened_feedback() as store:
        window = store.window(champion.usecase, until=attempt.until)
        labelled = window[window["label"].notna()]
        inputs = store.inputs(labelled["id"])
    chosen = choose_feedback(
        labelled, inputs.keys(), labels, rules, attempt.since, attempt.until, _known(champion, PREFIX)
    )
    if chosen.fresh < rules.fewest:
        return chosen, None
    return chosen, write_feedback(chosen.rows, inputs, folder / "feedback")


def _counts(values: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().items()}


def _known(champion: Version, prefix: str) -> dict[str, Any]:
    """On which side the champion had the predictions that it learned from."""
    import pandas as pd

    manifest: pd.DataFrame = pd.read_parquet(champion.extra / "manifest.parquet")
    ours = manifest[manifest["sample_id"].str.startswith(prefix)]
    return dict(zip(ours["sample_id"].str.removeprefix(prefix), ours["split"], strict=True))


def _declare(champion: Version, declaration: ImageUseCase, feedback: Path) -> Path:
    """Write the challenger's declaration, and what it goes on from, beside its feedback."""
    rules, declared = declaration.retraining, declaration.model_dump(exclude_none=True)
    declared["data"]["feedback"] = _below_store(feedback)
    declared["model"].pop("start_from", None)
    if rules.start == "warm":
        weights = feedback.parent / f"version-{champion.number}.safetensors"
        shutil.copy(champion.extra / "model.safetensors", weights)
        declared["model"]["start_from"] = _below_store(weights)
    for name in ("epochs", "learning_rate"):
        if (value := getattr(rules, name)) is not None:
            declared["training"][name] = value
    path = feedback.parent / f"{champion.usecase}-after-{champion.number}.toml"
    path.write_text(as_toml(ImageUseCase.model_validate(declared)))
    return path


def _below_store(path: Path) -> str:
    return f"{STORE}/{path.relative_to(storage_root())}"
