"""Images that show nothing, and images unlike the rest: judged by their pixel statistics alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from labline.data.dataset import Dataset

BLANK_STD = 2.0  # grey levels; what the noise of a covered sensor and JPEG leave on a uniform field
STATISTICS = ("mean", "std")  # manifest columns; sizes and bytes tell of the encoder, not of the scene


def blank_images(dataset: Dataset, std: float = BLANK_STD) -> pd.DataFrame:
    """Rows whose pixels vary by less than `std` grey levels in every channel: a covered or dead sensor.

    Returns `sample_id` and `std` (0 to 255 scale; the largest of the channels), in manifest order.
    """
    spread = _spread(dataset)
    blank = spread < std
    return pd.DataFrame({"sample_id": dataset.manifest["sample_id"].to_numpy()[blank], "std": spread[blank]})


def outliers(manifest: pd.DataFrame, cutoff: float = 6.0) -> pd.DataFrame:
    """Rows whose brightness (`mean`) or contrast (`std`) lies far outside that of the training split.

    The score is the modified z-score 0.6745 (x - median) / MAD of Iglewicz & Hoaglin 1993, "How to Detect
    and Handle Outliers". They advise a cutoff of 3.5 for samples of a normal distribution; pixel statistics
    have longer tails, hence the higher default. Median and MAD are taken again without the outliers until
    no new one appears, so that what stays has none. A MAD below one grey level counts as one.

    Returns `sample_id`, `statistic`, `value` and `score` (of the worst statistic), in manifest order.
    """
    values_NS = manifest[list(STATISTICS)].to_numpy(np.float64)
    train_N = (manifest["split"] == "train").to_numpy()
    reference_N = train_N if train_N.any() else np.ones(len(manifest), bool)
    normal_N = np.ones(len(manifest), bool)
    scores_NS = np.zeros_like(values_NS)
    while (reference_N & normal_N).any():
        latest_NS = _modified_z_scores(values_NS, values_NS[reference_N & normal_N])
        scores_NS[normal_N] = latest_NS[normal_N]
        still_normal_N = normal_N & (np.abs(scores_NS) <= cutoff).all(axis=1)
        if still_normal_N.sum() == normal_N.sum():
            break
        normal_N = still_normal_N
    worst_N = np.abs(scores_NS).argmax(axis=1)
    every = np.arange(len(manifest))
    report = pd.DataFrame(
        {
            "sample_id": manifest["sample_id"].to_numpy(),
            "statistic": np.array(STATISTICS)[worst_N],
            "value": values_NS[every, worst_N],
            "score": scores_NS[every, worst_N],
        }
    )
    return report[~normal_N].reset_index(drop=True)


def _modified_z_scores(
    values_NS: npt.NDArray[np.float64], reference_MS: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    median_S = np.median(reference_MS, axis=0)
    deviation_S = np.median(np.abs(reference_MS - median_S), axis=0)
    scores_NS: npt.NDArray[np.float64] = 0.6745 * (values_NS - median_S) / deviation_S.clip(min=1.0)
    return scores_NS


def _spread(dataset: Dataset, batch: int = 4096) -> npt.NDArray[np.float64]:
    """Largest per-channel std of each row; the manifest's std sees a uniformly red image as full of contrast."""
    if dataset.images.shape[-1] == 1:
        return dataset.manifest["std"].to_numpy(np.float64)
    rows = dataset.manifest["row"].to_numpy()
    spread = np.empty(len(rows))
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        spread[part] = dataset.images[rows[part]].std(axis=(1, 2), dtype=np.float32).max(axis=-1)
    return spread
