"""Labels that people bring in a CSV: which rows are labels, and why the others are not."""

from __future__ import annotations

import csv
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from labline.errors import BadInput
from labline.feedback.identity import issued
from labline.feedback.records import Label

NEEDED, OPTIONAL = ("id", "label"), ("source", "at")
LONGEST = 256  # characters of a label or a source
Row = dict[str, str]


@dataclass(frozen=True)
class LabelTable:
    """What was read: the labels, and the rows that are none, each with the columns `line` and `reason` added."""

    labels: tuple[Label, ...]
    rejected: tuple[Row, ...]


def read_label_table(path: Path, key: bytes, classes: Sequence[str] = (), numeric: bool = False) -> LabelTable:
    """Read `id,label[,source,at]`, UTF-8 with a header, other columns unheeded.

    `id` must have been issued with `key`; `label` must be one of `classes` where these are given, and a finite number
    where `numeric`. `source` is `import` where it is missing; `at` a date such as 2026-11-24T14:30 or seconds since
    1970, by default now. A row read twice gives a label of the same id, which is stored once. Raises BadInput where
    the file is no such table.
    """
    received = time.time()
    labels, rejected = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise BadInput(
                    f"{path}: no column {' and no column '.join(missing)}; expected a CSV with a header: "
                    f"{','.join(NEEDED)} and, where known, {','.join(OPTIONAL)}"
                )
            for row in reader:
                content = {name: (row.get(name) or "").strip() for name in NEEDED + OPTIONAL}
                if reason := _objection(content, key, classes, numeric):
                    rejected.append({**content, "line": str(reader.line_num), "reason": reason})
                else:
                    labels.append(_label(content, received, numeric))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: a CSV in UTF-8 was expected ({error})") from error
    return LabelTable(tuple(labels), tuple(rejected))


def write_rejected(rows: Sequence[Row], path: Path) -> None:
    """Write rejected rows so that they can be mended and read again; raises BadInput where that cannot be done."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, (*NEEDED, *OPTIONAL, "line", "reason"))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise BadInput(f"{path}: rejected rows cannot be written there ({error.strerror})") from error


def _objection(row: Row, key: bytes, classes: Sequence[str], numeric: bool) -> str:
    """Why a row is no label; empty where it is one."""
    label = row["label"]
    if not issued(row["id"], key):
        return "no prediction of this use case was given this id"
    if not label:
        return "no label"
    if max(len(label), len(row["source"])) > LONGEST or "\0" in label + row["source"]:
        return f"a label and a source of at most {LONGEST} characters were expected"
    if numeric and _number(label) is None:
        return "a finite number was expected: the use case forecasts"
    if classes and label not in classes:
        return f"not one of the classes {', '.join(classes)}"
    if row["at"] and _moment(row["at"]) is None:
        return "at: a date such as 2026-11-24T14:30, or seconds since 1970, was expected"
    return ""


def _label(row: Row, received: float, numeric: bool) -> Label:
    written = "\x1f".join(row[name] for name in NEEDED + OPTIONAL)
    moment = _moment(row["at"]) if row["at"] else None
    return Label(
        id=f"csv-{hashlib.blake2b(written.encode(), digest_size=16).hexdigest()}",
        prediction=row["id"],
        label=repr(_number(row["label"])) if numeric else row["label"],
        source=row["source"] or "import",
        at=received if moment is None else moment,
        received=received,
    )


def _moment(written: str) -> float | None:
    seconds = _number(written)
    if seconds is not None:
        return seconds
    try:
        return datetime.fromisoformat(written).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _number(written: str) -> float | None:
    try:
        number = float(written)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
