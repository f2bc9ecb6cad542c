"""`labline simulate --estimation`: how wrong accuracy is estimated without labels, under every kind of drift."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

WINDOWS, SIZE = 10, 500
MODERATE = 0.2  # what a shift may cost to count among those that an estimate is meant for


def run_estimation(usecase: str, number: str | None, seed: int, json: bool) -> None:
    """Measure on windows of pools, whose truth is known, and close with a table a kind of drift.

    Raises BadInput where nothing is registered, and for a forecaster.
    """
    from labline.estimation_errors import estimation_errors
    from labline.monitoring.estimation import fit_estimator
    from tasks.pools import open_camera
    from tasks.shifted_pools import shifted_pools
    from tasks.staged import staged_version
    from tasks.version import fetch_version
    from tasks.watched import reference_of, shifted_reference_of

    started = time.perf_counter()
    version = fetch_version(*staged_version(usecase, number=number))
    camera = open_camera(version, seed)
    with _waiting() as told:
        shifts = shifted_pools(camera, told, seed)
        reference = reference_of(version)
        told("estimates")
        ours, plain = fit_estimator(reference, shifted_reference_of(version)), fit_estimator(reference)
        table = estimation_errors(shifts, ours, plain, WINDOWS, SIZE, seed)
    summary = {
        "usecase": usecase,
        "version": version.number,
        "source": camera.source,
        "seed": seed,
        **summarised(table),
    }
    summary["seconds"] = time.perf_counter() - started
    _close(summary, json)


def summarised(table: pd.DataFrame) -> dict[str, Any]:
    """Ready for JSON: mean absolute errors of healthy windows, of covariate shifts, and of each kind.

    `covariate_shifted` is of shifts in the families of the shifted reference that cost `moderate` at most,
    `covariate_unknown` of others.
    """
    from labline.estimation_errors import by_kind, mean_error
    from tasks.shifted_pools import KNOWN, UNKNOWN

    return {
        "windows": WINDOWS,
        "predictions": SIZE,
        "healthy": mean_error(table, ("healthy",)),
        "covariate_shifted": mean_error(table, KNOWN, MODERATE),
        "covariate_shifted_all": mean_error(table, KNOWN),
        "covariate_unknown": mean_error(table, UNKNOWN),
        "moderate": MODERATE,
        "kinds": by_kind(table),
        "shifts": table.to_dict("records"),
    }


def table_of(summary: dict[str, Any]) -> Table:
    """The errors of each kind of drift in points of accuracy, for a person."""
    from rich.table import Table

    caption = (
        f"mean absolute error: healthy {100 * summary['healthy']:.1f}; lighting, brightness, noise and blur that cost "
        f"up to {100 * summary['moderate']:.0f} points {100 * summary['covariate_shifted']:.1f}, all of them "
        f"{100 * summary['covariate_shifted_all']:.1f}; unknown shifts {100 * summary['covariate_unknown']:.1f}"
    )
    title = (
        f"estimated accuracy in {summary['windows']} windows of {summary['predictions']} predictions each, in points"
    )
    table = Table(title=title, caption=caption)
    for heading in ("drift", "it costs", "error", "bias", "in interval", "plain CBPE"):
        table.add_column(heading, justify="left" if heading == "drift" else "right")
    for kind, row in summary["kinds"].items():
        figures = (row["cost"], row["error"], row["bias"])
        shown = [f"{100 * figure:.1f}" for figure in figures]
        table.add_row(kind, *shown, f"{row['covered']:.0%}", f"{100 * row['plain_error']:.1f}")
    return table


def _close(summary: dict[str, Any], json: bool) -> None:
    from rich.console import Console

    from flows.console import print_json_line

    console = Console(stderr=json, highlight=False, soft_wrap=True)
    console.print(table_of(summary))
    console.print(f"images: {summary['source']}", markup=False)
    if json:
        print_json_line(summary)


class _waiting:  # noqa: N801  # a context manager that reads as a word
    """A spinner on standard error that says what is being done."""

    def __enter__(self) -> Any:
        from flows.console import progress_console

        self._status = progress_console.status("pools")
        self._status.start()
        return lambda text: self._status.update(text)

    def __exit__(self, *_: object) -> None:
        self._status.stop()
