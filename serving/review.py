"""`/review`: the page on which people label what is most worth it, from files of this machine alone, and its queue.

What the page shows may come from anyone who may send predictions or labels: it is sent as JSON and shown as text.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response
from sqlalchemy.exc import SQLAlchemyError

from labline.errors import LablineError
from labline.feedback import FeedbackStore, issued
from labline.feedback.inputs import as_png, decode_input, is_picture
from serving.describing import HEADERS, NO_KEY, NOT_FOUND, NOT_READY, PROBLEM
from serving.http import Unavailable
from serving.labelling import known_labels
from serving.limits import Refused
from serving.service import Service

if TYPE_CHECKING:
    from labline.familiarity import Familiar
    from labline.review import Pick

logger = logging.getLogger(__name__)

PAGES = Path(__file__).parent / "pages"
FILES = {
    "/review": ("review.html", "text/html"),
    "/review/page.js": ("review.js", "text/javascript"),
    "/review/page.css": ("review.css", "text/css"),
}
OPEN = frozenset(FILES)  # answered to anyone: the page asks for the key, and only its data need it
POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
RECENT = 2_000  # of the newest predictions, those without a label are ranked: it takes 0.2 s
MOST, DEFAULT = 100, 20  # picks in one answer
COUNT: dict[str, Any] = {
    "name": "count",
    "in": "query",
    "required": False,
    "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT},
    "description": "how many predictions at most",
}
WRONG: dict[int | str, dict[str, Any]] = {422: PROBLEM}


class Reviewing:
    """Ranks what the feedback store holds for the versions that a worker answers with."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._store = FeedbackStore(service.settings.feedback)
        self._ranking = asyncio.Lock()  # one at a time: it takes processor time from the predictions

    async def queue(self, count: int) -> bytes:
        """The answer of `GET /review/queue`; raises Unavailable without a version, a store, or time for it."""
        self._service.production()
        try:
            await asyncio.wait_for(self._ranking.acquire(), self._settings.request_timeout)
        except TimeoutError:
            raise Unavailable("others are being served their queue; try again") from None
        try:
            return await asyncio.to_thread(self._rank, count)
        except SQLAlchemyError as error:
            raise _store_down(error) from error
        finally:
            self._ranking.release()

    async def input(self, id: str) -> tuple[bytes, str]:
        """The kept input of a prediction, and its content type; raises Refused (404) where there is none."""
        if not issued(id, self._service.key):
            raise Refused(404, "there is no prediction of this id")
        try:
            kept = (await asyncio.to_thread(self._store.inputs, [id])).get(id, b"")
        except SQLAlchemyError as error:
            raise _store_down(error) from error
        if not kept:
            raise Refused(404, "the input of this prediction was not kept")
        if is_picture(kept):
            return as_png(kept), "image/png"
        return orjson.dumps({"window": decode_input(kept).tolist()}), "application/json"

    def _rank(self, count: int) -> bytes:
        from labline.review import pick

        usecase = self._settings.usecase
        recent = self._store.window(usecase, last=RECENT)
        since = float(recent["at"].min()) if len(recent) else None
        shadows = self._store.window(usecase, since=since, last=RECENT, role=("shadow",))
        versions = self._familiar(recent["version"].unique().tolist())
        picks = pick(recent, shadows, versions, count)
        inputs = self._store.inputs(each.id for each in picks)
        rows = {row["id"]: row for row in recent[recent["id"].isin([each.id for each in picks])].to_dict("records")}
        standing = self._service.standing()
        answer = {
            "usecase": usecase,
            "title": standing[0].title if standing else "",
            "labels": list(known_labels(standing)),
            "recent": len(recent),
            "labelled": int(recent["label"].notna().sum()),
            "picks": [_shown(each, rows[each.id], versions, inputs.get(each.id, b"")) for each in picks],
        }
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)  # NaN becomes null

    def _familiar(self, versions: list[str]) -> dict[str, Familiar]:
        """What is known of the versions that stand, or whose files are still here."""
        from labline.familiarity import Familiar, familiar_version, local_version

        folders = {each.version: each.folder for each in self._service.standing()}
        known = {}
        for version in versions:
            folder = folders.get(version) or local_version(self._settings.store, self._settings.usecase, version)
            try:
                known[version] = familiar_version(folder) if folder else Familiar()
            except LablineError as error:
                logger.warning("predictions of version %s are ranked without its reference: %s", version, error)
                known[version] = Familiar()
        return known


def add_routes(application: FastAPI, service: Service) -> None:
    """Add the page, its queue and the inputs it shows."""
    reviewing = Reviewing(service)
    tags: list[Any] = ["review"]
    _add_page(application)

    @application.get(
        "/review/queue",
        summary="Predictions most worth a label",
        description="The page at /review shows them. Send labels to /feedback with the `source` that is named here.",
        tags=tags,
        response_class=Response,
        responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}} | WRONG | NOT_READY | NO_KEY,
        openapi_extra={"parameters": [COUNT]},
    )
    async def queue(request: Request) -> Response:
        return Response(await reviewing.queue(_count(request)), media_type="application/json", headers=HEADERS)

    @application.get(
        "/review/input/{id}",
        summary="What a prediction was of: the model's input",
        tags=tags,
        response_class=Response,
        responses={
            200: {"content": {"image/png": {}, "application/json": {"schema": {"type": "object"}}}},
            **NOT_FOUND,
            **NOT_READY,
            **NO_KEY,
        },
    )
    async def kept(id: str) -> Response:
        content, media = await reviewing.input(id)
        return Response(content, media_type=media, headers=HEADERS)


def _add_page(application: FastAPI) -> None:
    headers = {**HEADERS, "content-security-policy": POLICY, "referrer-policy": "no-referrer"}

    async def page(request: Request) -> Response:
        name, media = FILES[request.url.path]
        return Response((PAGES / name).read_bytes(), media_type=media, headers=headers)

    for path in FILES:
        application.add_api_route(path, page, include_in_schema=False)


def _count(request: Request) -> int:
    written = request.query_params.get("count", str(DEFAULT))
    if not (written.isascii() and written.isdigit() and len(written) < 10 and 1 <= int(written) <= MOST):
        raise Refused(422, f"count: a number from 1 to {MOST} was expected")
    return int(written)


def _shown(pick: Pick, row: Mapping[Hashable, Any], versions: dict[str, Familiar], kept: bytes) -> dict[str, Any]:
    """A pick as the page needs it; numbers that are not finite become null."""
    from labline.review import COLUMNS

    labels, outputs = versions[row["version"]].labels, row["outputs"]
    classifies = math.isfinite(row["confidence"])
    named = classifies and len(labels) == len(outputs)
    features = {name: float(value) for name, value in row.items() if name not in COLUMNS and math.isfinite(value)}
    return {
        "id": pick.id,
        "source": pick.source,
        "reasons": pick.reasons,
        "at": row["at"],
        "version": row["version"],
        "answer": row["answer"],
        "confidence": row["confidence"] if classifies else None,
        "probabilities": dict(zip(labels, outputs, strict=True)) if named else None,
        "features": features,
        "reference": row["source"],
        "input": ("image" if is_picture(kept) else "window") if kept else None,
    }


def _store_down(error: SQLAlchemyError) -> Unavailable:
    logger.warning("the feedback store cannot be read: %s", type(error).__name__)
    return Unavailable("the feedback store cannot be read now; try again", retry_after=5)
