"""The recorder: what a worker remembers predictions and labels with, before it answers.

Predictions are handed to the kernel, which keeps them when the process is killed. Labels are acknowledged only when
they are on the disk; those that arrive together share the wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy.typing as npt

from labline.feedback import Label, Prediction
from serving.draining import Drainer
from serving.entries import encode_label, encode_prediction
from serving.journal import Full, Journal, Segment, frame

__all__ = ["Full", "Recorder"]

log = logging.getLogger("labline.feedback")

LIMIT_BYTES = 256 * 2**20
ROLL_SECONDS = 0.25  # a record is in the store about twice this later


class Recorder:
    """One worker's access to the feedback store at an address, by way of the journal below `folder`.

    Any thread may record. The journal holds at most about `limit_bytes`, all workers together. `recorded` and
    `unrecorded` count predictions; `size` is the journal's, in bytes; `drainer` says how the store is doing.
    """

    def __init__(self, store_address: str, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.recorded = self.unrecorded = 0
        self._journal = Journal(folder, limit_bytes)
        self.drainer = Drainer(store_address, folder)
        self._waiting: list[tuple[Segment, Future[None]]] = []
        self._woken = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=loop, name=f"feedback-{name}", daemon=True)
            for name, loop in (("sync", self._sync), ("roll", self._roll))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def size(self) -> int:
        """Bytes in the journal, all workers together."""
        return self._journal.size

    def prediction(self, prediction: Prediction, sample: npt.NDArray[Any] | None = None) -> bool:
        """Write a prediction down; returns whether that worked, and never raises for a full journal.

        `sample` is the model's input, of this prediction alone (H x W x C uint8, T x F float32), where it is kept;
        it is copied as it is, and encoded as `Prediction.input` later, elsewhere.
        """
        try:
            self._journal.append("predictions", frame(encode_prediction(prediction, sample)))
        except (Full, TypeError):  # TypeError: text that is no UTF-8
            self.unrecorded += 1
            return False
        self.recorded += 1
        return True

    async def label(self, *labels: Label) -> None:
        """Return when all the labels are on the disk, so that they may be acknowledged; raises Full otherwise."""
        await asyncio.wrap_future(self.submit(labels))

    def submit(self, labels: Sequence[Label]) -> Future[None]:
        """Write labels down, all or none, raising Full; the result is there when they are on the disk."""
        segment = self._journal.append("labels", b"".join(frame(encode_label(label)) for label in labels))
        durable: Future[None] = Future()
        with self._woken:
            if self._closing:
                raise Full("the service is stopping: send the feedback again")
            self._waiting.append((segment, durable))
            self._woken.notify_all()
        return durable

    def close(self) -> None:
        """Answer who waits, hand everything to the drainer and let it finish, within seconds; then record no more."""
        with self._woken:
            self._closing = True
            self._woken.notify_all()
        for thread in self._threads:
            thread.join()
        self._journal.close()
        self.drainer.close()

    def _sync(self) -> None:
        """Force labels to the disk, as many at a time as came during the time before."""
        while True:
            with self._woken:
                self._woken.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                waiting, self._waiting = self._waiting, []
            failures: dict[str, Full] = {}
            for segment in {id(segment): segment for segment, _ in waiting}.values():
                try:
                    segment.sync()
                except OSError as error:
                    failures[str(segment.path)] = Full(f"the journal cannot be forced to the disk: {error.strerror}")
            for segment, durable in waiting:
                _resolve(durable, failures.get(str(segment.path)))

    def _roll(self) -> None:
        """Hand what was written over to the drainer, a few times a second."""
        while not self._closing:
            with self._woken:
                self._woken.wait_for(lambda: self._closing, timeout=ROLL_SECONDS)
            try:
                self._journal.roll()
            except OSError as error:
                log.warning("the journal cannot be handed over, trying again: %s", error)


def _resolve(durable: Future[None], failure: Full | None) -> None:
    """Say how it went; who asked may have gone."""
    if not durable.set_running_or_notify_cancel():
        return
    if failure is None:
        durable.set_result(None)
    else:
        durable.set_exception(failure)
