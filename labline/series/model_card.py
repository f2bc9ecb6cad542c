"""The model card of a forecaster: what it is for, what it showed beside its rivals, and where not to trust it.

After Mitchell et al. 2019, "Model Cards for Model Reporting", as `labline.model_card` for images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from labline.gates import Judgement
from labline.markdown import markdown_table
from labline.model_card import compression_section, facts_section, gates_section
from labline.series.assessment import Assessment
from labline.series.declaration import Features, Head
from labline.series.usecase import SeriesUseCase

TARGETS = {
    "realized-volatility": "the natural logarithm of the annualized volatility (root mean square of daily log returns) "
    "of {price} over the next {horizon} rows",
    "value": "{price}, {horizon} rows ahead",
    "direction": "whether {price} is higher {horizon} rows ahead",
}
ANSWERS: Mapping[Head, str] = {
    "gaussian": "its mean and standard deviation",
    "quantile": "its quantiles",
    "point": "its mean",
    "classes": "a logit for no and one for yes",
}
RIVAL_COLUMNS = (
    "model", "days", "qlike", "qlike_low", "qlike_high", "mse_log_variance", "diebold_mariano", "diebold_mariano_p",
)  # fmt: skip
RISK_COLUMNS = (
    "model", "value_at_risk_days", "violations", "expected_violations", "kupiec_p", "independence_p",
    "christoffersen_p",
)  # fmt: skip


def series_model_card(
    use_case: SeriesUseCase,
    assessment: Assessment,
    candidates: pd.DataFrame,
    chosen: str,
    dataset: Mapping[str, object],
    parity: Mapping[str, float],
    gates: Sequence[Judgement],
    metric: str,
) -> str:
    """Write the card as Markdown; see `labline.model_card.model_card`. `metric` names the one of `candidates`."""
    features, network = use_case.features, use_case.model
    sections = {
        "Intended use": f"{use_case.title}. Forecasts {_target(features)}: {ANSWERS[network.head]}. Takes float32 "
        f"windows of {features.window} rows and {len(features.inputs)} features, unscaled, the last row the present: "
        + ", ".join(f"`{text}`" for text in features.inputs)
        + ".",
        "Data": _data(use_case, dataset),
        "Model": facts_section(
            {
                "architecture": network.architecture,
                "head": network.head,
                "epochs declared": use_case.training.epochs,
                "augmentation": ", ".join(use_case.augmentation.policy) or "none",
                "seed": use_case.training.seed,
            }
        ),
        "Verdict": assessment.verdict,
        "Metrics": f"On the {assessment.samples:,} windows of the test split, {assessment.first} to {assessment.last}, "
        "for the released file; intervals from a bootstrap of blocks of days.\n\n"
        + markdown_table(_metrics(assessment)),
        **_rivals(assessment, features),
        "Limits": "\n".join(f"- {limit}" for limit in _limits(assessment)),
        "Compression": compression_section(candidates, chosen, parity, metric, "window"),
        "Gates": gates_section(gates),
    }
    body = "\n\n".join(f"## {title}\n{text}" for title, text in sections.items())
    return f"# Model card: {use_case.name}\n\n{body}\n"


def _target(features: Features) -> str:
    return TARGETS[features.target].format(price=features.price, horizon=features.horizon)


def _data(use_case: SeriesUseCase, dataset: Mapping[str, object]) -> str:
    data, split = use_case.data, use_case.data.split
    declared = {"source": data.source, "expectations": use_case.expectations.suite}
    origin = {"path": data.path} if data.path else {}
    boundaries = (
        {"train until": split.train_until, "validation until": split.validation_until}
        if split.train_until
        else {"shares in time": f"{split.train:g} train, {split.validation:g} validation"}
    )
    cleaning = {name: value for name, value in use_case.cleaning.model_dump().items() if isinstance(value, str)}
    kept = {"cleaning": ", ".join(f"{name} {value}" for name, value in cleaning.items())}
    return facts_section(declared | origin | boundaries | kept | dict(dataset))


def _metrics(assessment: Assessment) -> pd.DataFrame:
    nothing = (float("nan"), float("nan"))
    own = [name for name in assessment.metrics if name in assessment.intervals or not len(assessment.rivals)]
    rows = [
        (name.replace("_", " "), assessment.metrics[name], *assessment.intervals.get(name, nothing)) for name in own
    ]
    return pd.DataFrame(rows, columns=["metric", "value", "95 % low", "95 % high"])


def _rivals(assessment: Assessment, features: Features) -> dict[str, str]:
    """The two tables of a comparison, where there is one."""
    table = assessment.rivals
    if table.empty:
        return {}
    plain = table.rename(columns=lambda name: name.replace("_", " "))
    losses, risk = ([name.replace("_", " ") for name in columns] for columns in (RIVAL_COLUMNS, RISK_COLUMNS))
    return {
        "Rivals": "Fitted walk-forward on the same rows, refitted about once a year. QLIKE (Patton 2011) and the "
        f"squared error of log variance over the next {features.horizon} days; Diebold–Mariano on QLIKE, two-sided, "
        "positive where the network is better.\n\n" + markdown_table(plain[losses]),
        "Value at risk": "One day ahead at 99 %, by filtered historical simulation for every model. Kupiec 1995 asks "
        "whether the share of violations is right, Christoffersen 1998 also whether they come alone; a small p speaks "
        "against the model.\n\n" + markdown_table(plain[risk]),
    }


def _limits(assessment: Assessment) -> list[str]:
    """What a user must know before trusting the figures above."""
    limits = [
        f"Judged on {assessment.first} to {assessment.last} alone: other times may differ, calm ones most of all.",
        "Forecasts hold for the series it was trained on; nothing says that they carry over to another.",
    ]
    if assessment.target == "realized-volatility":
        limits.append(
            "Realized volatility over a few days is a noisy stand-in for what it estimates: single errors say little."
        )
    if not assessment.rivals.empty:
        network = assessment.rivals.set_index("model").loc["network"]
        if network["christoffersen_p"] < 0.05:
            limits.append(
                "Violations of value at risk are not independent or not as many as claimed (Christoffersen "
                f"p = {network['christoffersen_p']:.3g}): losses cluster, and the value follows them by a day."
            )
    return limits
