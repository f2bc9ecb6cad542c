"""`labline rollback | archive | history | compare`: versions between their stages, without a server to start."""

from __future__ import annotations

import json as json_format
from datetime import datetime
from typing import TYPE_CHECKING, Any

from labline.errors import BadInput
from tasks.registry import Registry, look, open_registry

if TYPE_CHECKING:
    from rich.console import RenderableType

    from labline.ledger import Entry
    from tasks.version import Version

UNMOVING = ("refused", "asked", "approved", "rejected")  # kinds of entries that say why nothing was moved


def roll_back(usecase: str, reason: str, who: str | None, force: bool, json: bool) -> None:
    """Restore the Production before, and say so."""
    from tasks.moving import roll_back as move_back

    _told(usecase, "rolled-back", move_back(_registered(usecase), reason, who, force), json)


def archive(usecase: str, version: str, reason: str, who: str | None, json: bool) -> None:
    """Take a version out of its stage, and say so."""
    from tasks.moving import archive as move_out

    _told(usecase, "archived", move_out(_registered(usecase), version, reason, who), json)


def show_history(usecase: str, at: str | None, json: bool) -> None:
    """Print who was in which stage from when to when, or at one moment."""
    from labline.ledger import outcome, standing, tenures

    registry = _registered(usecase)
    mended = look(registry)
    entries = registry.ledger.entries(usecase)
    moment = _moment(at) if at else None
    found = [
        tenure for tenure in tenures(entries) if moment is None or tenure.start <= moment < (tenure.end or float("inf"))
    ]
    rows = [vars(tenure) | {"start": _date(tenure.start), "end": _date(tenure.end)} for tenure in found]
    questions = [_question(entry, outcome(entry, entries)) for entry in entries if entry.kind in UNMOVING]
    shown = standing(entries, moment)
    summary = {
        "usecase": usecase,
        "at": at,
        "production": shown.production,
        "staging": shown.staging,
        "previous": shown.previous,
        "tenures": rows,
        "unmoved": [] if at else questions,
        "mended": mended,
        "tampered_entry": registry.ledger.tampered(usecase),
    }
    _print(_history_table(summary), summary, json)


def compare(usecase: str, first: str, second: str, json: bool) -> None:
    """Print how two versions do on the same test rows, and where they differ in what they were made of."""
    from dataclasses import asdict

    from tasks.judging import examine
    from tasks.version import fetch_version

    registry = _registered(usecase)
    champion, challenger = fetch_version(registry, first), fetch_version(registry, second)
    examination = examine(challenger)
    if not examination.comparable(champion):
        raise BadInput(
            f"{usecase} versions {first} and {second} take different inputs or answer another question: "
            f"{champion.signature} and {challenger.signature}"
        )
    found = examination.compare(champion)
    made_of = [_made_of(version) for version in (champion, challenger)]
    names = sorted(made_of[0].keys() | made_of[1].keys())
    summary = {
        "usecase": usecase,
        "versions": [first, second],
        **asdict(found),
        "groups": found.groups.to_dict("records"),
        "verdict": found.verdict,
        "made_of": {
            name: [each.get(name) for each in made_of] for name in names if made_of[0].get(name) != made_of[1].get(name)
        },
    }
    _print(_comparison_table(summary), summary, json)


def _registered(usecase: str) -> Registry:
    registry = open_registry(usecase)
    if not registry.versions():
        raise BadInput(f"nothing is registered as {usecase!r}: labline list shows what is; labline run {usecase}")
    return registry


def _told(usecase: str, happened: str, entry: Entry, json: bool) -> None:
    from tasks.announcing import announce

    announce(usecase, happened, entry)
    production = entry.after.production
    summary = {
        "usecase": usecase,
        "action": entry.action,
        "version": entry.version,
        "production": production,
        "staging": entry.after.staging,
        "previous": entry.after.previous,
        "who": entry.who,
        "why": entry.why,
    }
    stage = entry.after.stage_of(entry.version)
    now = f"version {production} is in Production" if production else "nothing is in Production"
    _print(f"{usecase} version {entry.version}: {entry.action}, now {stage}; {now}", summary, json)


def _print(shown: RenderableType, summary: dict[str, Any], json: bool) -> None:
    from rich.console import Console

    from flows.console import print_json_line

    Console(stderr=json, highlight=False).print(shown)
    if json:
        print_json_line(summary)


def _history_table(summary: dict[str, Any]) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table

    table = Table(title=f"{summary['usecase']}: stages", box=box.SIMPLE)
    for heading in ("version", "stage", "from", "until", "moved by"):
        table.add_column(heading, no_wrap=heading != "moved by")
    for row in summary["tenures"]:
        evidence = f" (gates {row['evidence'][:12]})" if row["evidence"] else ""
        of = "" if row["moved"] == row["version"] else f" of {row['moved']}"
        moved = f"{row['action']}{of}, {row['who']}: {row['why']}{evidence}"
        table.add_row(row["version"], row["stage"], _minute(row["start"]), _minute(row["end"]) or "now", moved)
    parts: list[RenderableType] = [table]
    if summary["unmoved"]:
        asked = Table("when", "version", "", "until", "who", "why", title="refused, asked and answered")
        for row in summary["unmoved"]:
            asked.add_row(row["at"], row["version"], row["outcome"], row["deadline"] or "", row["who"], row["why"])
        parts.append(asked)
    parts += [f"seen and brought in line: {line}" for line in summary["mended"]]
    if summary["tampered_entry"]:
        parts.append(f"[red]entry {summary['tampered_entry']} of the ledger is not what was written[/]")
    return Group(*parts)


def _comparison_table(summary: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    first, second = summary["versions"]
    table = Table("", "samples", f"version {first}", f"version {second}", "difference")
    rows = [(summary["metric"], summary["samples"], summary["champion"], summary["challenger"], summary["difference"])]
    rows += [
        (
            f"{group['kind']} {group['value']}",
            group["support"],
            group["champion"],
            group["challenger"],
            group["difference"],
        )
        for group in summary["groups"]
    ]
    for name, samples, ours, theirs, difference in rows:
        apart = f"{100 * difference:+.2f} %" if summary.get("relative") else f"{difference:+.4f}"
        table.add_row(str(name), f"{samples:,}", f"{ours:.4f}", f"{theirs:.4f}", apart)
    made_of = Table("made of", f"version {first}", f"version {second}")
    for name, values in summary["made_of"].items():
        made_of.add_row(name, *("-" if value is None else str(value) for value in values))
    return Group(table, summary["verdict"], made_of)


def _made_of(version: Version) -> dict[str, Any]:
    """What decides how a version turned out: its declaration, key by key, and where it comes from."""
    declared = _flat(version.declaration.model_dump())
    lineage = json_format.loads((version.extra / "environment.json").read_text())
    return declared | {name: value for name, value in lineage.items() if not name.endswith(("sha256", "directory"))}


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _question(entry: Entry, outcome: str) -> dict[str, Any]:
    return {
        "at": _date(entry.at),
        "version": entry.version,
        "outcome": outcome,
        "deadline": _date(entry.deadline),
        "who": entry.who,
        "why": entry.why,
    }


def _minute(date: str | None) -> str:
    """A date as a table has room for."""
    return (date or "")[:16]


def _moment(at: str) -> float:
    try:
        return datetime.fromisoformat(at).astimezone().timestamp()
    except ValueError:
        raise BadInput(f"--at {at}: expected a date such as 2026-11-24 or 2026-11-24T14:30") from None


def _date(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
