"""Clients of a running service that ask again where their connection is cut, and remember what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from running_service import JSON, KEY, RAW, USECASE
from small_models import LABELS
from small_versions import SIZE

from labline.feedback import FeedbackStore

TRIES = 3
LABELLED = 3  # one prediction in so many gets a label


@dataclass
class Told:
    """What the clients were told and what went wrong, all of them together.

    `broken` are the local ports of connections that were cut before an answer; `labels` is by prediction.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)  # which image, and the answer
    labels: dict[str, str] = field(default_factory=dict)  # acknowledged ones only
    broken: list[int] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    @property
    def predictions(self) -> set[str]:
        """The ids of all that were answered as recorded."""
        return {answer["id"] for _, answer in self.answers if answer.get("recorded", True)}


class Connection:
    """A keep-alive connection; made anew, and the request sent again, where it breaks."""

    def __init__(self, port: int, told: Told) -> None:
        self._port = port
        self._told = told
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, media: str) -> tuple[int, dict[str, Any]]:
        """The status and the document of the answer; status 0 where three tries in a row failed."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: {media}\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        for _ in range(TRIES):
            started = time.perf_counter()
            try:
                status, answer = await self._exchange(request)
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.01)
                continue
            self._told.milliseconds.append(1000 * (time.perf_counter() - started))
            self._told.statuses[status] += 1
            return status, json.loads(answer)
        self._told.given_up.append(path)
        return 0, {}

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        port = writer.get_extra_info("sockname")[1]
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
            return int(head[9:12]), await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self._told.broken.append(port)
            self.close()
            raise


def images(count: int = 256, seed: int = 0) -> np.ndarray:
    """Images that no version confuses: uint8 count x H x W x 1, each of another brightness, none near the middle."""
    dice = np.random.default_rng(seed)
    level = np.linspace(20, 100, count // 2)
    levels = np.concatenate([level, 255 - level])[:, None, None, None]
    return (levels + dice.integers(-20, 21, (count, SIZE, SIZE, 1))).astype(np.uint8)


def right_answers(images_NHWC: np.ndarray, contrast: float) -> np.ndarray:
    """How sure a version of `small_versions` has to be that each image is bright: N."""
    return 1 / (1 + np.exp(-2 * contrast * (images_NHWC.mean(axis=(1, 2, 3)) - 127.5)))


async def ask(port: int, told: Told, ending: asyncio.Event, seed: int, pictures: list[bytes]) -> None:
    """One client: predicts, and labels some of what it was told, until `ending`, or until nobody answers any more."""
    dice = random.Random(seed)
    connection = Connection(port, told)
    while not ending.is_set() and not told.given_up:
        which = dice.randrange(len(pictures))
        status, answer = await connection.post("/predict", pictures[which], RAW)
        if status != 200:
            continue
        told.answers.append((which, answer))
        told.versions.add(answer["version"])
        if dice.randrange(LABELLED) == 0:
            label = dice.choice(LABELS)
            body = {"id": answer["id"], "label": label, "label_id": f"label of {answer['id']}"}
            status, _ = await connection.post("/feedback", json.dumps(body).encode(), JSON)
            if status == 200:
                told.labels[answer["id"]] = label
    connection.close()


def assert_nothing_was_lost(told: Told, store: FeedbackStore) -> None:
    """Everything that was answered as recorded or acknowledged is in the store, once."""
    window = store.window(USECASE)
    assert window["id"].is_unique
    assert told.predictions <= set(window["id"])
    labels = dict(zip(window["id"], window["label"], strict=True))
    assert {id: labels.get(id) for id in told.labels} == told.labels
