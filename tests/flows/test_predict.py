"""`labline predict`, as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from malformed import encode
from registered import SIZE, register
from small_runs import invoke

from labline.data import surfaces

NAME = "predicted-parts"


def test_a_folder_is_answered_and_what_is_broken_is_told(servers: dict[str, str], tmp_path: Path) -> None:
    register(NAME, tmp_path / "version")
    folder = tmp_path / "strips"
    folder.mkdir()
    for number, image in enumerate(surfaces.render(20, SIZE, 0).images):
        (folder / f"{number:02}.png").write_bytes(encode(image, "PNG"))
    (folder / "broken.png").write_bytes(b"junk")
    out = tmp_path / "answers.csv"

    ended = invoke("predict", NAME, str(folder), "--out", str(out), "--json")

    assert ended.code == 0, ended.err
    told = ended.summary
    assert (told["version"], told["samples"], told["answered"], told["quarantined"]) == ("1", 21, 20, 1)
    assert "20 of 21 answered; 1 refused" in " ".join(ended.err.split())
    answers = pd.read_csv(out)
    assert answers.columns.tolist() == [
        "path",
        "label",
        "confidence",
        "probability_dark",
        "probability_bright",
        "version",
    ]
    assert pd.read_parquet(told["quarantine"])["sample_id"].tolist() == ["broken.png"]


def test_what_cannot_be_answered_is_bad_input(tmp_path: Path) -> None:
    ended = invoke("predict", NAME, str(tmp_path / "gone"), "--out", str(tmp_path / "answers.csv"), "--json")
    assert ended.code == 2 and "there is nothing at" in ended.summary["error"]
