"""An environment of its own for each rival, so that none has to live with labline's versions of anything."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from labline.errors import LablineError

FOLDER = Path(".benchmarks")
SHARED = ("numpy", "onnxruntime")  # in labline's own version: what runs the model is the same for everyone
FASTEST = ("uvloop", "httptools")  # both rivals stand on uvicorn, which takes these where they are installed
RIVALS: dict[str, str] = {"litserve": "litserve==0.2.19", "bentoml": "bentoml==1.4.40"}
DEDUPLICATION: dict[str, str] = {"imagededup": "imagededup==0.3.3.post2"}
DECODING = ("torch", "torchvision", "numpy", "pillow")  # what imagededup decodes and hashes with

log = logging.getLogger(__name__)


def environment(rival: str, shared: Sequence[str] = SHARED + FASTEST) -> Path:
    """The `bin` folder of the rival's environment, made at the first call and kept in `.benchmarks`.

    `shared` packages are installed in the version that labline runs with.
    Raises LablineError where it cannot be made, for which a package index is needed.
    """
    folder = (FOLDER / rival).resolve()
    requirement = (RIVALS | DEDUPLICATION)[rival]
    wanted = [requirement, *(f"{package}=={version(package)}" for package in shared)]
    made = folder / "made-of.txt"
    if not made.is_file() or made.read_text().splitlines() != wanted:
        log.info("installing %s into %s", requirement, folder)
        _uv("venv", "--clear", f"--python={sys.executable}", str(folder))
        _uv("pip", "install", f"--python={folder / 'bin' / 'python'}", *wanted)
        made.write_text("\n".join(wanted))
    return folder / "bin"


def _uv(*arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("uv")), *arguments, "--quiet"]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise LablineError(f"{command[0]} cannot be started ({error}): make setup installs it") from error
    if ended.returncode:
        raise LablineError(
            f"{' '.join(command)} failed: {ended.stderr.strip()[-500:]}. The rivals are installed from a package "
            "index: where none can be reached, run this on a machine that reaches one."
        )
