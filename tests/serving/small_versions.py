"""Versions of a few nodes, as MLflow lays them out, made in milliseconds; and an application that answers with them."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import numpy_helper
from small_models import LABELS, image_model

from serving.settings import from_environment
from serving.versions import NotReady, Served, Versions

SIZE = 8
BRIGHT = np.full((1, SIZE, SIZE, 1), 200, dtype=np.uint8)


def write_version(folder: Path, contrast: float, declaration: str = "", size: int = SIZE) -> Path:
    """A version that tells bright images from dark ones, the surer the larger `contrast` is; below 0 it is wrong."""
    image_model(folder, size=size)
    model = onnx.load(folder / "model.onnx")
    (signs,) = (weights for weights in model.graph.initializer if weights.name == "signs")
    signs.CopyFrom(numpy_helper.from_array(np.array([[-contrast, contrast]], np.float32), "signs"))
    onnx.save(model, folder / "model.onnx")
    pixels = {"name": "images", **_tensor("uint8", [-1, size, size, 1])}
    scores = [{"name": name, **_tensor("float32", [-1, 2])} for name in ("logits", "probabilities")]
    signature = {"inputs": json.dumps([pixels]), "outputs": json.dumps(scores)}
    described = {"flavors": {"onnx": {"data": "model.onnx"}}, "signature": signature}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    (folder / "input_example.json").write_text(json.dumps(np.full((1, size, size, 1), 200).tolist()))
    (folder / "extra_files").mkdir()
    (folder / "extra_files" / "evaluation.json").write_text(json.dumps({"labels": LABELS}))
    if declaration:
        (folder / "extra_files" / "usecase.toml").write_text(declaration)
    return folder


def answer(served: Served) -> float:
    """How sure a version is that the bright image is bright."""
    return float(served.model.predict(BRIGHT)[0, 1])


def expected(contrast: float) -> float:
    """What a version of this contrast has to answer."""
    return float(1 / (1 + np.exp(-2 * contrast * (200 - 127.5))))


def break_weights(folder: Path) -> Path:
    """A version that answers NaN: it loads, and only its check tells."""
    model = onnx.load(folder / "model.onnx")
    (signs,) = (weights for weights in model.graph.initializer if weights.name == "signs")
    signs.CopyFrom(numpy_helper.from_array(np.full((1, 2), np.nan, np.float32), "signs"))
    onnx.save(model, folder / "model.onnx")
    return folder


def create_app() -> Callable[..., Awaitable[None]]:
    """Answers every request with the version, its answer to the bright image and the process; /die ends the process."""
    versions: list[Versions] = []

    async def app(scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] == "lifespan":
            await receive()
            versions.append(Versions(from_environment().folder))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            versions[0].close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/die":
            os._exit(7)
        try:
            served, role = versions[0].choose(1.0)
            said, status = {"version": served.version, "answer": answer(served), "role": role}, 200
        except NotReady as error:
            said, status = {"error": str(error)}, 503
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(said | {"process": os.getpid()}).encode()})

    return app


def _tensor(dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}
