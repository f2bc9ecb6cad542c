"""`/docs`: the OpenAPI page, from files of this machine alone; `/openapi.json`: what it shows."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.responses import JSONResponse, RedirectResponse, Response

from serving.describing import HEADERS
from serving.limits import Refused
from serving.openapi import document
from serving.security import PAGE_POLICY
from serving.service import Service

ASSETS = Path(fastapi_offline.__file__).parent / "static"
FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>labline</title>
<link rel="icon" href="/docs/favicon.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/page.js"></script>
</body>
</html>
"""
# The key stays in the tab: it is asked for where the description of the service needs it, and sent with every trial.
SCRIPT = """"use strict";
const header = () => sessionStorage.labline ? { "X-API-Key": sessionStorage.labline } : {};
async function show() {
  let description = await fetch("/openapi.json", { headers: header() });
  while (description.status === 401) {
    const key = prompt("The key of this service");
    if (key === null) return;
    sessionStorage.labline = key;
    description = await fetch("/openapi.json", { headers: header() });
  }
  SwaggerUIBundle({
    dom_id: "#page",
    spec: await description.json(),
    validatorUrl: null,
    tryItOutEnabled: true,
    displayRequestDuration: true,
    requestInterceptor: (request) => { Object.assign(request.headers, header()); return request; },
  });
}
show();
"""


def add_routes(application: FastAPI, service: Service) -> None:
    """Add the page and its description."""
    headers = {**HEADERS, "content-security-policy": PAGE_POLICY, "referrer-policy": "no-referrer"}

    @application.get("/openapi.json", include_in_schema=False)
    async def description() -> JSONResponse:
        return JSONResponse(document(application, service), headers=HEADERS)

    @application.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    @application.get("/docs", include_in_schema=False)
    async def page() -> Response:
        return Response(PAGE, media_type="text/html", headers=headers)

    @application.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name == "page.js":
            return Response(SCRIPT, media_type="text/javascript", headers=headers)
        if name not in FILES:
            raise Refused(404, "there is no such file")
        content = (ASSETS / name).read_bytes()
        return Response(content, media_type=FILES[name], headers={**headers, "cache-control": "max-age=3600"})
