"""The service as an ASGI application; `uvicorn --factory serving.app:create_app`, which `serving.worker` does.

What is asked often (`/predict`, `/feedback`, `/v2/…/infer`) is answered on ASGI itself; FastAPI answers the rest.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import describing, documentation, review
from serving.http import CLOSE, Endpoint, Room, problem, respond
from serving.security import AUTHENTICATE
from serving.service import Service
from serving.settings import Settings, from_environment

INFER = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")
LARGEST_FEEDBACK = 2**20  # bytes
OPEN = {"/health", "/ready", "/v2/health/live", "/v2/health/ready"}  # answered to anyone


class Application:
    """Sends requests to where they are answered, counts them, and keeps those without the key out."""

    def __init__(self, service: Service, others: FastAPI) -> None:
        self.service = service
        self.others = others
        settings, limits = service.settings, service.settings.limits
        common = (service.guard, service.metrics, Room(settings.max_bodies))
        self._exact = {
            "/predict": Endpoint(
                "/predict", service.predicting.predict, *common, limits.max_body, settings.body_timeout
            ),
            "/feedback": Endpoint(
                "/feedback", service.labelling.accept, *common, LARGEST_FEEDBACK, settings.body_timeout
            ),
        }
        self._infer = Endpoint("/v2/infer", service.protocol.infer, *common, limits.max_body, settings.body_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's life."""
        if scope["type"] != "http":
            await self.others(scope, receive, send)
            return
        path = scope["path"]
        endpoint = self._exact.get(path)
        if endpoint is not None:
            await endpoint(scope, receive, send)
        elif infer := INFER.fullmatch(path):
            parameters = {name: value for name, value in infer.groupdict().items() if value is not None}
            await self._infer({**scope, "path_params": parameters}, receive, send)
        else:
            await self._other(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 401
        path = scope["path"]

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        is_open = path in OPEN or path == "/" or path.startswith("/docs") or path in review.OPEN
        if is_open or self.service.guard.admits(dict(scope["headers"])):
            await self.others(scope, receive, seen)
        else:
            await respond(send, problem(401, AUTHENTICATE, (b"www-authenticate", b"Bearer"), CLOSE))
        route = getattr(scope.get("route"), "path", "other")
        self.service.metrics.answered(route, status, "", "", time.perf_counter() - started)


def create_app(settings: Settings | None = None) -> ASGIApp:
    """The application of one worker, whose settings `serving.settings.from_environment` reads unless they are given.

    Loads the assigned versions. Raises BadInput where the settings cannot be used.
    """
    service = Service(settings or from_environment())

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    others = FastAPI(
        title=f"labline: {service.settings.usecase}", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life
    )
    describing.add_routes(others, service)
    documentation.add_routes(others, service)
    review.add_routes(others, service)
    return Application(service, others)
