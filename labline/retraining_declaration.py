"""What `[retraining]` may say: what the next version learns from, and how often it may be tried."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Retraining(BaseModel):
    """How a challenger is made of the champion and its labelled feedback, and when that is enough of trying."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Literal["scratch", "warm"] = Field("scratch", description="warm: from the weights of the champion")
    epochs: int | None = Field(None, ge=1, description="of a retraining; default: training.epochs")
    learning_rate: float | None = Field(None, gt=0, description="of a retraining; default: training.learning_rate")
    memory: Literal["all", "window"] = Field("all", description="window: only the feedback of the window joins")
    max_age_days: float = Field(365.0, gt=0, description="older feedback is left out")
    most: int = Field(20_000, ge=1, description="the latest so many labelled predictions join at most")
    fewest: int = Field(100, ge=10, description="with fewer new labels nothing is retrained")
    hold_out: float = Field(0.3, gt=0, lt=1, description="share of the window that judges and is never learned from")
    validation: float = Field(0.15, ge=0, lt=1, description="share of feedback that validates")
    old_margin: float = Field(0.02, ge=0, le=1, description="how much worse the old test set may be answered")
    cooldown_hours: float = Field(24.0, ge=0, description="between two retrainings")
    budget: int = Field(8, ge=1, description="retrainings within 30 days at most")
    patience: int = Field(3, ge=1, description="challengers refused in a row, after which retraining stops")

    @model_validator(mode="after")
    def _leaves_something_to_learn_from(self) -> Retraining:
        if self.hold_out + self.validation >= 1:
            raise ValueError(f"hold_out + validation must be below 1, not {self.hold_out + self.validation:g}")
        return self
