"""The checks of expectations/images.json and the cleaning of a manifest as anybody would write them in pandas.

No suite to edit, no severities, no page: masks, their sums, and the rows that break them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

RANGES = {"row": (0, np.inf), "width": (8, 65_535), "height": (8, 65_535), "bytes": (1, np.inf)}
RANGES |= {"mean": (0, 255), "std": (0, 127.5)}
SPLITS = ("train", "validation", "test")
TOLERATED = 0.05  # the share of rows that may break an expectation of its column


def validate(manifest: pd.DataFrame, labels: tuple[str, ...]) -> tuple[dict[str, bool], pd.DataFrame]:
    """Which checks hold, and the rows that break one, with its name."""
    broken: dict[str, pd.Series[Any]] = {}
    for name in ("sample_id", "split", "label", "row", "sha256", "width", "height", "bytes", "mean", "std"):
        broken[f"{name} is there"] = manifest[name].isna()
    for name in ("sample_id", "row", "sha256"):
        broken[f"{name} is unique"] = manifest[name].duplicated(keep=False)
    broken["split is known"] = ~manifest["split"].isin(SPLITS)
    broken["label is known"] = ~manifest["label"].isin(labels) & manifest["label"].notna()
    for name, (low, high) in RANGES.items():
        broken[f"{name} in range"] = ~manifest[name].between(low, high) & manifest[name].notna()
    broken["neither dark nor bright"] = ~manifest["mean"].between(10, 245) & manifest["mean"].notna()
    broken["some contrast"] = manifest["std"] < 2
    held = {name: float(mask.mean()) <= TOLERATED for name, mask in broken.items()}
    held |= _of_the_table(manifest, labels)
    rows = [manifest[mask].assign(check=name) for name, mask in broken.items() if name != "sha256 is unique"]
    return held, pd.concat([part for part in rows if len(part)] or rows[:1])


def _of_the_table(manifest: pd.DataFrame, labels: tuple[str, ...]) -> dict[str, bool]:
    sizes: Any = manifest[manifest["label"].isin(labels)].groupby(["split", "label"], observed=True).size()
    train, test = sizes.xs("train"), sizes.xs("test")
    return {
        "there are rows": len(manifest) > 0,
        "no content in two splits": int(manifest.groupby("sha256")["split"].nunique().max()) <= 1,
        "mean brightness": 20 <= manifest["mean"].mean() <= 235,
        "mean contrast": manifest["std"].mean() >= 5,
        "every class in train": set(labels) <= set(train.index),
        "every class in test": set(labels) <= set(test.index),
        "enough of every class": min(train.min(), test.min()) >= 5,
        "balanced": train.max() / train.min() <= 10,
    }


def clean(manifest: pd.DataFrame) -> pd.DataFrame:
    """Without repeated content, the copy in test kept, and without rows far outside the training brightness."""
    rank = manifest["split"].map({"test": 0, "validation": 1, "train": 2})
    order = rank.sort_values(kind="stable").index
    repeated = manifest.loc[order, "sha256"].duplicated().reindex(manifest.index)
    kept = manifest[~repeated]
    train = kept[kept["split"] == "train"]
    outside = np.zeros(len(kept), bool)
    for name in ("mean", "std"):
        median = train[name].median()
        deviation = (train[name] - median).abs().median()
        outside |= (0.6745 * (kept[name] - median) / max(deviation, 1.0)).abs().to_numpy() > 6.0
    inside: pd.DataFrame = kept[~outside]
    return inside
