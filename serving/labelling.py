"""`POST /feedback`: what turned out to be true, acknowledged only when it can no longer be lost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import uuid4

import orjson

from labline.feedback import Label, issued
from serving.http import Answer, Request, Unavailable
from serving.json_bodies import read_json
from serving.limits import Refused
from serving.metrics import Metrics
from serving.recording import Full, Recorder
from serving.versions import Served, Versions

MOST = 1000  # labels in one request
LONGEST = 200  # characters of a label, a source or an id
CLOCK_SKEW = 300.0  # seconds that a client's clock may be ahead: a label from the future would win for ever
MEDIA = "application/json"
KEYS = {"id", "label", "source", "at", "label_id"}
EXPECTED = '{"id": …, "label": …} was expected, or a list of these; also "source", "at" and "label_id"'


class Labelling:
    """Holds labels against what was predicted here, and keeps them."""

    def __init__(self, versions: Versions, recorder: Recorder, metrics: Metrics, key: bytes) -> None:
        self._versions = versions
        self._recorder = recorder
        self._metrics = metrics
        self._key = key

    async def accept(self, request: Request) -> Answer:
        """Keep one label, or all that are right of a list of them; those that are not are named, with the reason."""
        if request.text(b"content-type").partition(";")[0].strip().lower() != MEDIA:
            raise Refused(415, f"content type {MEDIA} was expected")
        document = read_json(request.body)
        several = isinstance(document, list)
        items: list[Any] = document if isinstance(document, list) else [document]
        if not items or len(items) > MOST:
            raise Refused(422 if not items else 413, f"1 to {MOST:,} labels were expected, got {len(items):,}")
        labels, errors = self._sort(items)
        if not several and errors:
            raise errors[0][1]
        if labels:
            await self._keep(labels)
        self._metrics.labels.labels("accepted").inc(len(labels))
        self._metrics.labels.labels("refused").inc(len(errors))
        told: dict[str, Any] = {"accepted": len(labels)}
        if errors:
            told["errors"] = [{"index": index, "status": e.status, "error": e.message} for index, e in errors]
        return Answer(orjson.dumps(told), 200 if not errors else 207 if labels else 422)

    def _sort(self, items: list[Any]) -> tuple[list[Label], list[tuple[int, Refused]]]:
        """The labels that can be kept, and why others cannot, by their place."""
        served = [each for each in (self._versions.production, self._versions.staging) if each is not None]
        if not served:
            raise Unavailable("no version is served yet, so nobody knows its labels", retry_after=5)
        labels, errors = [], []
        for index, item in enumerate(items):
            try:
                labels.append(self._label(item, served))
            except Refused as error:
                errors.append((index, error))
        return labels, errors

    def _label(self, item: object, served: list[Served]) -> Label:
        if not isinstance(item, dict) or not {"id", "label"} <= set(item) or not set(item) <= KEYS:
            raise Refused(422, EXPECTED)
        prediction = item["id"]
        if not isinstance(prediction, str) or not issued(prediction, self._key):
            raise Refused(404, '"id" names no prediction of this service; expected the id of an answer')
        now = time.time()
        return Label(
            id=_text(item.get("label_id"), "label_id") or uuid4().hex,
            prediction=prediction,
            label=_true(item["label"], served),
            source=_text(item.get("source"), "source") or "client",
            at=_moment(item.get("at"), now),
            received=now,
        )

    async def _keep(self, labels: list[Label]) -> None:
        try:
            await self._recorder.label(*labels)
        except Full as error:
            self._metrics.labels.labels("unstorable").inc(len(labels))
            raise Unavailable("the feedback cannot be stored now; send it again", retry_after=5) from error


def known_labels(served: Iterable[Served]) -> tuple[str, ...]:
    """The labels of all versions, in their order; none where they forecast numbers."""
    return tuple(dict.fromkeys(label for each in served for label in each.model.labels))


def _true(label: object, served: list[Served]) -> str:
    """A class that a version knows, or a finite number where they forecast one."""
    known = known_labels(served)
    if not known:
        if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
            raise Refused(422, '"label" must be a finite number: what the forecast was of')
        return repr(float(label))
    if not isinstance(label, str):
        raise Refused(422, f'"label" must be one of {", ".join(known)}')
    if label not in known and served[0].serving.unknown_labels == "refuse":
        raise Refused(422, f'"label" is none that the model knows; expected one of {", ".join(known)}')
    named = _text(label, "label")
    if not named:
        raise Refused(422, '"label" must not be empty')
    return named


def _text(value: object, name: str) -> str:
    """A short text that any database can hold; empty for None."""
    if value is None:
        return ""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST or not value.isprintable():
        raise Refused(422, f'"{name}" must be a text of 1 to {LONGEST} printable characters')
    return value


def _moment(value: object, now: float) -> float:
    """Seconds since 1970, given so or in ISO 8601 with its offset; now for None."""
    if value is None:
        return now
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                raise ValueError
            at = moment.timestamp()
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        else:
            at = float(value)
        if not 0 <= at <= now + CLOCK_SKEW:
            raise ValueError
    except (ValueError, OverflowError):
        raise Refused(
            422, '"at" must be seconds since 1970, or ISO 8601 with its offset, and not in the future'
        ) from None
    return at
