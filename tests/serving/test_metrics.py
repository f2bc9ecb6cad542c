"""The counters: summed over workers, gone on with by who replaces one, and never in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from running_service import PROJECT

from serving.metrics import Metrics, Observed

WORK = """
import sys
from pathlib import Path
from serving.metrics import Metrics, Observed
metrics = Metrics(Path(sys.argv[1]), sys.argv[2])
metrics.answered("/predict", 200, sys.argv[3], "production", 0.002)
metrics.answered("/predict", 422, "", "", 0.2)
metrics.batch.observe(4)
metrics.observe(Observed(3, 1000, ((sys.argv[3], "production"),), 1, 0))
print(metrics.page().decode())
"""


def work(folder: Path, worker: str, version: str = "3") -> dict[str, float]:
    """The page as a worker process of this name sees it when it has counted."""
    command = [sys.executable, "-c", WORK, str(folder), worker, version]
    page = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT).stdout
    return read(page)


def read(page: str) -> dict[str, float]:
    lines = [line for line in page.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def answered(version: str = "3") -> str:
    return f'labline_requests_total{{role="production",route="/predict",status="200",version="{version}"}}'


def test_workers_are_summed_and_a_replacement_goes_on(tmp_path: Path) -> None:
    assert work(tmp_path, "8080-0")[answered()] == 1
    assert work(tmp_path, "8080-1")[answered()] == 2
    page = work(tmp_path, "8080-0")

    assert page[answered()] == 3
    assert page['labline_request_seconds_count{route="/predict"}'] == 6
    assert page['labline_request_seconds_bucket{le="0.002",route="/predict"}'] == 3
    assert page["labline_batch_samples_sum"] == 12
    assert page["labline_waiting_samples"] == 6  # of two workers, not of three processes
    assert page["labline_journal_bytes"] == 1000  # one journal, which all workers see
    assert page['labline_model_version{role="production",version="3"}'] == 1
    assert len(list(tmp_path.iterdir())) == 8


def test_a_version_that_went_stands_no_more() -> None:
    metrics = Metrics()
    standing = 'labline_model_version{role="production",version="%s"}'
    for version in ("1", "2"):
        metrics.observe(Observed(0, 0, ((version, "production"),), 0, 0))

    page = read(metrics.page().decode())

    assert (page[standing % 1], page[standing % 2]) == (0, 1)


def test_where_there_is_no_room_for_the_files_each_worker_counts_for_itself(tmp_path: Path) -> None:
    blocked = tmp_path / "metrics"
    blocked.write_text("a file where the folder should be")
    metrics = Metrics(blocked, "0")

    metrics.answered("/predict", 200, "3", "production", 0.002)

    assert read(metrics.page().decode())[answered()] == 1
