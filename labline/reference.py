"""The reference sample of a version: what the released model answered for samples of its test split, row by row.

`labline.baseline` counts the whole split in bins; tests that need samples (of an embedding, or of two columns at once)
and estimates of accuracy from confidences need these rows.

Shape legend: N samples, K outputs, D values of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from labline.errors import LablineError

Floats = npt.NDArray[np.float32]

MOST_ROWS = 5000
OUTPUTS, EMBEDDING = "outputs", "embedding"
COLUMNS = ("sample_id", "label", "target", "answer", "confidence", OUTPUTS, EMBEDDING)  # all but the features
KEPT_AS = np.float16  # as the feedback store keeps embeddings: rounded alike, the two can be told apart by drift alone


@dataclass(frozen=True)
class Reference:
    """Samples of the test split with the answers of the released model, in the order of the split.

    `rows`, N, has sample_id and one column a feature, whose names are `features`. Where classes are told apart it has
    label (the true class), answer (the predicted one) and confidence (the largest probability); where a number is
    forecast, target and answer (the mean of the forecast), and confidence is NaN.
    `outputs`, N x K, are what the version's main output says: probabilities in the order of the labels, or the raw
    forecast. `embedding`, N x D, is None where the version has none; written and read again it is rounded to float16.
    """

    rows: pd.DataFrame
    outputs: Floats
    embedding: Floats | None
    features: tuple[str, ...]


def image_reference(
    rows: pd.DataFrame, probabilities_NK: Floats, embedding_ND: Floats | None, labels: tuple[str, ...]
) -> Reference:
    """The reference of a classifier from the manifest rows of a split, N, and the released model's answers to them.

    The features are the manifest's statistics: mean and std of the stored pixels (0 to 255), width, height, bytes.
    """
    from labline.baseline import INPUT_STATISTICS  # and with it scikit-learn, which readers do without

    answered = pd.DataFrame(
        {
            "sample_id": rows["sample_id"].to_numpy(),
            "label": rows["label"].to_numpy(),
            "answer": np.asarray(labels, dtype=object)[probabilities_NK.argmax(axis=1)],
            "confidence": probabilities_NK.max(axis=1),
        }
    )
    features = rows[list(INPUT_STATISTICS)].reset_index(drop=True)
    return Reference(answered.join(features), probabilities_NK, embedding_ND, INPUT_STATISTICS)


def feature_column(name: str) -> str:
    """The column of a feature: its name, unless one of ours is called so."""
    return f"feature({name})" if name in COLUMNS else name


def sampled(reference: Reference, most: int = MOST_ROWS) -> Reference:
    """At most so many rows, evenly spread over the order of the split: the same ones each time."""
    rows = len(reference.rows)
    if rows <= most:
        return reference
    chosen = np.linspace(0, rows - 1, most).round().astype(int)
    embedding_ND = None if reference.embedding is None else reference.embedding[chosen]
    kept = reference.rows.iloc[chosen].reset_index(drop=True)
    return replace(reference, rows=kept, outputs=reference.outputs[chosen], embedding=embedding_ND)


def write_reference(reference: Reference, path: Path, most: int = MOST_ROWS) -> None:
    """Write `sampled` rows as Parquet, outputs as lists of float32 and the embedding as lists of float16."""
    kept = sampled(reference, most)
    table = pa.Table.from_pandas(kept.rows, preserve_index=False)
    table = table.append_column(OUTPUTS, _lists(kept.outputs.astype(np.float32)))
    if kept.embedding is not None:
        largest = np.finfo(KEPT_AS).max  # beyond it float16 knows infinity alone
        table = table.append_column(EMBEDDING, _lists(kept.embedding.clip(-largest, largest).astype(KEPT_AS)))
    pq.write_table(table, path)


def open_reference(path: Path) -> Reference:
    """Read what `write_reference` wrote; raises LablineError where there is no such file, or another one."""
    try:
        table = pq.read_table(path)
        outputs_NK = _matrix(table, OUTPUTS)
        embedding_ND = _matrix(table, EMBEDDING) if EMBEDDING in table.column_names else None
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise LablineError(
            f"{path}: the reference sample of a version cannot be read ({error}). A Parquet file as evaluate writes it "
            "was expected: versions registered before there was one have none; register the model again."
        ) from error
    rows = table.drop_columns([name for name in (OUTPUTS, EMBEDDING) if name in table.column_names]).to_pandas()
    return Reference(rows, outputs_NK, embedding_ND, tuple(name for name in rows if name not in COLUMNS))


def _lists(values: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _matrix(table: pa.Table, name: str) -> Floats:
    """A column of lists of one length as float32."""
    column = table[name].combine_chunks()
    flat: npt.NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1).astype(np.float32)
