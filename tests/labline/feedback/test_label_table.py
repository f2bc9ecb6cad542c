"""Labels in a CSV: which rows are labels, and why the others are not."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from labline.errors import BadInput
from labline.feedback import new_id
from labline.feedback.label_table import read_label_table, write_rejected

KEY = b"k" * 32


def table(tmp_path: Path, *rows: str, header: str = "id,label,source,at") -> Path:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8-sig")  # as spreadsheets write it
    return path


def test_rows_become_labels(tmp_path: Path) -> None:
    one, two, three = (new_id(KEY) for _ in range(3))
    path = table(tmp_path, f"{one},patches,ann,2026-11-24T14:30", f"{two}, scratches ,,", f'{three},"a, b",ann,1000.5')
    found = read_label_table(path, KEY)
    assert not found.rejected
    first, second, third = found.labels
    assert (first.prediction, first.label, first.source) == (one, "patches", "ann")
    assert first.at == datetime(2026, 11, 24, 14, 30).astimezone().timestamp()
    assert (second.label, second.source, second.at) == ("scratches", "import", second.received)
    assert (third.label, third.at) == ("a, b", 1000.5)


def test_reading_twice_gives_the_same_ids_and_a_correction_another(tmp_path: Path) -> None:
    id = new_id(KEY)
    path = table(tmp_path, f"{id},patches", f"{id},scratches", header="id,label")
    first, again = read_label_table(path, KEY).labels, read_label_table(path, KEY).labels
    assert [label.id for label in first] == [label.id for label in again]
    assert first[0].id != first[1].id


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("nobody,patches,,", "was given this id"),
        ("{id},,,", "no label"),
        ("{id},dent,,", "not one of the classes patches, scratches"),
        ("{id},patches,,yesterday", "at: a date"),
        ("{id},patches,,inf", "at: a date"),
        ("{id}," + "x" * 300 + ",,", "at most 256 characters"),
        ("{id}", "no label"),
    ],
)
def test_what_is_no_label_is_said(tmp_path: Path, row: str, reason: str) -> None:
    good = f"{new_id(KEY)},patches,,"
    found = read_label_table(table(tmp_path, good, row.format(id=new_id(KEY))), KEY, ("patches", "scratches"))
    assert len(found.labels) == 1
    assert found.rejected[0]["line"] == "3" and reason in found.rejected[0]["reason"]


def test_a_forecast_is_labelled_with_a_number(tmp_path: Path) -> None:
    rows = [f"{new_id(KEY)},{label},," for label in ("1e-2", "nan", "high")]
    found = read_label_table(table(tmp_path, *rows), KEY, numeric=True)
    assert [label.label for label in found.labels] == ["0.01"]
    assert all("finite number" in row["reason"] for row in found.rejected)


def test_rejected_rows_can_be_mended_and_read_again(tmp_path: Path) -> None:
    id = new_id(KEY)
    rejected = read_label_table(table(tmp_path, f'{id},"a, ""b""",,yesterday'), KEY).rejected
    write_rejected(rejected, tmp_path / "rejected.csv")
    mended = tmp_path / "mended.csv"
    mended.write_text((tmp_path / "rejected.csv").read_text().replace("yesterday,", "2026-11-23,"))
    (label,) = read_label_table(mended, KEY).labels
    assert (label.prediction, label.label) == (id, 'a, "b"')


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"id;label\n", "no column id"),
        (b"id,class\n", "no column label"),
        (b"", "no column id"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=told):
        read_label_table(path, KEY)
