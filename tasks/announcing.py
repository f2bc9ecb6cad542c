"""Announcing: every change of a stage is a Prefect event, for automations and whoever listens.

`labline.version.promoted | rolled-back | archived | refused`, resource `labline.model.<usecase>`, with the
version, stage, who and why as payload (docs/promotion.md).
"""

from __future__ import annotations

import logging
import os

from labline.ledger import Entry


def announce(usecase: str, happened: str, entry: Entry) -> None:
    """Emit the event, where a Prefect server is there to hear it."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.events import emit_event

    logging.getLogger("EventsWorker").setLevel(logging.ERROR)  # tells the console that an event is on its way
    emit_event(
        event=f"labline.version.{happened}",
        resource={"prefect.resource.id": f"labline.model.{usecase}", "prefect.resource.name": usecase},
        payload={
            "usecase": usecase,
            "version": entry.version,
            "stage": entry.after.stage_of(entry.version),
            "production": entry.after.production,
            "previous": entry.after.previous,
            "action": entry.action,
            "who": entry.who,
            "why": entry.why,
            "evidence": entry.evidence,
        },
    )
