"""What `[engine]` may say: whether stages compute in this process or on a Ray cluster, and with how many workers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from labline.errors import BadInput


class Engine(BaseModel):
    """Who computes. It is no part of what is computed, but for the rounding of sums over several workers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["local", "ray"] = "local"
    address: str = Field(
        "",
        description="of a Ray cluster: auto, host:port or ray://host:port; default: Ray on this machine, meanwhile",
    )
    workers: int = Field(2, ge=1, description="processes that train together; each has its share of every batch")

    @model_validator(mode="after")
    def _address_is_of_a_cluster(self) -> Engine:
        if self.address and self.kind == "local":
            raise ValueError(f'address = "{self.address}" is of a Ray cluster; set kind = "ray" (--engine ray) too')
        return self

    @property
    def training_workers(self) -> int:
        """How many processes train together: 1 where everything is local."""
        return self.workers if self.kind == "ray" else 1


def engine_assignments(kind: str | None, address: str | None) -> list[str]:
    """What `--engine` and `--address` stand for: overrides of the declaration, as `--set` has them."""
    none_needed = kind == "local" and address is None  # whatever cluster is declared
    given = {"kind": kind, "address": "" if none_needed else address}
    return [f'engine.{key}="{value}"' for key, value in given.items() if value is not None]


def engine_of(declared: Engine, kind: str | None, address: str | None) -> Engine:
    """The declared engine with what `--engine` and `--address` say instead; raises BadInput where it cannot be."""
    given = {key: value for key, value in (("kind", kind), ("address", address)) if value is not None}
    kept = Engine() if kind == "local" else declared  # whose address would be a cluster's
    try:
        return Engine.model_validate(kept.model_dump() | given)
    except ValidationError as error:
        problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise BadInput(f"--engine {kind or declared.kind}: {problems}") from None
