"""`labline simulate`: what monitoring would say over years of production, and how soon, without any server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from labline.errors import BadInput, nearest

if TYPE_CHECKING:
    from rich.table import Table

    from labline.monitoring.examination import Examiner
    from labline.monitoring.simulation import Year
    from tasks.pools import Pools
    from tasks.version import Version

BLOCK = 10  # years that are walked side by side
WITHIN = 500  # predictions after which a drift should have been called


def run_simulation(usecase: str, options: Mapping[str, Any], json: bool) -> None:
    """Simulate and close with a table and a picture; `options` are those of the command, by name.

    Raises BadInput where nothing is registered, for a forecaster, and for a kind of drift there is not.
    """
    from labline.monitoring.simulation import Drift
    from tasks.staged import staged_version
    from tasks.version import fetch_version

    started, kinds = time.perf_counter(), get_args(Drift)
    if options["drift"] not in kinds:
        raise BadInput(f"--drift {options['drift']}: no such kind; {nearest(options['drift'], kinds)}")
    version = fetch_version(*staged_version(usecase, number=options["version"]))
    with _progress(options["years"]) as told:
        examiner, pools = _prepared(version, options, told)
        years = _walked(examiner, pools, options, told)
    summary = summarised(years, pools, options) | {
        "usecase": usecase,
        "version": version.number,
        "rules": examiner.rules.model_dump(),
        "seconds": time.perf_counter() - started,
    }
    summary["picture"] = str(_pictured(years, summary, options["out"]))
    _close(summary, json)


def summarised(years: Sequence[Year], pools: Pools, options: Mapping[str, Any]) -> dict[str, Any]:
    """What years came to, ready for JSON; rates and means are of a year, delays in predictions of years detected."""
    from labline.monitoring.simulation import summary
    from labline.pools import accuracy

    found = summary(years)
    return {
        "drift": options["drift"],
        "move": options["move"],
        "magnitude": pools.magnitude,
        "source": pools.source,
        "accuracy_healthy": accuracy(pools.healthy),
        "accuracy_drifted": accuracy(pools.drifted) if pools.drifted is not None else None,
        "years": len(years),
        "per_day": options["per_day"],
        "label_share": options["label_share"],
        "label_delay": options["label_delay"],
        "seed": options["seed"],
        "false_alarm_rate": found["false_alarm_rate"],
        "watch_rate": found["watch_rate"],
        "detected": found["detected"],
        "detection": {
            "delay_predictions": {"p50": found["delay_median"], "p95": found["delay_95"]},
            "within_500": found["detected_within_500"],
        },
        "retrainings": found["retrainings"],
        "accuracy_lost": found["lost"] / (365 * options["per_day"]),
        "verdicts": dict(Counter(kind for year in years for _, kind in year.verdicts)),
    }


def _prepared(version: Version, options: Mapping[str, Any], told: Callable[[int, str], None]) -> tuple[Examiner, Pools]:
    from labline.monitoring.examination import prepare
    from tasks.pools import make_pools, open_camera
    from tasks.watched import metric_of, reference_of, shifted_reference_of

    told(0, "pools of answers")
    camera = open_camera(version, options["seed"])
    pools = make_pools(camera, options["drift"], options["move"], options["magnitude"], options["seed"])
    told(0, "the version's reference")
    rules = version.declaration.monitoring
    return prepare(reference_of(version), rules, shifted_reference_of(version), metric_of(version)), pools


def _walked(
    examiner: Examiner, pools: Pools, options: Mapping[str, Any], told: Callable[[int, str], None]
) -> list[Year]:
    """All years, a block at a time, so that memory stays small and a person sees how far it is."""
    from labline.monitoring.simulation import simulate

    years: list[Year] = []
    for first in range(0, options["years"], BLOCK):
        years += simulate(
            examiner,
            pools.healthy,
            pools.drifted,
            options["drift"],
            min(BLOCK, options["years"] - first),
            options["per_day"],
            options["label_share"],
            options["label_delay"],
            seed=options["seed"] * 1_000_000 + first,
        )
        told(len(years), "")
    return years


def _pictured(years: Sequence[Year], summary: Mapping[str, Any], out: Path | None) -> Path:
    from labline.simulation_plots import simulated_years
    from tasks.environment import storage_root

    name = f"{summary['usecase']}-{summary['version']}-{summary['drift']}.png"
    path = out or storage_root() / "simulations" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        simulated_years(years, summary["per_day"], _title(summary), WITHIN).savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"--out {path}: the picture cannot be written ({error}); a .png, .svg or .pdf was expected"
        ) from error
    return path


def _title(summary: Mapping[str, Any]) -> str:
    magnitude = summary["magnitude"]
    what = "no drift" if magnitude is None else f"{summary['drift']} drift, magnitude {magnitude:g}"
    return f"{summary['usecase']} version {summary['version']}: {what}"


def table_of(summary: Mapping[str, Any]) -> Table:
    """The summary for a person."""
    from rich.table import Table

    delays, table = summary["detection"]["delay_predictions"], Table(title=_title(summary))
    table.add_column("over so many years of daily monitoring", overflow="fold")
    table.add_column(f"{summary['years']:,}", justify="right")
    table.add_row("predictions a day", f"{summary['per_day']:,}")
    table.add_row("years with a false retrain", f"{summary['false_alarm_rate']:.1%}")
    table.add_row("years with a watch", f"{summary['watch_rate']:.1%}")
    if summary["magnitude"] is not None:
        table.add_row("accuracy before the drift", f"{summary['accuracy_healthy']:.4f}")
        table.add_row("accuracy under the drift", f"{summary['accuracy_drifted']:.4f}")
        table.add_row("drifts called", f"{summary['detected']:.1%}")
        table.add_row(f"called within {WITHIN} predictions", f"{summary['detection']['within_500']:.1%}")
        table.add_row("predictions until called, median", f"{delays['p50']:,.0f}")
        table.add_row("predictions until called, 95 %", f"{delays['p95']:,.0f}")
    table.add_row("retrainings a year", f"{summary['retrainings']:.2f}")
    table.add_row("accuracy lost over a year, points", f"{100 * summary['accuracy_lost']:.2f}")
    return table


def _close(summary: dict[str, Any], json: bool) -> None:
    from rich.console import Console

    from flows.console import print_json_line

    console = Console(stderr=json, highlight=False, soft_wrap=True)
    console.print(table_of(summary))
    console.print(f"images: {summary['source']}; picture: {summary['picture']}", markup=False)
    if json:
        print_json_line(summary)


class _progress:  # noqa: N801  # a context manager that reads as a word
    """A bar of years on standard error, with what is being prepared beside it."""

    def __init__(self, years: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from flows.console import progress_console

        columns = (
            TextColumn("simulate"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._bar, self._years = Progress(*columns, console=progress_console, transient=True), years

    def __enter__(self) -> Callable[[int, str], None]:
        self._bar.start()
        task = self._bar.add_task("simulate", total=self._years, text="")

        def show(done: int, text: str) -> None:
            self._bar.update(task, completed=done, text=text or f"{done:,} of {self._years:,} years")

        return show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
