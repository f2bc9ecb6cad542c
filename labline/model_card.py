"""The model card: what a version is for, what it showed, and where not to trust it.

After Mitchell et al. 2019, "Model Cards for Model Reporting": intended use, data, metrics with intervals,
slices and limits, on one page of Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from labline.evaluation import Evaluation
from labline.gates import Judgement
from labline.markdown import cell, markdown_table
from labline.usecase import ImageUseCase

MOST_CLASSES = 30  # a longer table hides the weak classes it is read for
CANDIDATE_COLUMNS = ("name", "format", "metric", "bytes", "latency_ms_p50", "latency_ms_p99", "throughput")


def model_card(
    use_case: ImageUseCase,
    evaluation: Evaluation,
    candidates: pd.DataFrame,
    chosen: str,
    dataset: Mapping[str, object],
    parity: Mapping[str, float],
    gates: Sequence[Judgement],
) -> str:
    """Write the card as Markdown.

    `candidates` has one row a compression candidate (see `compression.choice.Search`), `chosen` names the
    released one; `dataset` holds facts to list as they are, such as `{"train images": 1260}`; `parity` is
    max_abs_difference and decision_agreement of the fp32 ONNX file with PyTorch.
    """
    data = use_case.data
    sections = {
        "Intended use": f"{use_case.title}. Takes uint8 images of {data.image_size} × {data.image_size} pixels and "
        f"{data.channels} channel{'s' * (data.channels > 1)}, unnormalized, and answers with a probability for "
        f"each of {len(evaluation.labels)} classes: {', '.join(evaluation.labels)}.",
        "Data": _data(use_case, dataset),
        "Model": facts_section(
            {
                "architecture": use_case.model.architecture,
                "epochs declared": use_case.training.epochs,
                "augmentation": ", ".join(use_case.augmentation.policy) or "none",
                "seed": use_case.training.seed,
            }
        ),
        "Metrics": f"On the test split of {evaluation.samples:,} samples, for the released file.\n\n"
        + markdown_table(_metrics(evaluation)),
        "Classes": _classes(evaluation),
        "Slices": markdown_table(evaluation.slices) if len(evaluation.slices) else "No statistic varies in this data.",
        "Robustness": _robustness(evaluation),
        "Limits": "\n".join(f"- {limit}" for limit in _limits(use_case, evaluation)),
        "Compression": compression_section(candidates, chosen, parity, use_case.training.select),
        "Gates": gates_section(gates),
    }
    body = "\n\n".join(f"## {title}\n{text}" for title, text in sections.items())
    return f"# Model card: {use_case.name}\n\n{body}\n"


def facts_section(facts: Mapping[str, object]) -> str:
    """Facts as a list."""
    return "\n".join(f"- {name}: {cell(value)}" for name, value in facts.items())


def _data(use_case: ImageUseCase, dataset: Mapping[str, object]) -> str:
    declared = {"source": use_case.data.source, "expectations": use_case.expectations.suite}
    origin = {"path": use_case.data.path} if use_case.data.path else {}
    cleaning = {name: value for name, value in use_case.cleaning.model_dump().items() if isinstance(value, str)}
    kept = {"cleaning": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in cleaning.items())}
    return facts_section(declared | origin | kept | dict(dataset))


def _metrics(evaluation: Evaluation) -> pd.DataFrame:
    rows = [(name.replace("_", " "), value, *evaluation.intervals[name]) for name, value in evaluation.metrics.items()]
    return pd.DataFrame(rows, columns=["metric", "value", "95 % low", "95 % high"])


def _classes(evaluation: Evaluation) -> str:
    columns = ["label", "support", "precision", "recall", "recall_low", "recall_high", "f1"]
    weakest = evaluation.per_class.sort_values("recall", kind="stable")[columns].head(MOST_CLASSES)
    hidden = len(evaluation.labels) - len(weakest)
    more = f"\n\n{hidden} classes of higher recall are left out." if hidden else ""
    return markdown_table(weakest.rename(columns=lambda name: name.replace("_", " "))) + more


def _robustness(evaluation: Evaluation) -> str:
    if evaluation.robustness.empty:
        return "Not measured: the declaration names no corruption."
    return (
        "Accuracy on the test images made worse (after Hendrycks & Dietterich 2019): noise of a standard deviation "
        "and brightness as a share of 255, blur by a sigma in pixels of an image of 32.\n\n"
        + markdown_table(evaluation.robustness)
    )


def _limits(use_case: ImageUseCase, evaluation: Evaluation) -> list[str]:
    """What a user must know before trusting the figures above."""
    size = use_case.data.image_size
    limits = [
        "Every image is given one of the classes above, also an image of something else.",
        f"Images are judged at {size} × {size} pixels: finer details are not seen.",
        _resolution(evaluation),
    ]
    if use_case.data.source == "surfaces":
        limits.insert(0, "The data are rendered by a program, not photographed: no figure here speaks of a real plant.")
    weak = evaluation.per_class.dropna(subset=["recall"]).sort_values("recall", kind="stable").iloc[0]
    limits.append(
        f"Weakest class: {weak['label']}, recall {weak['recall']:.4g} "
        f"({weak['recall_low']:.4g} to {weak['recall_high']:.4g}) on {weak['support']:,} samples."
    )
    if len(evaluation.slices):
        slice_ = evaluation.slices.sort_values("accuracy", kind="stable").iloc[0]
        limits.append(
            f"Weakest slice: {slice_['slice']} {slice_['value']}, accuracy {slice_['accuracy']:.4g} "
            f"({slice_['low']:.4g} to {slice_['high']:.4g}) on {slice_['support']:,} samples."
        )
    if len(evaluation.robustness):
        worst = evaluation.robustness.sort_values("accuracy", kind="stable").iloc[0]
        limits.append(
            f"Weakest under {worst['corruption']} of {worst['severity']:.4g}: accuracy {worst['accuracy']:.4g} "
            f"({worst['low']:.4g} to {worst['high']:.4g})."
        )
    return limits + _confusions(evaluation) + _absent(evaluation)


def _resolution(evaluation: Evaluation) -> str:
    """How small a difference this test split can show."""
    low, high = evaluation.intervals["accuracy"]
    if evaluation.metrics["accuracy"] == 1.0:
        # Rule of three: Hanley & Lippman-Hand 1983, "If Nothing Goes Wrong, Is Everything All Right?"
        return (
            f"No mistake in {evaluation.samples:,} samples still allows an error rate up to "
            f"{min(1.0, 3 / evaluation.samples):.2%} (95 %)."
        )
    return f"The accuracy's 95 % interval is {100 * (high - low):.2g} points wide: smaller differences are noise."


def _confusions(evaluation: Evaluation) -> list[str]:
    mistakes_KK = evaluation.confusion - np.diag(evaluation.confusion.diagonal())
    if not mistakes_KK.any():
        return []
    true, predicted = np.unravel_index(mistakes_KK.argmax(), mistakes_KK.shape)
    return [
        f"Most frequent mistake: {evaluation.labels[true]} taken for {evaluation.labels[predicted]}, "
        f"{mistakes_KK[true, predicted]:,} of {evaluation.confusion[true].sum():,}."
    ]


def _absent(evaluation: Evaluation) -> list[str]:
    absent = evaluation.per_class.loc[evaluation.per_class["support"] == 0, "label"]
    return [f"Not judged, without test samples: {', '.join(absent)}."] if len(absent) else []


def compression_section(
    candidates: pd.DataFrame, chosen: str, parity: Mapping[str, float], metric: str, unit: str = "image"
) -> str:
    """The candidates, the released one, and how the fp32 file agrees with PyTorch."""
    columns = [column for column in CANDIDATE_COLUMNS if column in candidates]
    table = candidates[columns].assign(released=candidates.get("chosen", candidates["name"] == chosen))
    return (
        f"Released: **{chosen}**. The metric is {metric.replace('_', ' ')} on validation; latencies are of one {unit}, "
        f"throughput is {unit}s per second in batches.\n\n"
        + markdown_table(table.rename(columns=lambda name: name.replace("_", " ")))
        + "\n\nThe fp32 ONNX file against PyTorch, and the files named otherwise: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in parity.items())
        + "."
    )


def gates_section(gates: Sequence[Judgement]) -> str:
    """Every gate with what was seen."""
    if not gates:
        return "None declared: nothing was asked of this version."
    rows = [(gate.gate, gate.limit, gate.figure, gate.passed, gate.note) for gate in gates]
    table = pd.DataFrame(rows, columns=["gate", "limit", "figure", "passed", "note"])
    return markdown_table(table if table["note"].any() else table.drop(columns="note"))
