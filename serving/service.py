"""One worker's parts, put together: the versions, the batcher, the recorder, the metrics and what uses them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from labline.feedback import feedback_key
from serving.batching import Batcher, output_names
from serving.http import Unavailable
from serving.inference_protocol import InferenceProtocol
from serving.labelling import Labelling, known_labels
from serving.metrics import Metrics, Observed
from serving.predicting import Predicting
from serving.recording import Recorder
from serving.security import Guard
from serving.settings import Settings
from serving.versions import Served, Versions

logger = logging.getLogger(__name__)

OBSERVE_SECONDS = 1.0


class Service:
    """What a worker holds. Loading the assigned versions is done when the constructor returns."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.guard = Guard(settings.key)
        self.metrics = Metrics(settings.metrics, settings.worker)
        self.key = feedback_key(settings.store / "serving", settings.usecase)
        self.batcher = Batcher(settings.max_waiting, settings.request_timeout, self.metrics.batch.observe)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.versions = Versions(settings.folder, settings.threads, self._changed)
        self.batcher.prepare(self.standing())
        self.recorder = Recorder(settings.feedback, settings.journal, settings.journal_bytes)
        self.predicting = Predicting(
            settings.usecase, self.versions, self.batcher, self.recorder, self.metrics, self.key, settings.limits
        )
        self.labelling = Labelling(self.versions, self.recorder, self.metrics, self.key)
        self.protocol = InferenceProtocol(settings.usecase, self.predicting, settings.limits)
        self._observing: asyncio.Task[None] | None = None

    def standing(self) -> list[Served]:
        """The versions that answer now, Production first."""
        return [served for served in (self.versions.production, self.versions.staging) if served is not None]

    def production(self) -> Served:
        """What answers; raises Unavailable where nothing does."""
        served = self.versions.production
        if served is None:
            raise Unavailable("no version is served yet", retry_after=5)
        return served

    def describe(self) -> dict[str, Any]:
        """What answers, and as what: the answer of `GET /model`. Raises Unavailable where nothing does."""
        served, versions = self.production(), self.versions
        return {
            "usecase": self.settings.usecase,
            "title": served.title,
            "stage": versions.stage,
            **_described(served),
            "runs": self._runs(served),
            "labels": list(served.model.labels),
            "feedback_labels": list(known_labels(self.standing())),
            "candidate": _described(versions.staging) if versions.staging else None,
            "canary": versions.canary,
            "shadow": versions.shadow_share,
            "refused": [
                {"version": each.version, "slot": each.slot, "problem": each.problem} for each in versions.refused
            ],
        }

    async def start(self) -> None:
        """Begin to look after the gauges; on the event loop that answers."""
        self._loop = asyncio.get_running_loop()
        self._observing = asyncio.create_task(self._observe())

    async def stop(self) -> None:
        """Finish: when this returns, everything acknowledged is in the store or safe in the journal."""
        if self._observing is not None:
            self._observing.cancel()
        self._loop = None
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End all threads, what is written down last."""
        self.versions.close()
        self.batcher.close()
        self.predicting.close()
        self.recorder.close()

    def _changed(self) -> None:
        """Measure what is new in the thread that loaded it, and let go of what went in the loop that asks it."""
        self.batcher.prepare(self.standing())
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        """Of what stands now: a busy loop comes to this when the next exchange is over, and its version measured."""
        self.batcher.forget_all_but(self.standing())

    async def _observe(self) -> None:
        while True:
            roles = ("production", self.versions.production), ("staging", self.versions.staging)
            self.metrics.observe(
                Observed(
                    waiting=self.batcher.waiting,
                    journal_bytes=self.recorder.size,
                    versions=tuple((served.version, role) for role, served in roles if served),
                    swaps=self.versions.swaps,
                    refused=len(self.versions.refused),
                )
            )
            await asyncio.sleep(OBSERVE_SECONDS)

    def _runs(self, served: Served) -> dict[str, Any]:
        placement = self.batcher.placement(served)
        if placement is None:
            return {}
        where = "event loop" if placement.on_loop else "thread"
        return {"where": where, "max_batch": placement.max_batch, "milliseconds": 1000 * placement.seconds}


def _described(served: Served) -> dict[str, Any]:
    model = served.model
    return {
        "version": served.version,
        "since": served.since,
        "kind": model.kind,
        "head": model.head,
        "inputs": [str(model.input)],
        "outputs": [str(spec) for spec in model.outputs if spec.name in output_names(model)],
    }
