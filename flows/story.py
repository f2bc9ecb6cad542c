"""What happened in a demo so far, act by act: kept in the storage root, so that an interrupted one goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

STATE = "demo.json"


class Act(BaseModel):
    """A finished act: when it began, in seconds since 1970, how many seconds it took, and its figures."""

    name: str
    begun: float
    seconds: float
    figures: dict[str, Any]


class Story(BaseModel):
    """The finished acts in their order, and what happened, as (seconds since 1970, words)."""

    acts: list[Act] = []
    events: list[tuple[float, str]] = []

    def figures(self, name: str) -> dict[str, Any]:
        """What a finished act found."""
        return next(act.figures for act in self.acts if act.name == name)

    def has(self, name: str) -> bool:
        """Whether an act is finished."""
        return any(act.name == name for act in self.acts)

    def note(self, what: str, at: float | None = None) -> None:
        """Take note of an event, by default of this moment; the same words are noted once."""
        if what not in {words for _, words in self.events}:
            self.events.append((time.time() if at is None else at, what))
            self.events.sort()

    def summary(self) -> dict[str, Any]:
        """What `labline demo --json` prints."""
        found = {act.name: act.figures for act in self.acts}
        played = [found[name] for name in ("healthy", "drift", "recovery") if name in found]
        return {
            "accuracy": {name: found[name]["accuracy"] for name in ("healthy", "drift", "recovery") if name in found},
            "verdicts": [figures["verdict"] for figures in played],
            "versions": [figures["version"] for figures in played],
            "recovered": recovered(found),
            "seconds": {act.name: act.seconds for act in self.acts},
            "events": [{"at": at, "what": what} for at, what in self.events],
            "picture": found.get("picture", {}).get("picture"),
        }


def recovered(found: dict[str, dict[str, Any]]) -> float | None:
    """Which share of the accuracy that the drift cost came back; None before the end, or where it cost nothing."""
    if "recovery" not in found:
        return None
    before, during, after = (float(found[name]["accuracy"]) for name in ("healthy", "drift", "recovery"))
    return (after - during) / (before - during) if before > during else None


def read_story(store: Path) -> Story:
    """The story so far; an empty one where none was begun."""
    try:
        return Story.model_validate_json((store / STATE).read_bytes())
    except (OSError, ValidationError):
        return Story()


def write_story(store: Path, story: Story) -> None:
    """Keep the story; whoever reads it meets the old one or the new one."""
    written = store / f".{STATE}"
    written.write_text(story.model_dump_json(indent=1))
    written.replace(store / STATE)
