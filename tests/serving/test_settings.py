"""Settings and keys: what the supervisor hands over arrives, and what cannot be used is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from labline.errors import BadInput
from serving.limits import Limits
from serving.security import Guard
from serving.settings import KEY, KEY_FILE, VARIABLE, Settings, configured_key, from_environment


@pytest.mark.parametrize("key", ["", "geheim"])
def test_what_is_handed_over_arrives(key: str) -> None:
    settings = Settings(
        "steel",
        Path("/store"),
        Path("/store/serving/steel/8080"),
        "sqlite:///feedback.db",
        key=key,
        worker="8080-1",
        threads=3,
        limits=Limits(max_body=5),
        request_timeout=1.5,
    )

    assert from_environment(settings.to_environment()) == settings
    assert settings.journal == Path("/store/serving/steel/journal")


def test_the_key_stays_out_of_logs() -> None:
    settings = Settings("steel", Path(), Path(), "", key="geheim")

    assert "geheim" not in repr(settings)
    assert "geheim" not in settings.to_environment()[VARIABLE]


@pytest.mark.parametrize("written", [None, "", "7", "{}", '{"folder": "x"}'])
def test_settings_that_nobody_wrote_are_refused(written: str | None) -> None:
    with pytest.raises(BadInput, match="labline serve"):
        from_environment({} if written is None else {VARIABLE: written})


def test_settings_of_another_version_are_refused() -> None:
    written = Settings("steel", Path(), Path(), "").to_environment()
    written[VARIABLE] = written[VARIABLE].replace('"threads"', '"fibres"')

    with pytest.raises(BadInput, match="unknown settings fibres"):
        from_environment(written)


def test_the_key_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n")

    assert configured_key({}) == ""
    assert configured_key({KEY: "from-a-variable"}) == "from-a-variable"
    assert configured_key({KEY_FILE: str(tmp_path / "key")}) == "from-a-file"


@pytest.mark.parametrize("content", [b"", b"   \n", b"two words", "schlüssel".encode(), b"\xff\xfe", None])
def test_a_key_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)

    with pytest.raises(BadInput, match="expected"):
        configured_key({KEY_FILE: str(tmp_path / "key")})


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({b"authorization": b"Bearer geheim"}, True),
        ({b"authorization": b"bearer  geheim"}, True),
        ({b"x-api-key": b"geheim"}, True),
        ({b"x-api-key": b"geheim2"}, False),
        ({b"x-api-key": b""}, False),
        ({b"authorization": b"geheim"}, False),
        ({b"authorization": b"Bearer"}, False),
        ({b"authorization": b"Basic geheim"}, False),
        ({b"authorization": b"Bearer wrong", b"x-api-key": b"geheim"}, False),
        ({b"x-api-key": "schlüssel".encode()}, False),
        ({}, False),
    ],
)
def test_only_the_key_opens(headers: dict[bytes, bytes], admitted: bool) -> None:
    assert Guard("geheim").admits(headers) is admitted
    assert Guard("").admits(headers)
