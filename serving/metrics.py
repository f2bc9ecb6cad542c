"""What the service counts, in Prometheus's format, summed over its worker processes.

Each worker counts in files of its own, mapped into memory, and any of them can tell the sum. The files bear the
worker's name, not its process id: who replaces a dead worker goes on with its counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

LATENCIES = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
RESERVED = 2**18  # bytes of each file, some 2,000 series
KINDS = ("counter", "histogram", "gauge_livesum", "gauge_livemax")
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Observed:
    """What is looked up every second instead of being counted: of this worker."""

    waiting: int
    journal_bytes: int
    versions: tuple[tuple[str, str], ...]  # version and role
    swaps: int
    refused: int


class Metrics:
    """The counters of one worker. With an empty `folder` they are this process's alone."""

    def __init__(self, folder: Path | None = None, worker: str = "0") -> None:
        self._folder = folder if folder is not None and _reserve(folder, worker) else None
        self._registry = CollectorRegistry()
        before = values.ValueClass
        if self._folder is not None:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self._folder)
            values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]
        try:
            self._make()
        finally:
            if self._folder is None:
                values.ValueClass = before
        # Looking a child up by its labels costs more than counting.
        self._children: dict[tuple[str, int, str, str], tuple[Counter, Histogram]] = {}
        self._named: dict[tuple[str, str], Gauge] = {}

    def _make(self) -> None:
        registry = self._registry
        asked = ("route", "status", "version", "role")
        self.requests = Counter("labline_requests", "Requests answered", asked, registry=registry)
        self.latency = Histogram(
            "labline_request_seconds",
            "From a request's headers to the last byte of its answer",
            ("route",),
            buckets=LATENCIES,
            registry=registry,
        )
        self.batch = Histogram(
            "labline_batch_samples", "Samples in one run of the model", buckets=BATCHES, registry=registry
        )
        self.predictions = Counter(
            "labline_predictions",
            "Predictions by whether they were recorded; a shadow may be dropped under load",
            ("role", "outcome"),
            registry=registry,
        )
        self.labels = Counter("labline_labels", "Labels in /feedback", ("outcome",), registry=registry)
        self.waiting = _gauge("labline_waiting_samples", "Samples that wait for the model", "livesum", registry)
        self.swaps = _gauge(
            "labline_version_swaps", "Versions exchanged since the workers started", "livesum", registry
        )
        self.journal = _gauge("labline_journal_bytes", "What the feedback store has yet to take", "livemax", registry)
        self.refused = _gauge("labline_refused_versions", "Versions that should stand and cannot", "livemax", registry)
        self.version = Gauge(
            "labline_model_version",
            "1 for what stands now",
            ("version", "role"),
            registry=registry,
            multiprocess_mode="livemax",
        )

    def count(self, route: str, status: int, version: str, role: str) -> tuple[Counter, Histogram]:
        """Count a request."""
        found = self._children.get((route, status, version, role))
        if found is None:
            found = self.requests.labels(route, str(status), version, role), self.latency.labels(route)
            self._children[route, status, version, role] = found
        found[0].inc()
        return found

    def answered(self, route: str, status: int, version: str, role: str, seconds: float) -> None:
        """Count a request and how long it took."""
        self.count(route, status, version, role)[1].observe(seconds)

    def observe(self, seen: Observed) -> None:
        """Take over what was looked up."""
        self.waiting.set(seen.waiting)
        self.journal.set(seen.journal_bytes)
        self.swaps.set(seen.swaps)
        self.refused.set(seen.refused)
        self._name(seen.versions)

    def _name(self, versions: Iterable[tuple[str, str]]) -> None:
        standing = set(versions)
        for gone in set(self._named) - standing:
            self._named[gone].set(0)
        for named in standing:
            if named not in self._named:
                self._named[named] = self.version.labels(*named)
            self._named[named].set(1)

    def page(self) -> bytes:
        """The metrics of all workers, as Prometheus reads them."""
        if self._folder is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _gauge(name: str, help_text: str, mode: Literal["livesum", "livemax"], registry: CollectorRegistry) -> Gauge:
    return Gauge(name, help_text, registry=registry, multiprocess_mode=mode)


def _reserve(folder: Path, worker: str) -> bool:
    """Give the files their room; False where the disk has none.

    A page of a mapped file that the disk has no room for ends the process (SIGBUS) when it is written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            path = folder / f"{kind}_{worker}.db"
            with path.open("a+b") as file:
                if os.fstat(file.fileno()).st_size < RESERVED:
                    os.posix_fallocate(file.fileno(), 0, RESERVED)
    except OSError:
        return False
    return True
