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

RegisteredName = Annotated[str, typer.Argument(metavar="USECASE", help="Name of a registered use case.")]
Reason = Annotated[str, typer.Option("--reason", help="Why: it goes into the history.")]
Who = Annotated[str | None, typer.Option("--who", help="On whose behalf; default: LABLINE_USER, or your login.")]

app = typer.Typer(
    name="labline",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "From the lab bench to the production line: carry a declared model from raw data to a registered version.\n\n"
        "Start with [bold]labline demo[/], then [bold]labline list[/] and [bold]labline run steel[/]; what is "
        "registered climbs with [bold]labline promote[/] and comes back with [bold]labline rollback[/].\n\n"
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
            from tasks.environment import storage_problem

            problem = storage_problem(error)
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

    run_training(usecase, data, assignments or [], fresh, reason, json)


@app.command()
@reporting
def demo(json: Json = False) -> None:
    """Run the embedded default use case, surface: it renders its own data, so nothing else is needed."""
    from flows.run import run_training

    run_training("surface", None, [], False, "", json)


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
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the MLflow pages.")] = 5000,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect pages.")] = 4200,
) -> None:
    """Serve the MLflow and Prefect pages of this storage root on loopback, until Ctrl-C."""
    from flows.ui import serve_pages

    serve_pages(mlflow_port, prefect_port)


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
