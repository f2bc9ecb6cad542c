"""The rules of retraining: whether it may be tried, what it learns from, and what its challenger must show.

Pure: attempts and labels come from elsewhere, and what is decided here is done elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from labline.data.dataset import SplitName
from labline.gates import Judgement
from labline.retraining_declaration import Retraining

if TYPE_CHECKING:
    import pandas as pd

# open: begun and not ended, such as killed; nothing: there was nothing to learn from.
Outcome = Literal["open", "promoted", "refused", "failed", "nothing", "abandoned"]
TRIED: tuple[Outcome, ...] = ("promoted", "refused", "failed")  # what cost a training

SECONDS_A_HOUR, SECONDS_A_DAY = 3600.0, 86_400.0
BUDGET_DAYS = 30
OLD, NEW = "old test set", "new window"
PART = "part"


@dataclass(frozen=True)
class Attempt:
    """One retraining: of which champion, why, on the feedback of which window, and what came of it.

    Moments are seconds since 1970: `at` when it began, the window from `since` to before `until`. `version` is the
    challenger's, empty while there is none; `note` says in plain words how it ended; `tries` counts how often it was
    begun, because it was killed or a server was away.
    """

    id: str
    usecase: str
    champion: str
    reason: str
    at: float
    since: float
    until: float
    outcome: Outcome = "open"
    version: str = ""
    note: str = ""
    tries: int = 1


@dataclass(frozen=True)
class Objection:
    """Why nothing is retrained now. `exhausted`: because retraining does not help."""

    reason: str
    exhausted: bool = False


def objection(attempts: Sequence[Attempt], rules: Retraining, champion: str, now: float) -> Objection | None:
    """Why the champion may not be retrained at this moment (seconds since 1970); None where it may.

    `attempts` are all of its use case, in any order. Exhausted is who refused `patience` challengers of one champion
    in a row: another Production, by a retraining or by a person, begins anew.
    """
    tried = sorted((each for each in attempts if each.outcome in TRIED), key=lambda each: each.at)
    refused = 0
    for each in reversed(tried):
        if each.champion != champion or each.outcome != "refused":
            break
        refused += 1
    if refused >= rules.patience:
        versions = ", ".join(each.version or "none registered" for each in tried[-refused:])
        return Objection(
            f"{refused} challengers of version {champion} in a row were refused ({versions}): retraining does not "
            "help. Look at the data and the labels, or train another network",
            exhausted=True,
        )
    ready = tried[-1].at + rules.cooldown_hours * SECONDS_A_HOUR if tried else now
    if now < ready:
        return Objection(
            f"the last retraining began {(now - tried[-1].at) / SECONDS_A_HOUR:.1f} hours ago, and "
            f"retraining.cooldown_hours is {rules.cooldown_hours:g}"
        )
    recent = sum(each.at > now - BUDGET_DAYS * SECONDS_A_DAY for each in tried)
    if recent >= rules.budget:
        return Objection(f"{recent} retrainings within {BUDGET_DAYS} days, and retraining.budget is {rules.budget}")
    return None


@dataclass(frozen=True)
class Chosen:
    """Which labelled predictions join the training data.

    `rows`: of `FeedbackStore.window`, oldest first, with the column `split` added. `left_out`: id, label and the reason
    of every labelled prediction that does not. `fresh`: how many of the rows the champion has never seen.
    """

    rows: pd.DataFrame
    left_out: pd.DataFrame
    fresh: int


def choose_feedback(
    window: pd.DataFrame,
    with_input: Iterable[str],
    labels: Sequence[str],
    rules: Retraining,
    since: float,
    until: float,
    known: Mapping[str, SplitName],
) -> Chosen:
    """Choose among predictions, N rows of `FeedbackStore.window`, by the declared recency policy.

    `with_input` are the ids whose input is kept; `known` on which side the champion had those that it knows, which they
    keep: what has tested it goes on testing. Of the new ones a share tests, validates or trains, by their id: the same
    prediction always stands on the same side. Only the window from `since` to before `until` is held out from, and
    only where labels were no answer to the review queue, which asks about what is uncertain: that would be no sample.
    """
    import pandas as pd

    rows = window[window["label"].notna()].reset_index(drop=True)
    inside = (rows["at"] >= since) & (rows["at"] < until)
    latest = rows["at"].rank(method="first", ascending=False) <= rules.most
    reasons = np.select(
        [
            ~rows["label"].isin(labels),
            ~rows["id"].isin(set(with_input)),
            rows["at"] < until - rules.max_age_days * SECONDS_A_DAY,
            (rules.memory == "window") & ~inside,
            rows["at"] >= until,
            ~latest,
        ],
        [
            "not a class of the champion",
            "its input is not kept",
            f"older than retraining.max_age_days = {rules.max_age_days:g}",
            "before the window",
            "after the window",
            f"not among the latest retraining.most = {rules.most}",
        ],
        default="",
    )
    held_out = inside & (rows["label_source"] != "review")
    drawn = [side(id, rules, fresh) for id, fresh in zip(rows["id"], held_out, strict=True)]
    splits = [known.get(id, split) for id, split in zip(rows["id"], drawn, strict=True)]
    kept = rows.assign(split=pd.Series(splits, dtype=object))[reasons == ""].reset_index(drop=True)
    left_out = rows.loc[reasons != "", ["id", "label"]].assign(reason=reasons[reasons != ""]).reset_index(drop=True)
    return Chosen(kept, left_out, int((~kept["id"].isin(known.keys())).sum()))


def side(id: str, rules: Retraining, may_test: bool) -> SplitName:
    """On which side a prediction stands: evenly drawn by its id, and the same each time."""
    drawn = int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest()) / 2**64
    if drawn < rules.hold_out:
        return "test" if may_test else "train"
    return "validation" if drawn < rules.hold_out + rules.validation else "train"


def part_of(tested_before: npt.NDArray[np.bool_]) -> list[str]:
    """For each test row, N: the old test set, if the champion was tested on it, or the new window."""
    return [OLD if before else NEW for before in tested_before]


def judge_parts(groups: pd.DataFrame, rules: Retraining, smallest: int, against: str) -> list[Judgement]:
    """Hold a challenger against its champion on the old test set and on the new window, each for itself.

    `groups` are those of a `Comparison`. The old test set may be answered worse by `retraining.old_margin` at most,
    the new window no worse at all. Parts of fewer than `smallest` samples are not judged.
    """
    limits = {OLD: rules.old_margin, NEW: 0.0}
    judged = []
    for row in groups[(groups["kind"] == PART) & (groups["support"] >= smallest)].to_dict("records"):
        margin = limits[row["value"]]
        judged.append(
            Judgement(
                gate=f"accuracy on the {row['value']}",
                figure=float(row["difference"]),
                limit=f"difference at least {-margin or 0.0:g}",
                passed=bool(row["difference"] >= -margin),
                note=f"{row['challenger']:.4g} against {row['champion']:.4g} of {against} on {row['support']:,} images",
            )
        )
    return judged
