"""Answering: a body becomes samples, a version says what they are, and it is written down before the client hears it.

Shape legend: N samples.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from random import random
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from labline.feedback import Prediction, Role, new_id
from serving.answers import Said, embeddings, say
from serving.batching import Batcher, Outputs, output_names
from serving.decoding import Decoded, decode_body, takes_long
from serving.http import Answer, Request, Unavailable
from serving.limits import Limits
from serving.metrics import Metrics
from serving.recording import Recorder
from serving.versions import NotReady, Served, Versions

logger = logging.getLogger(__name__)

Tensor = npt.NDArray[Any]
Facts = dict[str, float]
Result = TypeVar("Result")

SHADOWS_WAITING = 32  # requests whose shadow answer is still to come; more are dropped
MANY = 16  # samples of one request, from which on writing them down would hold up the event loop
SOURCE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """Samples that were asked about in one request: of which version, as what, since when (perf_counter)."""

    served: Served
    role: Role
    inputs: Tensor
    facts: list[Facts]
    started: float
    source: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was said of one sample, under which id, and whether it was written down."""

    id: str
    said: Said
    recorded: bool


class Predicting:
    """Asks versions, remembers what they said, and lets the version in Staging answer unseen."""

    def __init__(
        self,
        usecase: str,
        versions: Versions,
        batcher: Batcher,
        recorder: Recorder,
        metrics: Metrics,
        key: bytes,
        limits: Limits,
    ) -> None:
        self.versions = versions
        self._usecase = usecase
        self._batcher = batcher
        self._recorder = recorder
        self._metrics = metrics
        self._key = key
        self._limits = limits
        self._decoding = ThreadPoolExecutor(2, thread_name_prefix="decoding")
        self._shadowing = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._shadows = 0
        self._failing: Served | None = None  # the version whose first failure to answer unseen was logged
        self._outcomes: dict[tuple[str, str], Any] = {}

    async def predict(self, request: Request) -> Answer:
        """`POST /predict`."""
        served, role = self.choose()
        decoded = await self.decode(request.body, request.text(b"content-type"), served)
        asked = Asked(served, role, decoded.inputs, decoded.facts, request.started, source(request))
        remembered, _ = await self.ask(asked)
        shown = [_shown(each) for each in remembered]
        version = served.version
        if decoded.single:
            first = shown[0]
            body = orjson.dumps({"id": first.pop("id"), "version": version, **first})
        else:
            body = orjson.dumps({"version": version, "predictions": shown})
        return self.answer(asked, remembered, body)

    def choose(self) -> tuple[Served, Role]:
        """Who answers, and as what; raises Unavailable where nobody can."""
        try:
            return self.versions.choose(random())
        except NotReady as error:
            raise Unavailable(str(error), retry_after=5) from error

    async def decode(self, body: bytes, content_type: str, served: Served) -> Decoded:
        """The samples in a body; what takes long is done in a thread. Raises Refused."""
        decode = partial(decode_body, body, content_type, served.model, self._limits)
        return await self.aside(decode) if takes_long(body, content_type, served.model.kind) else decode()

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Do in a thread what would hold up the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, work)

    async def ask(self, asked: Asked) -> tuple[list[Remembered], Outputs]:
        """What the version says, written down, and its outputs in the order of `output_names`.

        Raises Refused where it has no answer, Unavailable under overload.
        """
        outputs = await self._batcher.answer(asked.served, asked.inputs)
        remember = partial(self._remember, asked, outputs, [""] * len(asked.inputs))
        return (remember() if len(asked.inputs) < MANY else await self.aside(remember)), outputs

    def answer(self, asked: Asked, remembered: list[Remembered], body: bytes) -> Answer:
        """The answer to a request, after which its shadow is cast."""
        version = asked.served.version
        told = Answer(body, headers=[(b"x-labline-version", version.encode())], version=version, role=asked.role)
        shadow = self.versions.shadow(random()) if asked.role == "production" else None
        if shadow is not None:
            told.afterwards = partial(self._cast, shadow, asked, [each.id for each in remembered])
        return told

    def close(self) -> None:
        """Finish what threads have in hand."""
        self._decoding.shutdown()
        self._shadowing.shutdown(cancel_futures=True)

    def _remember(self, asked: Asked, outputs: Outputs, shadow_of: list[str]) -> list[Remembered]:
        """Write down what was said of each sample; `shadow_of` holds the ids of the answers that it accompanies."""
        said = say(asked.served.model, outputs[0])
        at = time.time()
        latency_ms = 1000 * (time.perf_counter() - asked.started)
        served = asked.served
        keep = served.serving.keep == "input"
        kept = embeddings(outputs[1] if len(outputs) > 1 else None, len(said))
        remembered = []
        for i, each in enumerate(said):
            prediction = Prediction(
                id=new_id(self._key),
                usecase=self._usecase,
                version=served.version,
                role=asked.role,
                at=at,
                answer=each.answer,
                confidence=each.confidence,
                outputs=each.outputs,  # type: ignore[arg-type]  # a list is written alike
                latency_ms=latency_ms,
                features=asked.facts[i],
                embedding=kept[i],
                shadow_of=shadow_of[i],
                source=asked.source,
            )
            recorded = self._recorder.prediction(prediction, asked.inputs[i] if keep else None)
            remembered.append(Remembered(prediction.id, each, recorded))
        self._count(asked.role, "recorded", sum(each.recorded for each in remembered))
        self._count(asked.role, "unrecorded", sum(not each.recorded for each in remembered))
        return remembered

    def _cast(self, shadow: Served, asked: Asked, ids: list[str]) -> None:
        """Let the version in Staging answer too, in a thread, when there is time for it."""
        if self._shadows >= SHADOWS_WAITING:
            self._count("shadow", "dropped", len(ids))
            return
        self._shadows += 1
        cast = self._shadowing.submit(self._shadow, replace(asked, served=shadow, role="shadow"), ids)
        loop = asyncio.get_running_loop()
        cast.add_done_callback(lambda _: loop.call_soon_threadsafe(self._shadow_cast))

    def _shadow_cast(self) -> None:
        self._shadows -= 1

    def _shadow(self, asked: Asked, ids: list[str]) -> None:
        asked = replace(asked, started=time.perf_counter())
        model = asked.served.model
        try:
            most = asked.served.serving.max_batch
            starts = range(0, len(ids), most)
            parts = [model.answer(asked.inputs[i : i + most], output_names(model)) for i in starts]
            outputs = [np.concatenate(tensors) for tensors in zip(*parts, strict=True)]
            self._remember(asked, outputs, ids)
        except Exception as error:  # the client has its answer; the version in Staging may be any
            self._count("shadow", "failed", len(ids))
            if self._failing is not asked.served:  # once: a version that takes other inputs fails every time
                self._failing = asked.served
                logger.warning("version %s in Staging could not answer unseen: %s", asked.served.version, error)

    def _count(self, role: str, outcome: str, samples: int) -> None:
        if samples:
            counter = self._outcomes.get((role, outcome))
            if counter is None:
                counter = self._outcomes[role, outcome] = self._metrics.predictions.labels(role, outcome)
            counter.inc(samples)


def source(request: Request) -> str:
    """The client's own reference, where it sent one: the header X-Source."""
    return request.text(b"x-source")[:SOURCE_LENGTH]


def _shown(remembered: Remembered) -> dict[str, Any]:
    shown = {"id": remembered.id, **remembered.said.shown}
    return shown if remembered.recorded else {**shown, "recorded": False}
