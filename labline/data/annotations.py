"""Labels that people hand in as CSV: annotations of several annotators, and reviewed corrections."""

from __future__ import annotations

import difflib
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from labline.errors import BadInput, nearest

ANNOTATION_COLUMNS = ("sample_id", "label", "annotator")
REVIEW_COLUMNS = ("sample_id", "label")


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree beyond chance: 1 is perfect, 0 is chance, NaN where it cannot be told.

    `samples` is the number of samples that two or more annotators labelled.
    """

    measure: Literal["Cohen's kappa", "Krippendorff's alpha"]
    value: float
    annotators: int
    samples: int


@dataclass(frozen=True)
class Merged:
    """A manifest with annotations merged in.

    `conflicts` has one row for each annotated sample whose annotators differ among themselves or from the
    manifest: `sample_id`, `given` (manifest), `votes` (such as "crazing 2, patches 1"), `label` (what now
    holds) and `resolution` ("majority", or "tie, label kept").
    """

    manifest: pd.DataFrame
    conflicts: pd.DataFrame
    agreement: Agreement


def merge_annotations(
    manifest: pd.DataFrame, csv_path: Path, labels: tuple[str, ...], absent: Collection[str] = ()
) -> Merged:
    """Give annotated samples the label that most of their annotators chose; a tie keeps the manifest's label.

    The CSV has ANNOTATION_COLUMNS; where an annotator labels a sample twice, the later row counts. Rows
    that name a sample in `absent` (quarantined earlier) are passed over. Raises BadInput as `read_labels`.
    """
    annotations = read_labels(csv_path, manifest["sample_id"], labels, ANNOTATION_COLUMNS, absent)
    annotations = annotations.drop_duplicates(["sample_id", "annotator"], keep="last")
    votes = pd.crosstab(annotations["sample_id"], annotations["label"]).reindex(columns=list(labels), fill_value=0)
    counts_NK = votes.to_numpy()
    most_N = counts_NK.max(axis=1, initial=0)
    tied_N = (counts_NK == most_N[:, None]).sum(axis=1) > 1
    given_N = manifest.set_index("sample_id")["label"].reindex(votes.index).to_numpy()
    chosen_N = np.where(tied_N, given_N, np.array(labels, dtype=object)[counts_NK.argmax(axis=1)])
    disputed_N = (most_N < counts_NK.sum(axis=1)) | (chosen_N != given_N)
    conflicts = pd.DataFrame(
        {
            "sample_id": votes.index[disputed_N],
            "given": given_N[disputed_N],
            "votes": [_spell_votes(row) for _, row in votes[disputed_N].iterrows()],
            "label": chosen_N[disputed_N],
            "resolution": np.where(tied_N, "tie, label kept", "majority")[disputed_N],
        }
    )
    merged = relabel(manifest, pd.DataFrame({"sample_id": votes.index, "label": chosen_N}))
    return Merged(merged, conflicts, agreement(annotations))


def read_review(
    csv_path: Path, sample_ids: Collection[str], labels: tuple[str, ...], absent: Collection[str] = ()
) -> pd.DataFrame:
    """The reviewed list of `cleaning.relabel_from`: `sample_id` and the `label` it shall have.

    Other columns are ignored, so the written review list can be corrected and handed back. Raises BadInput
    as `read_labels`, and where two rows give one sample different labels.
    """
    review = read_labels(csv_path, sample_ids, labels, REVIEW_COLUMNS, absent).drop_duplicates(list(REVIEW_COLUMNS))
    repeated = review[review["sample_id"].duplicated(keep=False)].sort_values("sample_id", kind="stable")
    if len(repeated):
        sample_id = repeated["sample_id"].iloc[0]
        contradiction = repeated[repeated["sample_id"] == sample_id]
        spelt = ", ".join(f"row {line}: {label!r}" for line, label in contradiction["label"].items())
        raise BadInput(f"{csv_path}: sample {sample_id!r} has more than one label ({spelt}). Keep one of these rows.")
    return review.reset_index(drop=True)


def relabel(manifest: pd.DataFrame, review: pd.DataFrame) -> pd.DataFrame:
    """The manifest with the labels of `review` (`sample_id`, `label`); samples it does not name stay as they are."""
    corrected = manifest["sample_id"].map(review.set_index("sample_id")["label"])
    return manifest.assign(label=corrected.fillna(manifest["label"]).astype(manifest["label"].dtype))


def agreement(annotations: pd.DataFrame) -> Agreement:
    """Agreement of `annotations` (`sample_id`, `label`, `annotator`), chance corrected.

    Two annotators: Cohen's kappa (Cohen 1960) over the samples both labelled. Otherwise Krippendorff's
    alpha for nominal data, which allows for samples that only some annotators labelled (Krippendorff 2011,
    "Computing Krippendorff's Alpha-Reliability", section C).
    """
    table = annotations.pivot(index="sample_id", columns="annotator", values="label")
    shared = table[table.notna().sum(axis=1) >= 2]
    if table.shape[1] == 2:
        varied = pd.unique(shared.to_numpy().ravel()).size > 1
        kappa = cohen_kappa_score(shared.iloc[:, 0], shared.iloc[:, 1]) if varied else np.nan
        return Agreement("Cohen's kappa", float(kappa), 2, len(shared))
    return Agreement("Krippendorff's alpha", _krippendorff_alpha(shared), table.shape[1], len(shared))


def read_labels(
    csv_path: Path,
    sample_ids: Collection[str],
    labels: tuple[str, ...],
    columns: tuple[str, ...],
    absent: Collection[str] = (),
) -> pd.DataFrame:
    """Read `columns` of a UTF-8 CSV whose rows give samples a class; the index is the row number in the file.

    Cells are stripped of surrounding blanks, empty rows are skipped, rows that name a sample in `absent`
    are left out. Raises BadInput naming file, row, value and the nearest valid name where the file cannot
    be read or is empty, a column is missing, a cell is empty, or a class or sample is unknown.
    """
    frame = _read_csv(csv_path)
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise BadInput(
            f"{csv_path}: column {missing[0]!r} is missing; expected {', '.join(columns)}, "
            f"found {', '.join(map(repr, frame.columns))}. Name the columns in the first row."
        )
    rows = frame[list(columns)]
    rows = rows[(rows != "").any(axis=1)]
    if rows.empty:
        raise BadInput(f"{csv_path}: no rows below the header; expected at least one of {', '.join(columns)}.")
    for column in columns:
        _refuse(csv_path, rows[rows[column] == ""], f"{column!r} is empty; fill it in or delete the row.")
    strangers = rows[~rows["label"].isin(labels)]
    if len(strangers):
        label = strangers["label"].iloc[0]
        _refuse(csv_path, strangers, f"unknown class {label!r}: {nearest(label, labels)}")
    rows = rows[~rows["sample_id"].isin(set(absent))]
    strangers = rows[~rows["sample_id"].isin(set(sample_ids))]
    if len(strangers):
        sample_id = strangers["sample_id"].iloc[0]
        _refuse(csv_path, strangers, f"unknown sample_id {sample_id!r}: {_nearest_sample(sample_id, sample_ids)}")
    return rows


def _read_csv(csv_path: Path) -> pd.DataFrame:
    """Every cell as stripped text, indexed by row number in the file (the header is row 1)."""
    try:
        content = csv_path.read_bytes()
        text = content.decode("utf-8-sig")
        frame = pd.read_csv(
            io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False, index_col=False
        )
    except OSError as error:
        raise BadInput(f"{csv_path}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise BadInput(
            f"{csv_path}, row {row}: byte {content[error.start]:#04x} is not UTF-8. Save the file as CSV in UTF-8."
        ) from error
    except pd.errors.EmptyDataError as error:
        raise BadInput(f"{csv_path}: the file is empty; expected a CSV with a header row.") from error
    except pd.errors.ParserError as error:
        raise BadInput(
            f"{csv_path}: not a valid CSV ({str(error).strip()}). Quote cells that contain commas."
        ) from error
    frame.columns = frame.columns.str.strip()
    frame.index = pd.RangeIndex(2, len(frame) + 2, name="line")
    stripped: pd.DataFrame = frame.fillna("").apply(lambda column: column.str.strip())
    return stripped


def _refuse(csv_path: Path, rows: pd.DataFrame, complaint: str) -> None:
    """Raise BadInput about the first of the rows, if there is one."""
    if len(rows):
        more = f" ({len(rows) - 1} more rows like it)" if len(rows) > 1 else ""
        raise BadInput(f"{csv_path}, row {rows.index[0]}: {complaint}{more}")


def _nearest_sample(sample_id: str, sample_ids: Collection[str]) -> str:
    close = difflib.get_close_matches(sample_id, sample_ids, n=1)
    return f"did you mean {close[0]!r}?" if close else f"sample_ids look like {next(iter(sample_ids), '')!r}"


def _spell_votes(votes: pd.Series[int]) -> str:
    given = votes[votes > 0].sort_values(ascending=False, kind="stable")
    return ", ".join(f"{label} {count}" for label, count in given.items())


def _krippendorff_alpha(table: pd.DataFrame) -> float:
    """1 - observed / expected disagreement of a samples x annotators table in which each row has two values or more."""
    if table.empty:
        return float("nan")
    long = table.melt(ignore_index=False).dropna()
    counts_NK: npt.NDArray[np.int64] = pd.crosstab(long.index, long["value"]).to_numpy()
    values_N = counts_NK.sum(axis=1)
    total, totals_K = values_N.sum(), counts_NK.sum(axis=0)
    observed = ((values_N**2 - (counts_NK**2).sum(axis=1)) / (values_N - 1)).sum()
    expected = (total**2 - (totals_K**2).sum()) / (total - 1)
    return float(1 - observed / expected) if expected else float("nan")
