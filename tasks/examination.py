"""An image classifier before its test images: figures measured anew, and how it compares with another version."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from labline.errors import BadInput
from labline.gates import Judgement, judge_comparison
from labline.retraining import PART, judge_parts, part_of
from labline.usecase import Corruption, ImageUseCase
from tasks.evaluate import corrupted_probabilities, probabilities
from tasks.version import Version, open_test_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from labline.comparison import Comparison
    from labline.data.dataset import Dataset
    from labline.evaluation import Interval

    Images = npt.NDArray[np.uint8]
    Probabilities = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Answers:
    """What a version answers to test images, as they are and corrupted: float N x K each."""

    clean: Probabilities
    corrupted: dict[Corruption, Probabilities]

    def of(self, rows: npt.NDArray[np.bool_]) -> Answers:
        """Those of some rows alone."""
        return Answers(self.clean[rows], {name: answered[rows] for name, answered in self.corrupted.items()})


@dataclass(frozen=True)
class ClassifierExamination:
    """A classifier, the data set it was judged on, and what it answers to the test split; a `judging.Examination`."""

    version: Version
    declaration: ImageUseCase
    data: Dataset
    answers: Answers

    def figures(self) -> tuple[dict[str, float], dict[str, Interval]]:
        """The metrics, and accuracy under each corruption, with their intervals."""
        from labline.evaluation import evaluate, named_figures, robustness

        targets, rows = self.data.split("test")[1], self.data.rows("test").reset_index(drop=True)
        severities = self.declaration.evaluation.corruptions
        found = evaluate(self.answers.clean, targets, self.data.labels, rows)
        return named_figures(replace(found, robustness=robustness(self.answers.corrupted, severities, targets)))

    def samples(self, most: int) -> npt.NDArray[Any]:
        """The first test images."""
        return self.data.split("test")[0][:most]

    def comparable(self, champion: Version) -> bool:
        """Whether images and classes are the champion's."""
        return self.version.signature == champion.signature

    def compare(self, champion: Version) -> Comparison:
        """Both on the test images that the champion was not trained on; raises BadInput for none left."""
        import pandas as pd

        from labline.comparison import compare

        seen = pd.read_parquet(champion.extra / "manifest.parquet")
        rows = self.data.rows("test")
        unseen = ~rows["sha256"].isin(seen.loc[seen["split"] != "test", "sha256"]).to_numpy()
        if not unseen.any():
            raise BadInput(f"version {champion.number} was trained on every test row of version {self.version.number}")
        images, targets = self.data.split("test")
        ours = self.answers.of(unseen)
        theirs = answer(champion, images[unseen], self.declaration)
        return compare(
            theirs.clean,
            ours.clean,
            targets[unseen],
            self.data.labels,
            rows[unseen].reset_index(drop=True),
            self.declaration.training.select,
            confidence=self.declaration.promotion.confidence,
            corrupted={name: (theirs.corrupted[name], ours.corrupted[name]) for name in ours.corrupted},
            groupings=_parts(rows[unseen], seen),
        )

    def judge(self, champion: Version) -> list[Judgement]:
        """Non-inferiority, the worst class, slice and corruption, and after a retraining the old and the new part."""
        found, against, promotion = self.compare(champion), f"version {champion.number}", self.declaration.promotion
        parts = judge_parts(found.groups, self.declaration.retraining, promotion.smallest_slice, against)
        return [*judge_comparison(found, promotion, against), *parts]


def examine_classifier(version: Version, declaration: ImageUseCase) -> ClassifierExamination:
    """Ask the version about its test images; raises BadInput where they cannot be had."""
    data = open_test_rows(version)
    return ClassifierExamination(version, declaration, data, answer(version, data.split("test")[0], declaration))


def _parts(rows: pd.DataFrame, seen: pd.DataFrame) -> dict[str, list[str]]:
    """Which test rows are of the champion's test set and which of a window of feedback after it, where any are."""
    from labline.data.feedback import SOURCE

    tested = rows["sha256"].isin(seen.loc[seen["split"] == "test", "sha256"])
    before = (tested | (rows["source"] != SOURCE)).to_numpy()
    return {} if before.all() else {PART: part_of(before)}


def answer(version: Version, images: Images, declared: ImageUseCase) -> Answers:
    """Ask a version's released file about images, as they are and corrupted as declared."""
    from labline.export.onnx_runtime import session

    model, severities = session(version.onnx, threads=0), declared.evaluation.corruptions
    return Answers(probabilities(model, images), corrupted_probabilities(model, images, severities))
