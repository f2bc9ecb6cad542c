"""Duplicates: images that occur more than once, within a split or across splits.

A test image that was also trained on makes the test figure a promise nobody can keep, so of several
copies the one in test stays, then the one in validation, then the first one in manifest order.

Near duplicates are found in three steps, each cheaper per pair than the next:

1. a 64-bit perceptual hash of every image (Zauner 2010, "Implementation and Benchmarking of Perceptual
   Image Hash Functions": the signs of the lowest 8 x 8 DCT coefficients against their median);
2. pairs of hashes within a Hamming radius, by multi-index hashing (Norouzi, Punjani, Fleet 2012, "Fast
   Search in Hamming Space with Multi-Index Hashing"), with keys of several bands (Manku, Jain, Das Sarma 2007,
   "Detecting Near-Duplicates for Web Crawling"): of radius + k bands, k are equal in every such pair. The more
   images, the more bands make a key, so that about as many share one;
3. the correlation of the two images' grey 32 x 32 thumbnails, which tells a re-encoded picture from two
   patches of one texture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import fft

from labline.data.dataset import SPLITS, Dataset
from labline.data.outliers import BLANK_STD

THUMBNAIL = 32  # pixels; what pHash hashes, and what is left of an image after the commonest re-encodings
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
MOST_NEIGHBOURS = 16  # matches an image may collect under one key, so that equal hashes stay linear
WIDEST_BUCKET = 1024  # hashes one hash is compared with under one key
SHARING = 16  # hashes that share a key, were they evenly spread
MOST_KEYS = 200
PENDING_PAIRS = 1_000_000  # kept before those found twice are left out

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
Band = tuple[int, int]  # from this bit to before that one


def exact_duplicates(manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows whose content another row, which stays, already has.

    Returns one row a duplicate, `sample_id` and `duplicate_of`, in manifest order.
    """
    kept_first = manifest.iloc[_precedence(manifest)]
    first = kept_first.groupby("sha256", sort=False)["sample_id"].first()
    duplicate_of = manifest["sha256"].map(first)
    repeated = duplicate_of != manifest["sample_id"]
    report = pd.DataFrame({"sample_id": manifest["sample_id"], "duplicate_of": duplicate_of})
    return report[repeated].reset_index(drop=True)


def near_duplicates(dataset: Dataset, radius: int = 8, correlation: float = 0.96) -> pd.DataFrame:
    """Rows that show the same picture as another row, which stays, though their bytes differ.

    Two images match when their hashes differ in at most `radius` of 64 bits (0 to 15) and the Pearson
    correlation of their thumbnails is at least `correlation`. The defaults were set by eye: on CIFAR-10
    pairs from 0.93 on are true copies, but on chest X-rays two patients reach 0.95. Blank images (std below
    `BLANK_STD`) and copies with the same sha256 are left to their own checks. Mirrored and shifted copies
    are not found.

    A row that is dropped matches the row that stays. Only where one key has more equal or like hashes than
    `MOST_NEIGHBOURS` and `WIDEST_BUCKET` allow is the search best effort: it is repeated on what is left
    until it finds nothing, and a row may then match the one that stays through a third.

    Returns `sample_id`, `duplicate_of`, `distance` (bits) and `correlation`, in manifest order.
    """
    manifest = dataset.manifest
    order = _precedence(manifest)
    order = order[manifest["std"].to_numpy()[order] >= BLANK_STD]
    hashes_N, thumbnails_ND = _describe(dataset.images, manifest["row"].to_numpy()[order])
    contents_N = pd.factorize(manifest["sha256"].to_numpy()[order])[0]
    stays_N = _representatives(hashes_N, thumbnails_ND, contents_N, radius, correlation)
    dropped = np.flatnonzero(stays_N != np.arange(len(order)))
    dropped = dropped[np.argsort(order[dropped])]
    kept = stays_N[dropped]
    sample_ids = manifest["sample_id"].to_numpy()[order]
    return pd.DataFrame(
        {
            "sample_id": sample_ids[dropped],
            "duplicate_of": sample_ids[kept],
            "distance": np.bitwise_count(hashes_N[dropped] ^ hashes_N[kept]),
            "correlation": _correlations(thumbnails_ND, dropped, kept),
        }
    )


def perceptual_hashes(thumbnails_NHW: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """64-bit pHash of grey thumbnails, float32 N x 32 x 32: which low-frequency DCT terms exceed their median."""
    spectra = fft.dctn(thumbnails_NHW, axes=(1, 2), norm="ortho")
    low_NK = spectra[:, :8, :8].reshape(len(spectra), -1)
    bits = low_NK > np.median(low_NK, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).reshape(-1)


def grey_thumbnails(images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Grey 32 x 32 thumbnails, float32 0 to 255, of uint8 images of one or three channels, by area averaging."""
    pixels = images_NHWC.astype(np.float32)
    grey_NHW = pixels @ LUMA if pixels.shape[-1] == 3 else pixels[..., 0]
    rows, columns = _area_weights(grey_NHW.shape[1]), _area_weights(grey_NHW.shape[2])
    return np.asarray(rows @ grey_NHW @ columns.T, np.float32)


def _area_weights(size: int) -> npt.NDArray[np.float32]:
    """THUMBNAIL x size: the share of each source pixel in each thumbnail pixel."""
    edges = np.arange(THUMBNAIL + 1) * size / THUMBNAIL
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = overlap.clip(min=0)
    weights: npt.NDArray[np.float32] = (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def _precedence(manifest: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Manifest positions, those that stay first: test, validation, train, each in manifest order."""
    rank = pd.Categorical(manifest["split"], categories=SPLITS[::-1]).codes
    return np.argsort(rank, kind="stable").astype(np.int64)


def _describe(
    images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], batch: int = 4096
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int8]]:
    """Hash and thumbnail of each row; thumbnails are centred and scaled into int8, a kilobyte an image."""
    hashes_N = np.empty(len(rows), np.uint64)
    thumbnails_ND = np.empty((len(rows), THUMBNAIL * THUMBNAIL), np.int8)
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        thumbnails_NHW = grey_thumbnails(images[rows[part]])
        hashes_N[part] = perceptual_hashes(thumbnails_NHW)
        pixels_ND = thumbnails_NHW.reshape(len(thumbnails_NHW), -1)
        centred_ND = pixels_ND - pixels_ND.mean(axis=1, keepdims=True)
        thumbnails_ND[part] = np.rint(centred_ND * (127 / np.abs(centred_ND).max(axis=1, keepdims=True).clip(min=1.0)))
    return hashes_N, thumbnails_ND


def _representatives(
    hashes_N: npt.NDArray[np.uint64],
    thumbnails_ND: npt.NDArray[np.int8],
    contents_N: npt.NDArray[np.int64],
    radius: int,
    correlation: float,
) -> npt.NDArray[np.int64]:
    """For each row the row that stays for it: itself, or the earlier row it repeats."""
    stays_N = np.arange(len(hashes_N))
    remaining = np.arange(len(hashes_N))
    while True:
        a, b = (remaining[side] for side in _candidates(hashes_N[remaining], thumbnails_ND[remaining], radius))
        different = contents_N[a] != contents_N[b]
        a, b = a[different], b[different]
        correlations = _correlations(thumbnails_ND, a, b)
        alike = correlations >= correlation
        if not alike.any():
            break
        pairs = _decisive(pd.DataFrame({"kept": a[alike], "dropped": b[alike], "correlation": correlations[alike]}))
        stays_N[pairs["dropped"]] = pairs["kept"]
        remaining = np.setdiff1d(remaining, pairs["dropped"], assume_unique=True)
    while (stays_N[stays_N] != stays_N).any():
        stays_N = stays_N[stays_N]
    return stays_N


def _candidates(hashes_N: npt.NDArray[np.uint64], thumbnails_ND: npt.NDArray[np.int8], radius: int) -> Pairs:
    """Index pairs, lower index first, of hashes at most `radius` bits apart."""
    order = np.lexsort((_projections(thumbnails_ND), hashes_N))  # equal hashes side by side, like thumbnails nearest
    sorted_N = hashes_N[order]
    codes, pending, waiting = np.empty(0, np.int64), [], 0
    for bands in _keys(radius, len(hashes_N)):
        for a, b in _pairs_of_key(_key(sorted_N, bands), sorted_N, radius):
            first, second = order[a], order[b]
            pending.append(np.minimum(first, second) * len(hashes_N) + np.maximum(first, second))
            waiting += len(first)
        if waiting > max(PENDING_PAIRS, len(codes)):
            codes, pending, waiting = _distinct([codes, *pending]), [], 0
    codes = _distinct([codes, *pending])
    return codes // max(1, len(hashes_N)), codes % max(1, len(hashes_N))


def _distinct(codes: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Sorted, each once."""
    everything = np.sort(np.concatenate(codes))
    return everything[np.diff(everything, prepend=-1) > 0]


def _keys(radius: int, images: int) -> Iterator[tuple[Band, ...]]:
    """Which bands make each key: with `together` of radius + `together`, two hashes within the radius share a key."""
    together = 1
    while 2 ** (64 * together // (radius + together)) * SHARING < images and _fits(radius, together + 1):
        together += 1
    edges = [64 * band // (radius + together) for band in range(radius + together + 1)]
    return combinations(pairwise(edges), together)


def _fits(radius: int, together: int) -> bool:
    return comb(radius + together, together) <= MOST_KEYS


def _key(hashes_N: npt.NDArray[np.uint64], bands: Sequence[Band]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The bits of the bands side by side, in the narrowest type, which sorts fastest."""
    keys_N, width = np.zeros(len(hashes_N), np.uint64), 0
    for low, high in bands:
        bits = np.uint64((1 << (high - low)) - 1)
        keys_N |= ((hashes_N >> np.uint64(low)) & bits) << np.uint64(width)
        width += high - low
    return keys_N.astype(np.uint16 if width <= 16 else np.uint32 if width <= 32 else np.uint64)


def _pairs_of_key(
    keys_N: npt.NDArray[np.unsignedinteger[Any]], hashes_N: npt.NDArray[np.uint64], radius: int
) -> Iterator[Pairs]:
    """Pairs of equal key and near hash: each row in the order of keys against its 1st, 2nd, ... successor."""
    order = np.argsort(keys_N, kind="stable")
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


def _projections(thumbnails_ND: npt.NDArray[np.int8], batch: int = 16384) -> npt.NDArray[np.float32]:
    """One number a thumbnail, close for like ones (a fixed random projection), to sort equal hashes by."""
    direction_D = np.random.default_rng(0).standard_normal(thumbnails_ND.shape[1], np.float32)
    projections_N = np.empty(len(thumbnails_ND), np.float32)
    for start in range(0, len(thumbnails_ND), batch):
        part = slice(start, start + batch)
        projections_N[part] = thumbnails_ND[part].astype(np.float32) @ direction_D
    return projections_N


def _correlations(
    thumbnails_ND: npt.NDArray[np.int8], a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], batch: int = 4096
) -> npt.NDArray[np.float32]:
    """Pearson correlation of each pair of thumbnails (0 where one is flat)."""
    correlations = np.empty(len(a), np.float32)
    for start in range(0, len(a), batch):
        part = slice(start, start + batch)
        left_ND, right_ND = thumbnails_ND[a[part]].astype(np.float32), thumbnails_ND[b[part]].astype(np.float32)
        products, lefts, rights = (
            np.einsum("nd,nd->n", x, y) for x, y in ((left_ND, right_ND), (left_ND, left_ND), (right_ND, right_ND))
        )
        correlations[part] = products / np.sqrt(lefts * rights).clip(min=1.0)
    return correlations


def _decisive(pairs: pd.DataFrame) -> pd.DataFrame:
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
