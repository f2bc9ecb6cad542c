"""Which environment variables somebody reads: labline's sources, Prefect's and MLflow's settings, and what is standard.

Every one of these programs is silent about a variable that it does not know.
"""

from __future__ import annotations

import re
from pathlib import Path

# Of libpq and asyncpg, boto3, rclone, the images of PostgreSQL and of Python, and of those who want no telemetry.
STANDARD = {
    *("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGSSLMODE", "PGDATA"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
    *("RCLONE_AUTH_KEY", "RCLONE_CONFIG", "POSTGRES_PASSWORD", "POSTGRES_INITDB_ARGS", "DO_NOT_TRACK"),
    *("PATH", "HOME", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "MPLCONFIGDIR"),
}
SOURCES = ("labline", "tasks", "flows", "serving")


def known_variables() -> set[str]:
    """All of them."""
    return STANDARD | _of_labline() | _of_prefect() | _of_mlflow() | _of_own_scripts()


def _of_labline() -> set[str]:
    texts = [path.read_text() for folder in SOURCES for path in Path(folder).rglob("*.py")]
    return {
        name for text in texts for name in re.findall(r"\bLABLINE_[A-Z_]+\b", text + Path("mlflow.env").read_text())
    }


def _of_prefect() -> set[str]:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_valid_setting_names
    from prefect_redis.client import RedisMessagingSettings

    return _get_valid_setting_names(Settings) | _get_valid_setting_names(RedisMessagingSettings)


def _of_mlflow() -> set[str]:
    import mlflow.environment_variables
    from mlflow.cli import server

    named = {getattr(variable, "name", None) for variable in vars(mlflow.environment_variables).values()}
    return {str(name) for name in named if name} | {str(option.envvar) for option in server.params if option.envvar}


def _of_own_scripts() -> set[str]:
    """What databases.sh and the command of Redis read."""
    return {"REDIS_PASSWORD", *(f"{role}_DATABASE_PASSWORD" for role in ("PREFECT", "MLFLOW", "LABLINE"))}
