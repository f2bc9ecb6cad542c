"""What `[monitoring]` may say: when a version counts as worse, and how rarely that may be said for nothing."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Monitoring(BaseModel):
    """The rules of the verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_drop: float = Field(0.03, ge=0, le=1, description="accuracy may fall so far below the reference's")
    max_rise: float = Field(0.5, ge=0, description="a forecaster's mean loss may rise by this share of the reference's")
    false_alarms: float = Field(0.05, gt=0, lt=1, description="chance of a false retrain or rollback within a year")
    predictions_per_year: int = Field(100_000, ge=1, description="how many predictions that year has, at most")
    window: int = Field(5000, ge=100, description="predictions that are looked at: the latest so many")
    fewest: int = Field(100, ge=10, description="of fewer predictions, or labels, nothing is said")
    tolerance: float = Field(0.1, ge=0, lt=0.5, description="how far mean ranks and class shares may wander")
    max_psi: float = Field(0.2, gt=0, description="a feature's population stability index that is worth a look")
    rollback_within: int = Field(5000, ge=0, description="predictions after a promotion in which it can be undone")
