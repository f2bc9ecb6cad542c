"""The command line: `labline run | promote | rollback | history | …`.

Nothing heavy is imported before a command needs it: `labline --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from labline import __version__
from labline.errors import LablineError

Json = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on the last line of stdout.")]
Usecase = Annotated[str, typer.Argument(help="Name of a shipped use case (see labline list), or path of a .toml.")]
DataPath = Annotated[
    str | None, typer.Option("--data", help="Folder, .zip, .npz or .csv to use instead of the declared one.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a declared value: --set training.epochs=3. Repeatable."),
]

EngineKind = Annotated[
    str | None, typer.Option("--engine", metavar="KIND", help="local, or ray: on a cluster (docs/ray.md).")
]
EngineAddress = Annotated[
    str | None,
    typer.Option("--address", help="Of the Ray cluster: auto, or host:port; default: Ray on this machine, meanwhile."),
]

RegisteredName = Annotated[str, typer.Argument(metavar="USECASE", help="Name of a registered use case.")]
Reason = Annotated[str, typer.Option("--reason", help="Why: it goes into the history.")]
Who = Annotated[str | None, typer.Option("--who", help="On whose behalf; default: LABLINE_USER, or your login.")]
MlflowPort = Annotated[int, typer.Option("--mlflow-port", min=1, max=65535, help="Port of the MLflow server.")]
PrefectPort = Annotated[int, typer.Option("--prefect-port", min=1, max=65535, help="Port of the Prefect server.")]
FirstPort = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the service; others follow it.")]
Profile = Annotated[
    str,
    typer.Option("--profile", help="local, or production: PostgreSQL, Redis, S3 and accounts (docs/production.md)."),
]

app = typer.Typer(
    name="labline",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "From the lab bench to the production line: carry a declared model from raw data to a registered version.\n\n"
        "Start with [bold]labline demo[/], which plays the whole loop, then [bold]labline list[/] and "
        "[bold]labline run steel[/]; what is registered climbs with [bold]labline promote[/] and "
        "comes back with [bold]labline rollback[/].\n\n"
        "Exit codes: 0 registered, 1 a stage failed, 2 bad input, 3 trained but refused by a gate."
    ),
)


def main() -> None:
    """The console script."""
    app()


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one message and the right exit code; keep tracebacks for the log file."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except LablineError as error:
            _fail(str(error), error.exit_code, options.get("json", False))
        except KeyboardInterrupt:
            _fail("interrupted: finished stages and the last checkpoint are kept; run again to go on", 130, False)
        except typer.Exit:
            raise
        except Exception as error:
            from flows.accounts import account_problem
            from tasks.environment import storage_problem

            problem = storage_problem(error) or account_problem(error)
            if problem is not None:
                _fail(str(problem), problem.exit_code, options.get("json", False))
            message = f"{type(error).__name__}: {error}\nThe traceback is in {_write_traceback()}"
            _fail(message, 1, options.get("json", False))

    return run


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"labline {__version__}")
        raise typer.Exit


@app.command()
@reporting
def run(
    usecase: Usecase,
    data: DataPath = None,
    assignments: Assignments = None,
    engine: EngineKind = None,
    address: EngineAddress = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run every stage again, cached or not.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why it is trained: the version remembers.")] = "",
    json: Json = False,
) -> None:
    """Carry USECASE from raw data to a registered version.

    Stages whose inputs, declaration and code did not change are taken from the cache; a killed run resumes.

    Examples: [bold]labline run steel --data neu-steel.zip[/],
    [bold]labline run cifar10 --set training.epochs=5 --set model.width=0.5[/]
    """
    from flows.run import run_training
    from labline.engine import engine_assignments

    run_training(usecase, data, [*(assignments or []), *engine_assignments(engine, address)], fresh, reason, json)


@app.command()
@reporting
def demo(
    mlflow_port: MlflowPort = 5000,
    prefect_port: PrefectPort = 4200,
    port: FirstPort = 8080,
    profile: Profile = "local",
    stay: Annotated[
        bool | None,
        typer.Option("--stay/--go", help="At the end, keep everything up until Ctrl-C. Default: in a terminal."),
    ] = None,
    json: Json = False,
) -> None:
    """Play the whole loop on surface, which renders its own data: trained, served, drifted, retrained, good again.

    Everything that labline up brings up runs meanwhile. Interrupted, it goes on with the act that it was in; played to
    its end, it shows what came of it. LABLINE_STORE=.labline/again plays it once more, on a storage root of its own.
    """
    from flows.demo import run_demo
    from flows.site import Wanted

    stays = not json and sys.stdout.isatty() if stay is None else stay
    run_demo(Wanted(("surface",), mlflow_port, prefect_port, port, profile), stays, json)


@app.command(name="list")
@reporting
def list_usecases(json: Json = False) -> None:
    """List the use cases, with the newest registered version of each."""
    from flows.inspection import list_usecases

    list_usecases(json)


@app.command()
@reporting
def show(usecase: Usecase, data: DataPath = None, assignments: Assignments = None, json: Json = False) -> None:
    """Show the declaration of USECASE with every default filled in, as TOML."""
    from flows.inspection import show_usecase

    show_usecase(usecase, data, assignments or [], json)


@app.command()
@reporting
def check(usecase: Usecase, data: DataPath = None, assignments: Assignments = None, json: Json = False) -> None:
    """Check the declaration and the data of USECASE; nothing is trained."""
    from flows.run import run_checking

    run_checking(usecase, data, assignments or [], json)


@app.command()
@reporting
def promote(
    usecase: RegisteredName,
    version: Annotated[
        str | None, typer.Option("--version", help="Which one; default: the one in Staging, else the newest.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="staging or production; default: the next one up.")] = None,
    reason: Reason = "",
    who: Who = None,
    force: Annotated[bool, typer.Option("--force", help="Move it although its gates refuse it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge it and move nothing.")] = False,
    wait_for_approval: Annotated[
        bool,
        typer.Option(
            "--wait-for-approval/--approve",
            help="Suspend until a person answers in the Prefect UI; needs a server and a worker. "
            "Default: whoever runs this approves.",
        ),
    ] = False,
    approval_hours: Annotated[float, typer.Option(min=0.01, help="No answer within these hours is a no.")] = 24,
    json: Json = False,
) -> None:
    """Judge a version of USECASE by its gates and move it to Staging, then to Production.

    Exit code 3 where a gate or a person refuses it.

    Examples: [bold]labline promote steel[/], [bold]labline promote steel --version 3 --to production --dry-run[/]
    """
    from flows.promote import run_promotion

    options = {
        "version": version,
        "to": to,
        "reason": reason,
        "who": who,
        "force": force,
        "dry_run": dry_run,
        "wait_for_approval": wait_for_approval,
        "approval_hours": approval_hours,
    }
    run_promotion(usecase, options, json)


@app.command()
@reporting
def rollback(
    usecase: RegisteredName,
    reason: Reason = "",
    who: Who = None,
    force: Annotated[bool, typer.Option("--force", help="Restore it although it does not answer a test.")] = False,
    json: Json = False,
) -> None:
    """Put the version that was in Production before back there, once it has answered a test."""
    from flows.stages import roll_back

    roll_back(usecase, reason, who, force, json)


@app.command()
@reporting
def archive(
    usecase: RegisteredName,
    version: Annotated[str, typer.Option("--version", help="Which one.")],
    reason: Reason = "",
    who: Who = None,
    json: Json = False,
) -> None:
    """Take a version of USECASE out of its stage, Production included; a rollback does not go back to it."""
    from flows.stages import archive as move_out

    move_out(usecase, version, reason, who, json)


@app.command()
@reporting
def history(
    usecase: RegisteredName,
    at: Annotated[
        str | None, typer.Option("--at", metavar="DATE", help="Only what held at this moment: 2026-11-24[T14:30].")
    ] = None,
    json: Json = False,
) -> None:
    """Show which version was in which stage from when to when, who moved it, why and on what evidence."""
    from flows.stages import show_history

    show_history(usecase, at, json)


@app.command()
@reporting
def compare(
    usecase: RegisteredName,
    first: Annotated[str, typer.Argument(help="A version.")],
    second: Annotated[str, typer.Argument(help="Another one; its test rows are used.")],
    json: Json = False,
) -> None:
    """Compare two versions of USECASE on the same test rows, and what they were made of."""
    from flows.stages import compare as compare_two

    compare_two(usecase, first, second, json)


@app.command()
@reporting
def reproduce(
    version: Annotated[
        str, typer.Argument(metavar="MODEL_VERSION", help="models:/USECASE/N or models:/USECASE@alias.")
    ],
    keep: Annotated[Path | None, typer.Option("--keep", help="Keep what was made in this folder.")] = None,
    json: Json = False,
) -> None:
    """Train a registered version again from what it carries, and say whether the same came out (0) or not (1)."""
    from flows.reproduction import show_reproduction

    show_reproduction(version, keep, json)


@app.command()
@reporting
def serve(
    usecase: RegisteredName,
    stage: Annotated[str, typer.Option("--stage", metavar="STAGE", help="production or staging.")] = "production",
    version: Annotated[
        str | None, typer.Option("--version", help="Serve this one and stay with it, whatever its stage.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to answer on; another than loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to answer on; 0: any free one.")] = 8080,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that answer.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            help="ONNX Runtime's, in each worker; default: 1. More may speed up a large model on idle processors.",
        ),
    ] = None,
    canary: Annotated[
        float | None, typer.Option("--canary", min=0, max=1, help="Share of requests that Staging's version answers.")
    ] = None,
    shadow: Annotated[
        float | None, typer.Option("--shadow", min=0, max=1, help="Share that it answers too, unseen, for comparison.")
    ] = None,
    json: Json = False,
) -> None:
    """Answer requests over HTTP with the version of USECASE in Production, until Ctrl-C.

    When another version is promoted or rolled back, it is loaded beside the old one, checked, and takes over between
    two requests; one that does not serve is refused, and the old one goes on. While the registry is down, what is
    served goes on. Shares that are not given are those that the version in Staging declares under \\[serving].

    Clients present the key in LABLINE_SERVING_KEY, or in the file LABLINE_SERVING_KEY_FILE, where one is set.

    Examples: [bold]labline serve steel[/], [bold]labline serve steel --workers 2 --canary 0.1[/],
    [bold]curl --data-binary @strip.png -H 'Content-Type: image/png' http://127.0.0.1:8080/predict[/]
    """
    from flows.serve import serve as become_the_service

    options = {
        "stage": stage,
        "version": version,
        "host": host,
        "port": port,
        "workers": workers,
        "threads": threads,
        "canary": canary,
        "shadow": shadow,
    }
    become_the_service(usecase, options, json)


@app.command()
@reporting
def predict(
    usecase: RegisteredName,
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Folder, .zip, .csv, .parquet or .npy; see docs/batch-inference.md.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where answers go: .parquet or .csv.")],
    stage: Annotated[str, typer.Option("--stage", metavar="STAGE", help="production or staging.")] = "production",
    version: Annotated[str | None, typer.Option("--version", help="Ask this one, whatever its stage.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples in one run of the model.")] = 64,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; default: as many as processors.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Answer all again, whatever a run before has.")] = False,
    engine: EngineKind = None,
    address: EngineAddress = None,
    json: Json = False,
) -> None:
    """Let the version of USECASE in Production answer everything in INPUT, and write the answers to a file.

    Images: a folder or .zip of them, a .csv with a column path, a .parquet with a column image, an .npy of pixels. A
    series: a .csv or .parquet of raw rows, an .npy of windows. What cannot be read goes to FILE.quarantine.parquet,
    with the reason. A run that was killed goes on where it was.

    Examples: [bold]labline predict steel strips/ --out answers.parquet[/],
    [bold]labline predict volatility prices.csv --out forecasts.csv --version 3[/]
    """
    from flows.predict import run_predict

    options = {
        "out": out,
        "stage": stage,
        "version": version,
        "batch_size": batch_size,
        "workers": workers,
        "fresh": fresh,
        "engine": engine,
        "address": address,
    }
    run_predict(usecase, source, options, json)


@app.command()
@reporting
def monitor(
    usecase: RegisteredName,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DATE", help="Only predictions from 2026-11-24[T14:30] on.")
    ] = None,
    window: Annotated[
        int | None, typer.Option("--window", min=1, metavar="N", help="The latest N; default: monitoring.window.")
    ] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Evidently's report, where it is installed.")] = True,
    json: Json = False,
) -> None:
    """Compare what production saw lately with what the version of USECASE in Production was tested on.

    Ends with a verdict: healthy, watch, retrain or rollback, and its reasons. The same window again is the same
    verdict, told once.

    Examples: [bold]labline monitor steel[/], [bold]labline monitor steel --window 500 --json[/]
    """
    from flows.monitor import run_monitoring

    run_monitoring(usecase, since, window, page, json)


@app.command()
@reporting
def retrain(
    usecase: RegisteredName,
    reason: Reason = "",
    since: Annotated[
        str | None, typer.Option("--since", metavar="DATE", help="The new window begins on 2026-11-24[T14:30].")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help="It ends before; default: now.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overrule cool-down, budget and patience of \\[retraining].")
    ] = False,
    json: Json = False,
) -> None:
    """Train the version of USECASE in Production again with its labelled feedback, and promote it by its gates.

    What comes out is judged against it on the old test set and on the new window. One retraining at a time; one that
    was killed is gone on with. Exit code 3 where a gate refuses it.

    Example: [bold]labline retrain steel --since 2026-11-24 --reason "new lamps"[/]
    """
    from flows.retrain import run_retraining

    run_retraining(usecase, reason, since, until, force, json)


@app.command()
@reporting
def tune(
    usecase: Usecase,
    data: DataPath = None,
    assignments: Assignments = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Settings tried in all; default: tuning.trials.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.01, metavar="MINUTES", help="Nothing trains for longer.")
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, metavar="N", help="Trials at once, a process each.")
    ] = 1,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Forget what was tried. Default: go on with it, if there is any.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: NAME.tuned.toml beside the declaration.")
    ] = None,
    engine: EngineKind = None,
    address: EngineAddress = None,
    json: Json = False,
) -> None:
    """Search for better settings of USECASE on its validation split, and write the winner as a declaration.

    The first trial is the declaration itself, so what wins is never worse than it on validation; the others come from
    \\[tuning.space], or from around the declaration where it has none. Trials that lag behind are ended early. A search
    that was killed, interrupted or out of time goes on where it was; once it is done, more --trials add to it.

    Examples: [bold]labline tune steel --trials 12[/], [bold]labline tune steel --timeout 30 --parallel 2[/],
    [bold]labline tune steel --set 'tuning.space.model.width={low=0.5, high=2.0}'[/], then
    [bold]labline run steel.tuned[/]
    """
    from flows.tune import run_tuning
    from labline.engine import engine_assignments

    options = {
        "data": data,
        "assignments": [*(assignments or []), *engine_assignments(engine, address)],
        "trials": trials,
        "timeout_minutes": timeout,
        "parallel": parallel,
        "fresh": fresh,
        "out": str(out) if out else None,
    }
    run_tuning(usecase, options, json)


@app.command()
@reporting
def simulate(
    usecase: RegisteredName,
    drift: Annotated[
        str,
        typer.Option(
            "--drift",
            metavar="KIND",
            help="none, sudden, gradual, recurring, label-shift, new-class or sensor-fault.",
        ),
    ] = "none",
    move: Annotated[
        str,
        typer.Option("--move", metavar="NAME", help="What a covariate drift moves: lighting, blur, noise, brightness."),
    ] = "lighting",
    magnitude: Annotated[
        float | None,
        typer.Option("--magnitude", help="Its level, or a share of images; default: what costs 5 points of accuracy."),
    ] = None,
    years: Annotated[int, typer.Option("--years", min=1, max=100_000, help="How many are simulated.")] = 20,
    per_day: Annotated[int, typer.Option("--per-day", min=10, max=5000, help="Predictions; it looks daily.")] = 200,
    label_share: Annotated[float, typer.Option("--label-share", min=0, max=1, help="Share that gets a label.")] = 0,
    label_delay: Annotated[int, typer.Option("--label-delay", min=0, metavar="DAYS", help="Until it does.")] = 7,
    version: Annotated[
        str | None, typer.Option("--version", help="Simulate this one; default: the one in Production.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=1_000_000, help="The same one, the same years.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the picture goes; default: the storage root.")
    ] = None,
    estimation: Annotated[
        bool, typer.Option("--estimation", help="Measure how wrong accuracy is estimated, under every kind of drift.")
    ] = False,
    json: Json = False,
) -> None:
    """Simulate years of daily monitoring of USECASE, to choose the thresholds under \\[monitoring].

    Predictions are drawn from what the version answers to images it has not seen, healthy ones and, from a random day
    on, drifted ones; every evening they are judged by the very code of labline monitor. No server is needed.

    Examples: [bold]labline simulate surface --years 200[/] for false alarms,
    [bold]labline simulate surface --drift sudden --years 100[/] for how soon a drift is called,
    [bold]labline simulate steel --estimation[/] for how far estimates can be trusted
    """
    from flows.estimating import run_estimation
    from flows.simulate import run_simulation

    options = {
        "drift": drift,
        "move": move,
        "magnitude": magnitude,
        "years": years,
        "per_day": per_day,
        "label_share": label_share,
        "label_delay": label_delay,
        "version": version,
        "seed": seed,
        "out": out,
    }
    if estimation:
        run_estimation(usecase, version, seed, json)
    else:
        run_simulation(usecase, options, json)


@app.command()
@reporting
def replay(
    usecase: RegisteredName,
    url: Annotated[str, typer.Option("--url", help="Where the service is.")] = "http://127.0.0.1:8080",
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="File with its key; default: LABLINE_SERVING_KEY, or its _FILE.")
    ] = None,
    rate: Annotated[str, typer.Option("--rate", help="Requests: 20/s, 90/m, or max.")] = "20/s",
    count: Annotated[int | None, typer.Option("--count", min=1, help="So many; default: all there are, once.")] = None,
    duration: Annotated[float | None, typer.Option("--duration", min=0.1, metavar="SECONDS", help="So long.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="A series: its rows from this day on.")
    ] = None,
    drift: Annotated[
        list[str] | None,
        typer.Option("--drift", metavar="NAME=VALUE", help="lighting=0.6, blur, noise, mix=CLASS:SHARE. Repeatable."),
    ] = None,
    drift_ramp: Annotated[
        int, typer.Option("--drift-ramp", min=0, metavar="N", help="It grows over N samples; default: all at once.")
    ] = 0,
    label_delay: Annotated[
        float, typer.Option("--label-delay", min=0, metavar="SECONDS", help="Labels come so long after their answer.")
    ] = 0,
    label_share: Annotated[float, typer.Option("--label-share", min=0, max=1, help="Share that gets a label.")] = 1,
    wrong_labels: Annotated[float, typer.Option("--wrong-labels", min=0, max=1, help="Share of labels lying.")] = 0,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="The same again; default: other samples each time.")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=1000, help="Requests at once.")] = 16,
    png: Annotated[bool, typer.Option("--png", help="Send images as PNG files; default: as raw pixels.")] = False,
    patience: Annotated[
        float, typer.Option("--patience", min=0, metavar="SECONDS", help="How long one request is tried again.")
    ] = 60,
    json: Json = False,
) -> None:
    """Ask a running service of USECASE as production would, and tell it later what was true.

    Sends the test split of the version in Production (surface: strips that were never seen; a series: its rows in the
    order of time), drifted if you wish, with labels that come late, not always, or wrong. What a service cannot take
    just then is sent again. Ctrl-C ends it with the summary.

    Examples: [bold]labline replay steel --rate 50/s[/], [bold]labline replay surface --drift lighting=0.6
    --drift-ramp 500 --count 1000[/], [bold]labline replay volatility --from 2007-01-01 --rate max[/]
    """
    from flows.replay import run_replay

    options = {
        "url": url,
        "key_file": key_file,
        "rate": rate,
        "count": count,
        "duration": duration,
        "since": since,
        "drift": drift or [],
        "drift_ramp": drift_ramp,
        "label_delay": label_delay,
        "label_share": label_share,
        "wrong_labels": wrong_labels,
        "seed": seed,
        "concurrency": concurrency,
        "form": "png" if png else "raw",
        "patience": patience,
    }
    run_replay(usecase, options, json)


class _UsecaseFirst(TyperGroup):
    """A group whose own options may follow its argument: Click reads a word after that as a command."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if not any(word in self.commands for word in args[1:]):
            args = sorted(args, key=lambda word: not word.startswith("-"))
        return super().parse_args(ctx, args)


feedback_app = typer.Typer(
    cls=_UsecaseFirst,
    invoke_without_command=True,
    help="Show how much feedback of USECASE is kept: predictions, labels, inputs.\n\n"
    "The store is LABLINE_FEEDBACK, a file in the storage root unless it is set.\n\n"
    "Examples: [bold]labline feedback steel[/], [bold]labline feedback steel retain --days 90[/], "
    "[bold]labline feedback steel import labels.csv[/]",
)
app.add_typer(feedback_app, name="feedback")


@feedback_app.callback()
@reporting
def feedback(context: typer.Context, usecase: RegisteredName, json: Json = False) -> None:  # noqa: D103  # above
    if context.invoked_subcommand is None:
        from flows.feedback import show_feedback

        show_feedback(usecase, json)


@feedback_app.command(name="delete")
@reporting
def delete_feedback(
    context: typer.Context,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Id of a prediction. Repeatable.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Text file with one id a line.")] = None,
    copies: Annotated[
        bool, typer.Option("--copies", help="Delete the training sets too that hold their images.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete predictions for good, with their inputs, labels and shadows; what is still to be stored included."""
    from flows.feedback import delete_feedback as delete

    delete(_usecase_of(context), ids or [], file, json, copies)


@feedback_app.command(name="retain")
@reporting
def retain_feedback(
    context: typer.Context,
    days: Annotated[
        float | None,
        typer.Option(
            "--days", min=0, help="Keep what is younger; default: retention_days of the version in Production."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Delete predictions that are older, with their inputs, labels and shadows."""
    from flows.feedback import retain_feedback as retain

    retain(_usecase_of(context), days, json)


@feedback_app.command(name="export")
@reporting
def export_feedback(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Parquet file to write.")],
    since: Annotated[
        str | None, typer.Option("--since", metavar="DATE", help="Only from 2026-11-24[T14:30] on.")
    ] = None,
    json: Json = False,
) -> None:
    """Write predictions, with the latest label of each, to a Parquet file."""
    from flows.feedback import export_feedback as export

    export(_usecase_of(context), out, since, json)


@feedback_app.command(name="import")
@reporting
def import_feedback(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV with a header: id,label[,source,at].")],
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A label to accept; default: any. Repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Store the labels of a CSV; rows that are none go to a quarantine CSV beside it, with the reason."""
    from flows.feedback import import_feedback as import_labels

    import_labels(_usecase_of(context), file, classes or [], json)


def _usecase_of(context: typer.Context) -> str:
    """What was given to the command that a subcommand belongs to."""
    return str(context.parent.params["usecase"]) if context.parent else ""


@app.command()
@reporting
def review(
    usecase: RegisteredName,
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="How many to list.")] = 50,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.csv", help="Write a CSV to fill in.")] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="FOLDER", help="Write what the model saw: .png, or .npy.")
    ] = None,
    filled: Annotated[
        Path | None, typer.Option("--import", metavar="FILE.csv", help="Store the labels that were filled in.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Whose labels, in rows that do not say so.")
    ] = None,
    json: Json = False,
) -> None:
    """List the predictions of USECASE that are most worth a label; import the labels.

    Doubtful ones come first, and those that the version in shadow disputes or that are unlike what the version was
    judged on; one in five is drawn by lot. The service shows the same at /review, as a page to label on.

    Examples: [bold]labline review steel --out todo.csv --images todo/[/],
    [bold]labline review steel --import todo.csv[/]
    """
    from flows.review import import_review
    from flows.review import review as list_review

    if filled is not None:
        import_review(usecase, filled, source, json)
    else:
        list_review(usecase, count, out, images, json)


@app.command()
@reporting
def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Bring stages and aliases in line where they differ.")
    ] = False,
    json: Json = False,
) -> None:
    """Look at versions, devices, servers, folders and the registry; say what to do about each problem."""
    from flows.doctor import examine

    examine(repair, json)


@app.command()
@reporting
def ui(
    mlflow_port: MlflowPort = 5000,
    prefect_port: PrefectPort = 4200,
) -> None:
    """Serve the MLflow and Prefect pages of this storage root on loopback, until Ctrl-C."""
    from flows.ui import serve_pages

    serve_pages(mlflow_port, prefect_port)


@app.command()
@reporting
def up(
    usecases: Annotated[
        list[str] | None,
        typer.Option("--usecase", metavar="NAME", help="Serve this one; default: all in Production. Repeatable."),
    ] = None,
    mlflow_port: MlflowPort = 5000,
    prefect_port: PrefectPort = 4200,
    port: FirstPort = 8080,
    profile: Profile = "local",
    detach: Annotated[bool, typer.Option("--detach", help="Go on behind the terminal, until labline down.")] = False,
    json: Json = False,
) -> None:
    """Bring up the MLflow and Prefect servers, a worker, the deployments and the services, on loopback, until Ctrl-C.

    What dies is started again; a use case that comes to Production is served from then on. While it is up, every
    other labline command on this storage root uses these servers.

    Examples: [bold]labline up[/], [bold]labline up --usecase steel --detach[/]
    """
    from flows.site import Wanted
    from flows.up import run_up

    run_up(Wanted(tuple(usecases or ()), mlflow_port, prefect_port, port, profile), detach, json)


@app.command()
@reporting
def deploy(
    usecases: Annotated[
        list[str] | None,
        typer.Argument(metavar="USECASE...", help="Names, or paths of .toml; default: all of prefect.yaml."),
    ] = None,
    pool: Annotated[str, typer.Option("--pool", help="The work pool whose workers run them.")] = "local",
    kind: Annotated[str, typer.Option("--kind", help="process, docker or kubernetes: where its runs are.")] = "process",
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="GPUs of each run that trains; default: as declared, 1.")
    ] = None,
    json: Json = False,
) -> None:
    """Put use cases on the Prefect server: a training each and, for your own, a monitoring every hour.

    What trains goes to the queue gpu of the work pool, everything else to cpu. The pool is made where there is none.

    Examples: [bold]labline deploy[/], [bold]labline deploy parts.toml castings.toml[/],
    [bold]labline deploy --pool cluster --kind kubernetes[/]
    """
    from flows.deploy import run_deploy

    run_deploy(usecases or [], pool, kind, gpus, json)


@app.command()
@reporting
def worker(
    pool: Annotated[str, typer.Option("--pool", help="The work pool to take flow runs from.")] = "local",
    queue: Annotated[str | None, typer.Option("--queue", help="gpu or cpu; default: both.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Flow runs at once; default: all.")] = None,
) -> None:
    """Run deployed flows for the Prefect server in PREFECT_API_URL, as processes of this machine, until Ctrl-C.

    labline up has a worker of its own; this is for another machine, or for a container.
    """
    from flows.worker import work

    work(pool, queue, limit)


@app.command()
@reporting
def down(json: Json = False) -> None:
    """Take down what labline up brought up, and what one that was killed has left."""
    from flows.down import run_down

    run_down(json)


@app.command()
@reporting
def status(json: Json = False) -> None:
    """Show what labline up keeps running and whether it answers; exit code 1 where something does not."""
    from flows.status import run_status

    run_status(json)


def _fail(message: str, code: int, json: bool) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(f"error: {message}", style="red")
    if json:
        from flows.console import print_json_line

        print_json_line({"error": message, "exit_code": code})
    sys.exit(code)


def _write_traceback() -> Path:
    """Append the current traceback to a log file in the storage root, or in the temporary folder."""
    import tempfile
    import time
    import traceback

    from tasks.environment import storage_root

    try:
        folder = storage_root() / "logs"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, KeyError):
        folder = Path(tempfile.gettempdir())
    path = folder / f"labline-{time.strftime('%Y%m%d-%H%M%S')}.log"
    path.write_text(traceback.format_exc())
    return path
