"""`labline review`: the predictions most worth a label, as a table, a CSV and images; and the labels back."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.feedback import date, import_feedback, opened_store, report
from labline.errors import BadInput, LablineError
from tasks.environment import load_environment, storage_root

if TYPE_CHECKING:
    from labline.familiarity import Familiar

RECENT = 10_000  # of the newest predictions, those without a label are ranked
COLUMNS = ("id", "label", "answer", "confidence", "reason", "source", "reference", "file")
WIDE = 140  # columns of a terminal, from which on an id has room
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs cells that begin so
Row = dict[str, Any]


def review(usecase: str, count: int, out: Path | None, images: Path | None, json: bool) -> None:
    """List the predictions most worth a label; write them to a CSV, and their inputs to a folder."""
    from labline.review import pick

    with opened_store() as store:
        recent = store.window(usecase, last=RECENT)
        since = float(recent["at"].min()) if len(recent) else None
        shadows = store.window(usecase, since=since, last=RECENT, role=("shadow",))
        versions = {version: _familiar(usecase, version) for version in recent["version"].unique()}
        picks = pick(recent, shadows, {name: known for name, known in versions.items() if known}, count)
        answers = recent.set_index("id")
        rows: list[Row] = [{**asdict(each), **_answered(answers.loc[each.id])} for each in picks]
        files = _write_inputs(store.inputs(row["id"] for row in rows), images) if images else {}
    rows = [{**row, "file": files.get(row["id"])} for row in rows]
    if out:
        _write_table(rows, out)
    unknown = [version for version, known in versions.items() if known is None]
    summary = {
        "usecase": usecase,
        "recent": len(recent),
        "labelled": int(recent["label"].notna().sum()),
        "picks": rows,
        "out": str(out) if out else None,
        "images": len(files),
        "unknown_versions": unknown,
    }
    _show(rows, json)
    report(_told(summary, images), summary, json)


def import_review(usecase: str, file: Path, source: str | None, json: bool) -> None:
    """Store the labels of a CSV that `review` wrote and somebody filled in, as far as it is filled in."""
    load_environment()
    import_feedback(usecase, file, _classes(usecase), json, source or "review", unfilled=True)


def _familiar(usecase: str, version: str) -> Familiar | None:
    """What is known of a version; None where the service has not brought it to this machine, or it is damaged."""
    from labline.familiarity import familiar_version, local_version

    folder = local_version(storage_root(), usecase, version)
    try:
        return familiar_version(folder) if folder else None
    except LablineError:
        return None


def _classes(usecase: str) -> Sequence[str]:
    """The classes of the versions on this machine; none where there are no versions, or one takes any label."""
    classes: dict[str, None] = {}
    for path in (storage_root() / "serving" / usecase / "versions").glob("*/extra_files/usecase.toml"):
        declared = tomllib.loads(path.read_text(encoding="utf-8"))
        known = _familiar(usecase, path.parents[1].name.partition("-")[0])
        if declared.get("serving", {}).get("unknown_labels") == "accept" or known is None:
            return ()
        classes |= dict.fromkeys(known.labels)
    return tuple(classes)


def _answered(row: Any) -> Row:
    """What is shown of a prediction beside its pick."""
    return {
        "at": date(row["at"]),
        "version": row["version"],
        "answer": row["answer"],
        "confidence": float(row["confidence"]),
        "reference": row["source"],
    }


def _show(rows: Sequence[Row], json: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=json, highlight=False)
    narrow = console.width < WIDE
    table = Table()
    for heading in ("… id" if narrow else "id", "time", "answer", "confidence", "reason"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "time")
    for row in rows:
        id, at = (row["id"][-8:], row["at"][5:16]) if narrow else (row["id"], row["at"])
        cells = id, at, row["answer"], _confidence(row), "; ".join(row["reasons"])
        table.add_row(*map(Text, cells))  # as text: what is written in brackets is no markup
    if rows:
        console.print(table)


def _confidence(row: Row) -> str:
    return f"{row['confidence']:.3f}" if row["confidence"] == row["confidence"] else ""


def _told(summary: Row, images: Path | None) -> str:
    usecase, rows = summary["usecase"], summary["picks"]
    if not rows:
        return f"{usecase}: nothing to label among its {summary['recent']:,} newest predictions"
    told = (
        f"{usecase}: {len(rows)} predictions to label; {summary['labelled']:,} of the {summary['recent']:,} newest "
        "have a label"
    )
    if summary["unknown_versions"]:
        told += (
            f"\nversion {', '.join(summary['unknown_versions'])} is not on this machine (labline serve brings it): "
            "ranked without its reference sample"
        )
    if images:
        told += f"\n{summary['images']} inputs are in {images}"
    if summary["out"]:
        told += f"\nfill in the column label of {summary['out']}, then: labline review {usecase} --import FILE"
    return told


def _write_table(rows: Sequence[Row], path: Path) -> None:
    """A CSV in which only the labels are missing."""
    try:
        with path.open("w", newline="", encoding="utf-8-sig") as file:  # by its mark, spreadsheets know UTF-8
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            for row in rows:
                filled = {**row, "confidence": _confidence(row), "label": "", "reason": "; ".join(row["reasons"])}
                writer.writerow({name: _harmless(filled[name]) for name in COLUMNS})
    except OSError as error:
        raise BadInput(f"--out {path}: it cannot be written ({error.strerror or error})") from error


def _harmless(cell: object) -> str:
    """A cell that no spreadsheet takes for a formula; numbers stay as they are."""
    text = "" if cell is None else str(cell)
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(FORMULA) else text
    return text


def _write_inputs(inputs: dict[str, bytes], folder: Path) -> dict[str, str]:
    """Write inputs as <id>.png or <id>.npy; returns the file names by id."""
    from labline.feedback.inputs import as_png, is_picture

    names = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for id, kept in inputs.items():
            picture = is_picture(kept)
            names[id] = f"{id}.{'png' if picture else 'npy'}"
            (folder / names[id]).write_bytes(as_png(kept) if picture else kept)
    except OSError as error:
        raise BadInput(f"--images {folder}: inputs cannot be written there ({error.strerror or error})") from error
    return names
