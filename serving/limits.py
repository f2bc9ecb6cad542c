"""How much a request may ask for, and how it is told that this was too much or something else."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one request may bring, so that what it costs in memory and time is known beforehand.

    `max_body` and `max_json` (of a JSON body, which may take 30 times its size in memory) are in bytes, as is
    `max_decoded`, of the model's input that encoded images become. `max_pixels` counts the pixels of all encoded images
    of a request together, as their headers give them; decoding takes up to 16 bytes for each. `max_samples` counts
    images, windows, or the rows of a series.
    """

    max_body: int = 32 * MEBIBYTE
    max_json: int = 4 * MEBIBYTE
    max_samples: int = 4096
    max_pixels: int = 2**24
    max_decoded: int = 128 * MEBIBYTE


class Refused(Exception):
    """A request that is not answered: the HTTP `status` (4xx), and a `message` for whoever sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
