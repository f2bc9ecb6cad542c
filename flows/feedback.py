"""`labline feedback`: how much came back from production, and taking it out, in, and away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from labline.errors import BadInput
from labline.feedback import FeedbackStore, Role, feedback_key, issued
from tasks.environment import load_environment, storage_root
from tasks.feedback_store import opened_feedback

EVERY_ROLE: tuple[Role, ...] = ("production", "canary", "shadow")
AT_ONCE = 1_000


def show_feedback(usecase: str, json: bool) -> None:
    """Print how many predictions are kept, how many have a label, and how new they are."""
    with opened_store() as store:
        counts = store.counts(usecase)
    share = counts.labelled / counts.predictions if counts.predictions else math.nan
    seen = {"oldest": date(counts.oldest), "newest": date(counts.newest)}
    summary = {"usecase": usecase, **asdict(counts), "labelled_share": share, **seen}
    if counts.predictions:
        versions = ", ".join(f"{count:,} of version {version}" for version, count in counts.versions.items())
        told = (
            f"{usecase}: {counts.predictions:,} predictions ({versions}) from {seen['oldest']} to {seen['newest']}\n"
            f"{counts.labelled:,} of them ({share:.1%}) have a label, {counts.inputs:,} their input; "
            f"{counts.shadows:,} shadow answers beside them"
        )
    else:
        told = f"no predictions of {usecase} are kept: labline serve {usecase} answers some"
    report(told, summary, json)


def delete_feedback(usecase: str, ids: Sequence[str], file: Path | None, json: bool, copies: bool = False) -> None:
    """Delete predictions by id for good, with their inputs, labels and shadows.

    Training sets that hold any of them are named; with `copies` they are deleted too.
    """
    from tasks.training_copies import copies_of, delete_copies

    chosen = list(dict.fromkeys([*ids, *(_lines(file) if file else ())]))
    if not chosen:
        raise BadInput("nothing to delete: --id ID, which may be repeated, or --file with one id a line, was expected")
    load_environment()
    key = feedback_key(storage_root() / "serving", usecase)
    foreign = [each for each in chosen if not issued(each, key)]
    if foreign:
        raise BadInput(
            f"{len(foreign)} of {len(chosen)} ids were not given out for {usecase}, the first is {foreign[0]!r}: "
            "nothing is deleted"
        )
    with opened_store() as store:
        deleted = store.delete(chosen)
    told = (
        f"{usecase}: {deleted:,} predictions are deleted, shadows counted; none of the {len(chosen):,} ids comes back"
    )
    holding = copies_of(chosen)
    if holding and copies:
        delete_copies(holding)
        told += f"\n{len(holding)} training sets that held them are deleted: {_listed(holding)}"
    elif holding:
        told += (
            f"\n{len(holding)} training sets still hold their images, --copies deletes those too: {_listed(holding)}"
        )
    found = {"copies": [str(folder) for folder in holding], "copies_deleted": copies}
    report(told, {"usecase": usecase, "ids": len(chosen), "deleted": deleted, **found}, json)


def retain_feedback(usecase: str, days: float | None, json: bool) -> None:
    """Delete what is older than so many days; without a number, than the version in Production declares."""
    from tasks.retaining import retain

    load_environment()
    retained = retain(usecase, days)
    told = f"{usecase}: {retained.deleted:,} predictions older than {retained.days:g} days are deleted, shadows counted"
    report(told, {"usecase": usecase, **asdict(retained)}, json)


def export_feedback(usecase: str, out: Path, since: str | None, json: bool) -> None:
    """Write predictions and their latest labels to a Parquet file, one row a prediction, shadows included."""
    moment = _moment(since) if since else None
    with opened_store() as store:
        frame = store.window(usecase, since=moment, role=EVERY_ROLE)
    draft = out.with_name(f".{out.name}.draft")
    try:
        frame.to_parquet(draft, index=False)
        draft.replace(out)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise BadInput(f"--out {out}: it cannot be written ({error.strerror or error})") from error
    labelled = int(frame["label"].count())
    told = f"{out}: {len(frame):,} predictions of {usecase}, {labelled:,} with a label"
    report(told, {"usecase": usecase, "out": str(out), "predictions": len(frame), "labelled": labelled}, json)


def import_feedback(
    usecase: str, file: Path, classes: Sequence[str], json: bool, source: str | None = None, unfilled: bool = False
) -> None:
    """Store the labels of a CSV; rows that are none are written beside it, with the reason.

    `source` is that of rows that name none; with `unfilled`, rows without a label are left for later.
    """
    from labline.feedback.label_table import read_label_table, write_rejected

    with opened_store() as store:
        newest = store.window(usecase, last=1)
        forecasts = len(newest) == 1 and math.isnan(newest["confidence"].iloc[0])
        table = read_label_table(file, feedback_key(storage_root() / "serving", usecase), classes, forecasts)
        named = [replace(each, source=source) if source and each.source == "import" else each for each in table.labels]
        batches = (named[start : start + AT_ONCE] for start in range(0, len(named), AT_ONCE))
        deleted = sum(store.write(batch) for batch in batches)
    quarantine = file.with_name(f"{file.stem}.quarantine.csv")
    rejected = [row for row in table.rejected if row["label"] or not unfilled]
    if rejected:
        write_rejected(rejected, quarantine)
    summary = {
        "usecase": usecase,
        "accepted": len(table.labels) - deleted,
        "deleted": deleted,
        "unfilled": len(table.rejected) - len(rejected),
        "rejected": len(rejected),
        "quarantine": str(quarantine) if rejected else None,
    }
    told = f"{usecase}: {summary['accepted']:,} labels are stored"
    if deleted:
        told += f"; {deleted:,} were of predictions that were deleted"
    if summary["unfilled"]:
        told += f"; {summary['unfilled']:,} rows have none yet"
    if rejected:
        told += f"; {len(rejected):,} rows are none, see {quarantine}"
    report(told, summary, json)


@contextmanager
def opened_store() -> Iterator[FeedbackStore]:
    """The feedback store of the environment that `mlflow.env` gives."""
    load_environment()
    with opened_feedback() as store:
        yield store


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(str(folder.relative_to(storage_root())) for folder in folders)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--file {file}: a text file with one id a line was expected ({error})") from error


def _moment(written: str) -> float:
    try:
        return datetime.fromisoformat(written).astimezone().timestamp()
    except ValueError:
        raise BadInput(f"--since {written}: expected a date such as 2026-11-24 or 2026-11-24T14:30") from None


def date(moment: float) -> str | None:
    """A moment in seconds since 1970 in the time of this machine; None for NaN."""
    return None if math.isnan(moment) else datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def report(told: str, summary: dict[str, Any], json: bool) -> None:
    """Print a summary for people and, where asked for, as JSON."""
    from rich.console import Console

    from flows.console import print_json_line

    Console(stderr=json, highlight=False, markup=False, soft_wrap=True).print(told)
    if json:
        print_json_line(summary)
