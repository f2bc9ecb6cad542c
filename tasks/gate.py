"""Gate: a model that does not show what its declaration asks for is not registered."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
from prefect import task
from prefect.artifacts import create_markdown_artifact

from labline.errors import RefusedByGate
from labline.gates import Judgement, judge
from labline.markdown import markdown_table
from labline.references import CompressedModel, EvaluatedModel
from labline.usecase import UseCase
from tasks.recording import current_recording


def released_figures(compressed: CompressedModel, evaluated: EvaluatedModel) -> dict[str, float]:
    """Everything a gate can name: test metrics, and the cost of the chosen file."""
    chosen = next(candidate for candidate in compressed.candidates if candidate.name == compressed.chosen)
    costs = {name: float(getattr(chosen, name)) for name in ("latency_ms_p50", "latency_ms_p99", "throughput", "bytes")}
    return {name.removeprefix("test_"): value for name, value in evaluated.metrics.items()} | costs


def released_intervals(evaluated: EvaluatedModel) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of the test metrics, by the names a gate uses."""
    return {name.removeprefix("test_"): bounds for name, bounds in evaluated.intervals.items()}


@task(task_run_name="gate")
def gate(declaration: UseCase, compressed: CompressedModel, evaluated: EvaluatedModel) -> list[Judgement]:
    """Hold the figures against the declared gates; raises RefusedByGate with the table of what failed."""
    judgements = judge(declaration.gates, released_figures(compressed, evaluated), released_intervals(evaluated))
    table = markdown_table(pd.DataFrame([asdict(judgement) for judgement in judgements])) if judgements else "No gates."
    create_markdown_artifact(key=f"{declaration.name}-gate", markdown=table, description="gates")
    recording = current_recording()
    if recording.started:
        recording.client.log_text(recording.run_id, table, "gate/gates.md")
    refused = [_refusal(judgement) for judgement in judgements if not judgement.passed]
    if refused:
        if recording.started:
            recording.client.set_tag(recording.run_id, "labline.refused", "; ".join(refused))
        raise RefusedByGate(
            f"{declaration.name} trained, but is refused by its gates: {'; '.join(refused)}. "
            "Improve the model or the data, or change [gates] in the declaration."
        )
    return judgements


def _refusal(judgement: Judgement) -> str:
    note = f" ({judgement.note})" if judgement.note else ""
    return f"{judgement.gate} is {judgement.figure:.4g}{note}, expected {judgement.limit}"
