"""What the service says of itself: alive, ready, which version, metrics, the open inference protocol's metadata."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

import labline
from serving.http import Unavailable
from serving.inference_protocol import metadata
from serving.limits import Refused
from serving.metrics import CONTENT_TYPE
from serving.security import SECURE
from serving.service import Service

HEADERS = {name.decode(): value.decode() for name, value in SECURE}
PROBLEM: dict[str, Any] = {
    "description": "why not",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
NOT_READY: dict[int | str, dict[str, Any]] = {503: PROBLEM}
NO_KEY: dict[int | str, dict[str, Any]] = {401: PROBLEM}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: PROBLEM}


def add_routes(application: FastAPI, service: Service) -> None:
    """Add the routes, and answer errors as all other endpoints do."""
    _add_error_handlers(application)
    _add_own_routes(application, service)
    _add_protocol_routes(application, service)


def _add_own_routes(application: FastAPI, service: Service) -> None:
    @application.get("/health", summary="Is the process alive?", tags=["service"])
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @application.get("/ready", summary="Is a version loaded?", tags=["service"], responses=NOT_READY)
    async def ready() -> dict[str, str]:
        return {"status": "ready", "version": service.production().version}

    @application.get(
        "/model", summary="Which version answers, and what it takes", tags=["service"], responses=NOT_READY | NO_KEY
    )
    async def model() -> dict[str, Any]:
        return service.describe()

    @application.get(
        "/metrics",
        summary="Metrics in Prometheus's format",
        tags=["service"],
        response_class=Response,
        responses=NO_KEY,
    )
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type=CONTENT_TYPE.decode())


def _add_protocol_routes(application: FastAPI, service: Service) -> None:
    protocol = service.protocol
    tags: list[Any] = ["open inference protocol"]
    both = NOT_FOUND | NOT_READY | NO_KEY

    @application.get("/v2", summary="Server metadata", tags=tags, responses=NO_KEY)
    async def server() -> dict[str, Any]:
        return {"name": "labline", "version": labline.__version__, "extensions": ["binary_tensor_data"]}

    @application.get("/v2/health/live", summary="Is the process alive?", tags=tags)
    async def live() -> dict[str, bool]:
        return {"live": True}

    @application.get("/v2/health/ready", summary="Is a version loaded?", tags=tags, responses=NOT_READY)
    async def ready() -> dict[str, bool]:
        service.production()
        return {"ready": True}

    @application.get("/v2/models/{name}", summary="Model metadata", tags=tags, responses=both)
    @application.get("/v2/models/{name}/versions/{version}", summary="Version metadata", tags=tags, responses=both)
    async def describe(name: str, version: str | None = None) -> dict[str, Any]:
        served = protocol.served(name, version)
        return metadata(protocol.usecase, served, [each.version for each in service.standing()])

    @application.get("/v2/models/{name}/ready", summary="Is the model loaded?", tags=tags, responses=both)
    @application.get(
        "/v2/models/{name}/versions/{version}/ready", summary="Is the version loaded?", tags=tags, responses=both
    )
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        return {"name": name, "version": protocol.served(name, version).version, "ready": True}


def _add_error_handlers(application: FastAPI) -> None:
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse({"error": error.message}, error.status, HEADERS)

    async def unavailable(_: Request, error: Exception) -> Response:
        assert isinstance(error, Unavailable)
        return JSONResponse({"error": str(error)}, 503, {**HEADERS, "retry-after": str(error.retry_after)})

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, {**HEADERS, **(error.headers or {})})

    async def unexpected(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": "internal error: the service's log says more"}, 500, HEADERS)

    application.add_exception_handler(Refused, refused)
    application.add_exception_handler(Unavailable, unavailable)
    application.add_exception_handler(HTTPException, http)
    application.add_exception_handler(Exception, unexpected)
