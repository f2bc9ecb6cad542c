"""A stage's folder in the storage root: where it writes its result and the evidence a person looks at.

```
<store>/stages/<stage>/<key>/
  key.json               what the key was made of: declaration, inputs, source
  evidence/metrics.json  figures of the run
  evidence/history.json  figures per step
  evidence/files/…       plots and tables, attached to the MLflow run under the stage's name
```
The folder is filled as `<key>.partial` and renamed when the stage ends, so a folder without that
suffix is complete. Evidence lies beside the result so that a cached stage still shows it on a new run.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labline.markdown import markdown_table
from tasks.sharing import keep_checkpoint, present

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from tasks.recording import Recording


class Workspace:
    """What a running stage is given: its folder, and where to put evidence."""

    def __init__(
        self, stage: str, store: Path, name: str, path: Path, recording: Recording, resumes: bool = False
    ) -> None:
        """`name` is the finished folder, relative to `store`; `path` the partial one being filled.

        Of a stage that `resumes`, what is in `path` when it reports steps is what it goes on from when it is killed.
        """
        self.stage = stage
        self.store = store
        self.name = name
        self.path = path
        self._recording = recording
        self._resumes = resumes
        self._next_checkpoint = 0.0
        self._metrics: dict[str, float] = {}
        self._parameters: dict[str, str] = {}
        self._history: list[dict[str, Any]] = []
        self._summary: list[str] = []
        self.files.mkdir(parents=True, exist_ok=True)

    @property
    def files(self) -> Path:
        """The folder whose content is attached to the MLflow run."""
        return self.path / "evidence" / "files"

    @property
    def summary(self) -> str:
        """Markdown for the Prefect artifact of this stage."""
        return "\n\n".join(self._summary)

    def resolve(self, directory: str) -> Path:
        """The absolute path of an earlier stage's folder, which is fetched where it ended on another machine."""
        return present(directory)

    def progress(self, done: float, total: float, text: str = "") -> None:
        """Say how far the stage is."""
        self._recording.observer.progressed(self.stage, done, total, text)

    def metrics(self, figures: Mapping[str, float]) -> None:
        """Record figures of the whole run."""
        self._metrics.update(_finite(figures))

    def parameters(self, values: Mapping[str, object]) -> None:
        """Record parameters of the run."""
        self._parameters.update({name: str(value) for name, value in values.items()})

    def steps(self, history: Sequence[tuple[int, Mapping[str, float]]], seen_before: bool = False) -> None:
        """Record figures at steps, and show them on the MLflow run now; `seen_before` by a run that was killed."""
        entries = [{"step": step, "metrics": _finite(figures)} for step, figures in history]
        self._history += entries
        self._recording.log_steps(entries)
        if self._resumes and not seen_before and time.monotonic() >= self._next_checkpoint:
            self._next_checkpoint = keep_checkpoint(self.name, self.path) + time.monotonic()

    def figure(self, name: str, figure: Figure) -> None:
        """Keep a plot."""
        figure.savefig(self.files / f"{name}.png", dpi=110)

    def table(self, name: str, frame: pd.DataFrame, show: int = 0) -> None:
        """Keep a table as CSV, and show its first rows on the Prefect page."""
        frame.to_csv(self.files / f"{name}.csv", index=False)
        if show and len(frame):
            self.say(f"**{name.replace('_', ' ')}** ({len(frame)} rows)\n\n" + markdown_table(frame.head(show)))

    def say(self, markdown: str) -> None:
        """Add a paragraph to what the Prefect page shows."""
        self._summary.append(markdown)

    def close(self) -> None:
        """Write the evidence down; steps logged live are logged again only on another run."""
        evidence = self.path / "evidence"
        (evidence / "metrics.json").write_text(json.dumps(self._metrics, indent=2))
        (evidence / "parameters.json").write_text(json.dumps(self._parameters, indent=2))
        (evidence / "history.json").write_text(json.dumps(self._history))


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}
