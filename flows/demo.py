"""`labline demo`: the whole loop on rendered steel, from nothing to a model that was made good again by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console

from flows import acts
from flows.acts import Stage
from flows.console import print_json_line
from flows.site import Wanted
from flows.story import Act, Story, read_story, write_story
from flows.up import up_meanwhile
from tasks.environment import load_environment

ACTS: tuple[tuple[str, str, Callable[[Stage], dict[str, Any]]], ...] = (
    ("train", "A model is trained and registered", acts.train),
    ("promote", "It earns Staging, then Production, and answers over HTTP", acts.promote),
    ("healthy", "Production sees what the model was trained on", acts.healthy_traffic),
    ("drift", "The lamp over the strip grows dim", acts.drifted_traffic),
    ("retrain", "Nobody is asked: verdict, event, retraining with feedback, promotion", acts.wait_for_retraining),
    ("recovery", "The lamp is still dim, and the new version sees by it", acts.recovered_traffic),
    ("picture", "What happened, in one picture", acts.draw),
)


def run_demo(wanted: Wanted, stay: bool, json: bool) -> None:
    """Play the acts that this storage root has not seen yet, and close with the picture and the figures.

    `stay` keeps everything up at the end, until Ctrl-C. Raises LablineError where an act does not end as it should.
    """
    store = load_environment()
    console = Console(stderr=json, highlight=False, soft_wrap=True)
    story = read_story(store)
    if story.has(ACTS[-1][0]) and not stay:
        console.print("the loop was closed on this storage root before, and this is what came of it then")
        _close(story, console, json)
        return
    with up_meanwhile(store, wanted, console) as running:
        stage = Stage(store, running, story, console)
        for number, (name, title, play) in enumerate(ACTS, start=1):
            console.rule(f"[bold]{number}. {title}", align="left")
            _play(stage, name, play)
        _close(story, console, json)
        _look_around(stage, stay)


def _play(stage: Stage, name: str, play: Callable[[Stage], dict[str, Any]]) -> None:
    """Play an act that is not in the story yet, and keep it there."""
    if stage.story.has(name):
        stage.console.print("[dim]played already[/]")
        return
    begun = time.time()
    figures = play(stage)
    stage.story.acts.append(Act(name=name, begun=begun, seconds=time.time() - begun, figures=figures))
    write_story(stage.store, stage.story)


def _close(story: Story, console: Console, json: bool) -> None:
    """The figures of every act, and where the picture is."""
    from rich.table import Table

    summary = story.summary()
    table = Table("act", "seconds", "version", "accuracy", "verdict")
    for act in story.acts:
        accuracy = act.figures.get("accuracy")
        shown = (act.figures.get("version", ""), "" if accuracy is None else f"{accuracy:.3f}")
        table.add_row(act.name, f"{act.seconds:.0f}", *shown, act.figures.get("verdict", ""))
    console.print(table)
    if summary["recovered"] is not None:
        console.print(f"of the accuracy that the drift cost, {summary['recovered']:.0%} came back")
    console.print(f"picture: {summary['picture']}")
    if json:
        print_json_line(summary)


def _look_around(stage: Stage, stay: bool) -> None:
    """Say where to look and, where somebody is there to do so, keep everything up."""
    stage.console.print(f"MLflow   {stage.mlflow}\nPrefect  {stage.prefect}\nservice  {stage.service()}/docs")
    if not stay:
        stage.console.print("labline up brings these pages up again")
        return
    stage.console.print("Ctrl-C takes it down.")
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)
