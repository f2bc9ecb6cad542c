"""Small declarations whose settings are searched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from labline.declaration import load_usecase
from labline.usecase import UseCase

USECASES = Path("usecases")


@pytest.fixture
def declared() -> Callable[..., UseCase]:
    """A shipped declaration with overrides, as `--set` makes them."""

    def load(name: str, *assignments: str) -> UseCase:
        return load_usecase(name, USECASES, assignments)

    return load
