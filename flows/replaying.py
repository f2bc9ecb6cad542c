"""Asking a running service at a steady rate, and telling it later what was true: HTTP, retries, what came of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any

import httpx
import numpy as np

from labline.errors import BadInput, LablineError
from labline.replay import BLOCK, Labelling, Sample

PASSING = {429, 502, 503, 504}  # of a service that is busy, starting or behind a proxy that waits for it
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0  # seconds between two tries
ANSWER_SECONDS = 30.0
LABELS_AT_ONCE = 200
LABEL_PAUSE = 0.05  # seconds between two looks at which labels are due
SOURCE = "replay"


@dataclass(frozen=True)
class Plan:
    """How a replay goes: `rate` in requests a second, infinite for as fast as answers come.

    It ends after `most` samples or `seconds`, whichever is first. `patience`, in seconds, is how long one request is
    tried again; `label_delay` how long after its answer, or after its truth can be known, a label is sent.
    """

    url: str
    rate: float
    most: int
    seconds: float = math.inf
    key: str = field(default="", repr=False)
    concurrency: int = 16
    label_delay: float = 0.0
    labelling: Labelling = field(default_factory=Labelling)
    seed: int = 0
    patience: float = 60.0


@dataclass
class Outcome:
    """What came of a replay; it grows while it runs. Times are in seconds."""

    sent: int = 0
    answered: Counter[str] = field(default_factory=Counter)  # by version
    judged: Counter[str] = field(default_factory=Counter)  # classes, by version
    correct: Counter[str] = field(default_factory=Counter)
    errors: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # of forecasts, by version
    latencies: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)  # by reason
    unrecorded: int = 0
    retries: int = 0
    labels_accepted: int = 0
    labels_refused: Counter[str] = field(default_factory=Counter)
    labels_pending: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    def summary(self) -> dict[str, Any]:
        """JSON-able figures; accuracy, or the mean squared error of forecasts, as measured from the true labels."""
        versions = {version: self._of(version) for version in sorted(self.answered)}
        latencies = 1000 * np.array(self.latencies or [math.nan])
        p50, p99 = np.percentile(latencies, [50, 99]).tolist()
        return {
            "sent": self.sent,
            "answered": self.answered.total(),
            "versions": versions,
            "accuracy": self.correct.total() / self.judged.total() if self.judged else None,
            "refused": self.refused.total(),
            "refusals": dict(self.refused.most_common(5)),
            "unrecorded": self.unrecorded,
            "retries": self.retries,
            "labels_accepted": self.labels_accepted,
            "labels_refused": self.labels_refused.total(),
            "label_refusals": dict(self.labels_refused.most_common(5)),
            "labels_pending": self.labels_pending,
            "latency_ms_p50": p50,
            "latency_ms_p99": p99,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
        }

    def _of(self, version: str) -> dict[str, Any]:
        figures: dict[str, Any] = {"answered": self.answered[version]}
        if judged := self.judged[version]:
            figures["accuracy"] = self.correct[version] / judged
        if errors := self.errors.get(version):
            figures["mean_squared_error"] = float(np.mean(np.square(errors)))
        return figures


class Client:
    """A client of one service, which tries again what the service could not take just then."""

    def __init__(self, plan: Plan, outcome: Outcome) -> None:
        headers = {"authorization": f"Bearer {plan.key}"} if plan.key else {}
        limits = httpx.Limits(max_connections=plan.concurrency + 2, max_keepalive_connections=plan.concurrency + 2)
        self._http = httpx.AsyncClient(base_url=plan.url, headers=headers, timeout=ANSWER_SECONDS, limits=limits)
        self._plan = plan
        self._outcome = outcome

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def describe(self) -> dict[str, Any]:
        """What `GET /model` says; raises LablineError where nothing answers there, BadInput where no service does."""
        answer = await self._ask("GET", "/model")
        with suppress(ValueError):
            described = answer.json()
            if answer.status_code == 200 and isinstance(described, dict) and "usecase" in described:
                return described
        raise BadInput(f"--url {self._plan.url}: labline serve was expected there, {answer.status_code} came back")

    async def post(self, path: str, **request: Any) -> httpx.Response:
        """An answer for good, whatever it says; raises as `describe` does."""
        return await self._ask("POST", path, **request)

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        deadline = time.monotonic() + self._plan.patience
        pause = FIRST_PAUSE
        while True:
            try:
                answer = await self._http.request(method, path, **request)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if answer.status_code in (401, 403):
                    raise BadInput(
                        f"{self._plan.url} wants another key: set LABLINE_SERVING_KEY, or --key-file FILE, to the one "
                        "it was started with"
                    )
                if answer.status_code not in PASSING:
                    return answer
                problem = f"{answer.status_code} {reason(answer)}"
                pause = max(pause, _retry_after(answer))
            if time.monotonic() + pause > deadline:
                raise LablineError(
                    f"{self._plan.url}{path} gave no answer for {self._plan.patience:g} s ({problem}): start the "
                    "service with labline serve, or point --url at it"
                )
            self._outcome.retries += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


class Replaying:
    """One replay: samples go out at their time, labels come after them."""

    def __init__(
        self,
        plan: Plan,
        client: Client,
        labels: Sequence[str],
        outcome: Outcome,
        on_progress: Callable[[Outcome], None],
    ) -> None:
        self._plan = plan
        self._client = client
        self._labels = labels
        self._outcome = outcome
        self._on_progress = on_progress
        self._free = asyncio.Semaphore(plan.concurrency)
        self._generator = np.random.default_rng(plan.seed)
        self._unknown: dict[int, list[dict[str, Any]]] = defaultdict(list)  # by the sample that makes it known
        self._due: list[tuple[float, dict[str, Any]]] = []
        self._all_answered = asyncio.Event()

    async def run(self, samples: Iterator[Sample]) -> None:
        """Send all, then wait for the last label; raises LablineError, or BadInput, where it cannot go on."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell())
            await self._send(samples)
            self._all_answered.set()

    async def _send(self, samples: Iterator[Sample]) -> None:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as asking, aclosing(_made_ahead(samples, self._plan.most)) as ready:
            async for sample in ready:
                at = begun + self._outcome.sent / self._plan.rate
                if max(at, time.monotonic()) - begun >= self._plan.seconds:
                    break
                await asyncio.sleep(at - time.monotonic())
                await self._free.acquire()
                number = self._outcome.sent
                self._outcome.sent += 1
                self._make_due(self._unknown.pop(number, []))
                label = self._plan.labelling.label(sample.truth, self._labels, self._generator)
                asking.create_task(self._ask(number, sample, label))

    async def _ask(self, number: int, sample: Sample, label: str | float | None) -> None:
        try:
            headers = {"content-type": sample.content_type, "x-source": sample.name}
            begun = time.perf_counter()
            answer = await self._client.post("/predict", content=sample.body, headers=headers)
            if answer.status_code != 200:
                self._outcome.refused[reason(answer)] += 1
                return
            self._outcome.latencies.append(time.perf_counter() - begun)
            said = answer.json()
            self._count(said, sample.truth)
            if label is not None:
                known = number + sample.known_after
                told = {"id": said["id"], "label": label, "source": SOURCE, "label_id": f"{SOURCE}-{said['id']}"}
                self._make_due([told]) if known < self._outcome.sent else self._unknown[known].append(told)
        finally:
            self._free.release()
            self._on_progress(self._outcome)

    def _count(self, said: dict[str, Any], truth: str | float | None) -> None:
        version = said["version"]
        self._outcome.answered[version] += 1
        self._outcome.unrecorded += said.get("recorded") is False
        if isinstance(truth, str):
            self._outcome.judged[version] += 1
            self._outcome.correct[version] += said.get("label") == truth
        elif truth is not None:
            self._outcome.errors[version].append(said["forecast"]["mean"] - truth)

    def _make_due(self, labels: list[dict[str, Any]]) -> None:
        due = time.time() + self._plan.label_delay
        self._due += [(due, label | {"at": due}) for label in labels]
        self._outcome.labels_pending = len(self._due) + sum(map(len, self._unknown.values()))

    async def _tell(self) -> None:
        """Send labels when they are due, until all is answered and nothing is due any more."""
        while not (self._all_answered.is_set() and not self._due):
            due = self._fallen_due()
            if not due:
                await asyncio.sleep(LABEL_PAUSE)
                continue
            answer = await self._client.post("/feedback", json=due)
            self._due = self._due[len(due) :]
            self._outcome.labels_pending = len(self._due) + sum(map(len, self._unknown.values()))
            self._count_labels(answer, len(due))
            self._on_progress(self._outcome)

    def _fallen_due(self) -> list[dict[str, Any]]:
        """Those in front whose time has come; whatever is behind one of a later time waits: a clock may be set back."""
        now = time.time()
        return [label for _, label in takewhile(lambda each: each[0] <= now, self._due[:LABELS_AT_ONCE])]

    def _count_labels(self, answer: httpx.Response, labels: int) -> None:
        told = answer.json() if answer.status_code in (200, 207, 422) else {}
        accepted = told.get("accepted", 0)
        self._outcome.labels_accepted += accepted
        for error in told.get("errors", []):
            self._outcome.labels_refused[error["error"]] += 1
        if not told.get("errors") and accepted < labels:
            self._outcome.labels_refused[reason(answer)] += labels - accepted


async def replay(
    make: Callable[[dict[str, Any]], Iterator[Sample]], plan: Plan, on_progress: Callable[[Outcome], None]
) -> Outcome:
    """Ask the service what `make` gives for its description (`GET /model`), and tell it the labels.

    Ctrl-C ends it early: the outcome tells so. Raises LablineError where the service does not answer for
    `plan.patience` seconds, BadInput where it is none, or wants another key.
    """
    outcome = Outcome()
    begun = time.monotonic()
    try:
        async with Client(plan, outcome) as client:
            described = await client.describe()
            await Replaying(plan, client, described["labels"], outcome, on_progress).run(make(described))
    except asyncio.CancelledError:
        outcome.interrupted = True
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        outcome.seconds = time.monotonic() - begun
    return outcome


def reason(answer: httpx.Response) -> str:
    """Why the service refuses, in its own words."""
    with suppress(ValueError):
        said = answer.json()
        if isinstance(said, dict) and isinstance(said.get("error"), str):
            return str(said["error"])[:200]
    return f"status {answer.status_code}"


async def _made_ahead(samples: Iterator[Sample], most: int) -> AsyncGenerator[Sample, None]:
    """Samples, made in a thread a block ahead: what that takes does not delay the answers that come meanwhile."""
    limited = islice(samples, most)
    making = asyncio.create_task(asyncio.to_thread(lambda: list(islice(limited, BLOCK))))
    try:
        while block := await making:
            making = asyncio.create_task(asyncio.to_thread(lambda: list(islice(limited, BLOCK))))
            for sample in block:
                yield sample
    finally:
        making.cancel()


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the service asks for; dates (RFC 9110, 10.2.3) are not read."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else 0.0


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error within nested groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
