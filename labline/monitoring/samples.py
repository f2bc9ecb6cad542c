"""Predictions as monitoring compares them, whether they are a reference's or a window's of the feedback store.

Shape legend: N predictions, K outputs, D values of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.errors import BadInput
from labline.reference import Reference

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

OF_THE_FILE = ("width", "height", "bytes")  # what a client sends, and no property of what the model sees


@dataclass(frozen=True)
class Samples:
    """N predictions, oldest first.

    `features`: by name, NaN where a prediction has none. `outputs` N x K: probabilities, or the raw forecast.
    `embedding` N x D, or None. `answer` and `label`, N: class names, or numbers of a forecaster, None or NaN where no
    label came back. `reviewed`: which labels were asked for in the review queue. `classifies`: classes, not numbers.
    """

    features: dict[str, Floats]
    outputs: Floats
    embedding: npt.NDArray[np.float32] | None
    answer: npt.NDArray[np.object_]
    label: npt.NDArray[np.object_]
    reviewed: npt.NDArray[np.bool_]
    classifies: bool

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def confidence(self) -> Floats:
        """The largest probability of each, N."""
        largest_N: Floats = self.outputs.max(axis=1)
        return largest_N

    @property
    def predicted(self) -> Integers:
        """The position of the predicted class, N."""
        positions_N: Integers = self.outputs.argmax(axis=1)
        return positions_N

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which have a label."""
        has_N: npt.NDArray[np.bool_] = ~pd.isna(self.label)
        return has_N

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Which answers are the label, N; False without one."""
        same_N: npt.NDArray[np.bool_] = self.answer == self.label
        return same_N

    def since(self, start: int) -> Samples:
        """Those from a position on."""
        return self.taken(np.arange(start, len(self)))

    def taken(self, chosen: Integers) -> Samples:
        """Those at these positions."""
        return Samples(
            features={name: values[chosen] for name, values in self.features.items()},
            outputs=self.outputs[chosen],
            embedding=None if self.embedding is None else self.embedding[chosen],
            answer=self.answer[chosen],
            label=self.label[chosen],
            reviewed=self.reviewed[chosen],
            classifies=self.classifies,
        )


def reference_samples(reference: Reference) -> Samples:
    """The samples of a version's reference, all labelled."""
    classifies = "label" in reference.rows
    return Samples(
        features={name: reference.rows[name].to_numpy(dtype=np.float64) for name in reference.features},
        outputs=reference.outputs.astype(np.float64),
        embedding=reference.embedding,
        answer=reference.rows["answer"].to_numpy(dtype=object),
        label=reference.rows["label" if classifies else "target"].to_numpy(dtype=object),
        reviewed=np.zeros(len(reference.rows), dtype=bool),
        classifies=classifies,
    )


def window_samples(window: pd.DataFrame, reference: Reference) -> Samples:
    """The samples of a window, as `FeedbackStore.window` gives it, with the features of the reference.

    An embedding is used where every row has one of the reference's length. Raises BadInput where the outputs have
    another length than the reference's: the window is of another version.
    """
    width = reference.outputs.shape[1]
    lengths = {len(outputs) for outputs in window["outputs"]}
    if lengths - {width}:
        raise BadInput(
            f"monitoring: predictions of {sorted(lengths)} outputs, the reference has {width}; "
            "pass the predictions of the version that the reference belongs to"
        )
    classifies = "label" in reference.rows
    absent = np.full(len(window), np.nan)
    answer_N, label_N = window["answer"].to_numpy(dtype=object), window["label"].to_numpy(dtype=object)
    if not classifies:
        answer_N, label_N = (pd.to_numeric(pd.Series(column)).to_numpy(dtype=object) for column in (answer_N, label_N))
    return Samples(
        features={
            name: window[name].to_numpy(dtype=np.float64) if name in window else absent for name in reference.features
        },
        outputs=np.array(window["outputs"].tolist(), dtype=np.float64).reshape(-1, width),
        embedding=_embedding(window["embedding"], reference),
        answer=answer_N,
        label=label_N,
        reviewed=(window["label_source"] == "review").to_numpy(),
        classifies=classifies,
    )


def _embedding(column: pd.Series, reference: Reference) -> npt.NDArray[np.float32] | None:
    """The embeddings, N x D, kept as float16 little endian."""
    if reference.embedding is None:
        return None
    values = reference.embedding.shape[1]
    if any(not isinstance(kept, bytes) or len(kept) != 2 * values for kept in column):
        return None
    flat = np.frombuffer(b"".join(column), dtype="<f2").astype(np.float32)
    return flat.reshape(-1, values)
