"""Duplicates: images that occur more than once, within a split or across splits.

A test image that was also trained on makes the test figure a promise nobody can keep, so of several
copies the one in test stays, then the one in validation, then the first one in manifest order.

Near duplicates are found in three steps, each cheaper per pair than the next:

1. a 64-bit perceptual hash of every image (Zauner 2010, "Implementation and Benchmarking of Perceptual
   Image Hash Functions": the signs of the lowest 8 x 8 DCT coefficients against their median);
2. pairs of hashes within a Hamming radius, by multi-index hashing (Norouzi, Punjani, Fleet 2012, "Fast
   Search in Hamming Space with Multi-Index Hashing"): of radius + 1 bands, one is equal in every such pair;
3. the correlation of the two images' grey 32 x 32 thumbnails, which tells a re-encoded picture from two
   patches of one texture.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import fft

from labline.data.dataset import SPLITS, Dataset

THUMBNAIL = 32  # pixels; what pHash hashes, and what is left of an image after the commonest re-encodings
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
BLANK_STD = 2.0  # grey levels; below it an image carries noise only, and a correlation says nothing
MOST_NEIGHBOURS = 16  # matches an image may collect in one band, so that equal hashes stay linear
WIDEST_BUCKET = 1024  # hashes one hash is compared with in one band

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def exact_duplicates(manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows whose content another row, which stays, already has.

    Returns one row a duplicate, `sample_id` and `duplicate_of`, in manifest order.
    """
    kept_first = manifest.iloc[_precedence(manifest)]
    first = kept_first.groupby("sha256", sort=False)["sample_id"].first()
    duplicate_of = manifest["sha256"].map(first)
    repeated = duplicate_of != manifest["sample_id"]
    return pd.DataFrame({"sample_id": manifest["sample_id"], "duplicate_of": duplicate_of})[repeated].reset_index(
        drop=True
    )


def near_duplicates(dataset: Dataset, radius: int = 8, correlation: float = 0.96) -> pd.DataFrame:
    """Rows that show the same picture as another row, which stays, though their bytes differ.

    Two images match when their hashes differ in at most `radius` of 64 bits (0 to 15) and the Pearson
    correlation of their thumbnails is at least `correlation`; every reported row matches the row that
    stays, never only a third one between them. Blank images (std below `BLANK_STD`) and copies with the
    same sha256 are left to their own checks. Mirrored and shifted copies are not found.

    Where very many hashes are equal, each image is compared with its nearest `MOST_NEIGHBOURS` only, and
    the search is repeated on what is left until it finds nothing.

    Returns `sample_id`, `duplicate_of`, `distance` (bits) and `correlation`, in manifest order.
    """
    manifest = dataset.manifest
    order = _precedence(manifest)
    order = order[(manifest["std"].to_numpy()[order] >= BLANK_STD)]
    hashes_N, thumbnails_ND = _describe(dataset.images, manifest["row"].to_numpy()[order])
    contents_N = pd.factorize(manifest["sha256"].to_numpy()[order])[0]
    remaining = np.arange(len(order))
    found: list[pd.DataFrame] = []
    while len(remaining):
        a, b = _candidates(hashes_N[remaining], thumbnails_ND[remaining], radius)
        a, b = remaining[a], remaining[b]
        different = contents_N[a] != contents_N[b]
        a, b = a[different], b[different]
        correlations = _correlations(thumbnails_ND, a, b)
        alike = correlations >= correlation
        if not alike.any():
            break
        pairs = pd.DataFrame({"kept": a[alike], "dropped": b[alike], "correlation": correlations[alike]})
        dropped = _drop_followers(pairs)
        found.append(dropped)
        remaining = np.setdiff1d(remaining, dropped["dropped"], assume_unique=True)
    return _report(manifest["sample_id"].to_numpy()[order], order, hashes_N, found)


def perceptual_hashes(thumbnails_NHW: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """64-bit pHash of grey thumbnails, float32 N x 32 x 32: which low-frequency DCT terms exceed their median."""
    spectra = fft.dctn(thumbnails_NHW, axes=(1, 2), norm="ortho")
    low_NK = spectra[:, :8, :8].reshape(len(spectra), -1)
    bits = low_NK > np.median(low_NK, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).reshape(-1)


def grey_thumbnails(images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Grey 32 x 32 thumbnails, float32 0 to 255, of uint8 images of one or three channels, by area averaging."""
    pixels = images_NHWC.astype(np.float32)
    grey_NHW = pixels[..., 0] if pixels.shape[-1] == 1 else pixels @ LUMA
    rows, columns = _area_weights(grey_NHW.shape[1]), _area_weights(grey_NHW.shape[2])
    thumbnails: npt.NDArray[np.float32] = rows @ grey_NHW @ columns.T
    return thumbnails


def _area_weights(size: int) -> npt.NDArray[np.float32]:
    """THUMBNAIL x size: the share of each source pixel in each thumbnail pixel."""
    edges = np.arange(THUMBNAIL + 1) * size / THUMBNAIL
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = overlap.clip(min=0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _precedence(manifest: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Manifest positions, those that stay first: test, validation, train, each in manifest order."""
    rank = pd.Categorical(manifest["split"], categories=SPLITS[::-1]).codes
    return np.argsort(rank, kind="stable").astype(np.int64)


def _describe(
    images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], batch: int = 4096
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float16]]:
    """Hash and unit-norm, zero-mean thumbnail (float16, to keep a million of them in 2 GB) of each row."""
    hashes = np.empty(len(rows), np.uint64)
    thumbnails_ND = np.empty((len(rows), THUMBNAIL * THUMBNAIL), np.float16)
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        thumbnails_NHW = grey_thumbnails(images[rows[part]])
        hashes[part] = perceptual_hashes(thumbnails_NHW)
        centred = thumbnails_NHW.reshape(len(thumbnails_NHW), -1)
        centred = centred - centred.mean(axis=1, keepdims=True)
        thumbnails_ND[part] = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(min=1e-6)
    return hashes, thumbnails_ND


def _candidates(hashes_N: npt.NDArray[np.uint64], thumbnails_ND: npt.NDArray[np.float16], radius: int) -> Pairs:
    """Index pairs, lower index first, of hashes at most `radius` bits apart."""
    direction = np.random.default_rng(0).standard_normal(thumbnails_ND.shape[1]).astype(np.float16)
    likeness_N = thumbnails_ND @ direction  # brings like thumbnails together among equal hashes
    found = [
        pair
        for shift, mask in _bands(radius + 1)
        for pair in _pairs_in_band((hashes_N >> shift) & mask, hashes_N, likeness_N, radius)
    ]
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    first, second = (np.concatenate(side) for side in zip(*found, strict=True))
    codes = np.unique(np.minimum(first, second) * len(hashes_N) + np.maximum(first, second))
    return codes // len(hashes_N), codes % len(hashes_N)


def _bands(count: int) -> Iterator[tuple[np.uint64, np.uint64]]:
    """Shift and mask of `count` bands which together cover 64 bits."""
    edges = [64 * band // count for band in range(count + 1)]
    for low, high in zip(edges, edges[1:], strict=False):
        yield np.uint64(low), np.uint64((1 << (high - low)) - 1)


def _pairs_in_band(
    keys_N: npt.NDArray[np.uint64],
    hashes_N: npt.NDArray[np.uint64],
    likeness_N: npt.NDArray[np.float16],
    radius: int,
) -> Iterator[Pairs]:
    """Pairs of equal key and near hash: each sorted row against its 1st, 2nd, ... successor in its bucket."""
    order = np.lexsort((likeness_N, hashes_N, keys_N))
    keys, hashes = keys_N[order], hashes_N[order]
    matches = np.zeros(len(order), np.int64)
    active = np.arange(len(order))
    for step in range(1, WIDEST_BUCKET):
        active = active[active < len(order) - step]
        active = active[(keys[active] == keys[active + step]) & (matches[active] < MOST_NEIGHBOURS)]
        if not len(active):
            return
        hits = active[np.bitwise_count(hashes[active] ^ hashes[active + step]) <= radius]
        matches[hits] += 1
        yield order[hits], order[hits + step]


def _correlations(
    thumbnails_ND: npt.NDArray[np.float16], a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], batch: int = 16384
) -> npt.NDArray[np.float32]:
    """Pearson correlation of each pair of thumbnails."""
    correlations = np.empty(len(a), np.float32)
    for start in range(0, len(a), batch):
        part = slice(start, start + batch)
        left, right = thumbnails_ND[a[part]].astype(np.float32), thumbnails_ND[b[part]].astype(np.float32)
        correlations[part] = np.einsum("nd,nd->n", left, right)
    return correlations


def _drop_followers(pairs: pd.DataFrame) -> pd.DataFrame:
    """For each row to drop the pair that drops it: its best match among the rows that stay.

    Rows are visited in order of precedence; one that stays drops all its matches behind it.
    """
    pairs = pairs.sort_values(["kept", "dropped"], ignore_index=True)
    leaders, starts = np.unique(pairs["kept"], return_index=True)
    ends = np.append(starts[1:], len(pairs))
    followers = pairs["dropped"].to_numpy()
    gone = np.zeros(followers.max() + 1, bool)
    decisive = np.zeros(len(pairs), bool)
    for leader, start, end in zip(leaders, starts, ends, strict=True):
        if not gone[leader]:
            gone[followers[start:end]] = True
            decisive[start:end] = True
    return pairs[decisive].sort_values("correlation", ascending=False, kind="stable").drop_duplicates("dropped")


def _report(
    sample_ids: npt.NDArray[np.object_],
    order: npt.NDArray[np.int64],
    hashes_N: npt.NDArray[np.uint64],
    found: list[pd.DataFrame],
) -> pd.DataFrame:
    """The public frame, in manifest order, of pairs that index into `order`."""
    columns = ["sample_id", "duplicate_of", "distance", "correlation"]
    if not found:
        return pd.DataFrame(columns=columns)
    pairs = pd.concat(found, ignore_index=True)
    kept, dropped = pairs["kept"].to_numpy(), pairs["dropped"].to_numpy()
    report = pd.DataFrame(
        {
            "sample_id": sample_ids[dropped],
            "duplicate_of": sample_ids[kept],
            "distance": np.bitwise_count(hashes_N[kept] ^ hashes_N[dropped]),
            "correlation": pairs["correlation"],
        }
    )
    return report.iloc[np.argsort(order[dropped])].reset_index(drop=True)
