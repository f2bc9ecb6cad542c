"""The bucket behind the storage root: objects read, written and listed, and what it refuses said in one sentence.

The only module that knows s3fs. Credentials and endpoint are botocore's: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
or AWS_PROFILE, or those of the machine; AWS_ENDPOINT_URL for what is not Amazon's. None of them is ever shown.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from labline.errors import BadInput
from tasks.environment import chain, object_storage_url
from tasks.observer import observer

Result = TypeVar("Result")

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
UNKNOWN = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
    "AuthorizationHeaderMalformed", "UnrecognizedClientException", "InvalidClientTokenId",
}  # fmt: skip
FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"}
CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
RIGHTS = "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject"
# Of a server that is busy or being started anew, told after botocore's own tries.
PASSING = {"500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout"}
AWAY = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "SSLError")
AT_ONCE = 32  # transfers
DELAYS = (1, 2, 4, 8, 15, 30, 60)  # seconds, two minutes together: a server that is started anew is back by then
WAITING = "the object storage does not answer: trying again, for two minutes"


class Away(BadInput):
    """The object storage does not answer, which may pass."""


@dataclass(frozen=True)
class ObjectStorage:
    """What lies below `url`, an `s3://bucket/prefix` without a slash at its end; objects are named below it.

    Every method raises BadInput, saying why, where the storage refuses or is away. Once it has answered, one that is
    away is waited for, two minutes, if this is `patient`: before that, its address may be wrong.
    """

    url: str
    patient: bool = True
    _answered: threading.Event = field(default_factory=threading.Event, init=False, compare=False, repr=False)

    @cached_property
    def impatient(self) -> ObjectStorage:
        """The same for what can do without: a checkpoint, while training goes on."""
        return replace(self, patient=False)

    @cached_property
    def _files(self) -> Any:
        import fsspec

        return fsspec.filesystem(
            "s3", use_listings_cache=False, skip_instance_cache=True, config_kwargs={"connect_timeout": 10}
        )

    def read(self, name: str) -> bytes | None:
        """The content of an object; None where there is none of that name."""

        def found() -> bytes | None:
            try:
                content: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None
            return content

        return self.asked(f"reading {name}", found)

    def write(self, name: str, content: bytes) -> None:
        """Put an object there, all at once: whoever reads meets the old one or the new one."""
        self.asked(f"writing {name}", lambda: self._files.pipe_file(self._path(name), content))

    def upload(self, files: Mapping[str, Path]) -> None:
        """Put files there, by object name."""
        here, there = [str(path) for path in files.values()], [*map(self._path, files)]
        self.asked(f"writing {_first(files)}", lambda: self._files.put(here, there, batch_size=AT_ONCE))

    def download(self, files: Mapping[str, Path]) -> None:
        """Bring objects here, by name, making folders; raises FileNotFoundError where one is not there."""
        here, there = [str(path) for path in files.values()], [*map(self._path, files)]
        self.asked(f"reading {_first(files)}", lambda: self._files.get(there, here, batch_size=AT_ONCE))

    def sizes(self, prefix: str) -> dict[str, int]:
        """The bytes of every object below a prefix, by name."""
        listed: dict[str, dict[str, Any]] = self.asked(
            f"listing {prefix}", lambda: self._files.find(self._path(prefix), detail=True)
        )
        root = self._path("")
        return {path.removeprefix(root): int(entry["size"]) for path, entry in listed.items()}

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that are not there are no matter."""
        if names:
            try:
                self.asked(f"deleting {_first(names)}", partial(self._files.rm, [*map(self._path, names)]))
            except FileNotFoundError:
                if len(names) > 1:  # one that is gone must not keep the others
                    for name in names:
                        self.delete([name])

    def _path(self, name: str) -> str:
        return f"{self.url.removeprefix('s3://')}/{name}"

    def asked(self, doing: str, work: Callable[[], Result]) -> Result:
        """What `work` returns, which asks this object storage, and is done again where that may help."""
        for delay in DELAYS if self.patient and self._answered.is_set() else ():
            try:
                return self._told(doing, work)
            except Away:
                observer.get().said(WAITING)
            time.sleep(delay)
        result = self._told(doing, work)
        self._answered.set()
        return result

    def _told(self, doing: str, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except Exception as error:
            refused = next(filter(None, (explained(cause, self.url, doing) for cause in chain(error))), None)
            if refused is None:
                raise
            raise refused from error


def opened() -> ObjectStorage | None:
    """The object storage behind the storage root of the loaded environment; None where that is a local folder."""
    url = object_storage_url()
    return _opened(url, os.getpid()) if url else None


@cache
def _opened(url: str, process: int) -> ObjectStorage:
    return ObjectStorage(url)


def outlasting(work: Callable[[], Result], doing: str) -> Result:
    """What `work` returns, which asks the object storage behind the storage root, if any, through another library.

    It may be done again, where the object storage is away for a while.
    """
    storage = opened()
    return work() if storage is None else storage.asked(doing, work)


def probe(storage: ObjectStorage) -> float:
    """Write, read, list and delete an object; returns the seconds that took, and raises BadInput as those do."""
    name, begun = f"probes/{uuid4().hex}", time.perf_counter()
    storage.write(name, b"labline doctor")
    if storage.read(name) != b"labline doctor" or name not in storage.sizes("probes"):
        raise BadInput(f"LABLINE_STORE is {storage.url}, which does not give back what was just written to it")
    storage.delete([name])
    return time.perf_counter() - begun


def explained(error: BaseException, url: str, doing: str = "") -> BadInput | None:
    """What botocore or s3fs means in one sentence with what to do; None for an error that is not theirs."""
    kind, code = type(error).__name__, _code(error)
    if not code and not type(error).__module__.startswith("botocore"):
        return None  # also what boto3 makes of botocore's errors, which stand behind it
    begin = f"LABLINE_STORE is {url}" + (f" ({doing})" if doing else "")
    if kind in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
        return BadInput(f"{begin}, and there are no credentials for it: set {CREDENTIALS}")
    if code in UNKNOWN:
        return BadInput(f"{begin}, where the credentials are not valid ({code}): set {CREDENTIALS} to ones that are")
    if code in FORBIDDEN:
        advice = f"the credentials in {CREDENTIALS} must be valid, and allow {RIGHTS}"
        return BadInput(f"{begin}, which refuses access ({code}): {advice}")
    if code == "NoSuchBucket":
        bucket = url.removeprefix("s3://").partition("/")[0]
        advice = "make it, or set LABLINE_STORE to one that is there, or AWS_ENDPOINT_URL to where it is"
        return BadInput(f"{begin}, and there is no bucket {bucket} at {_endpoint()}: {advice}")
    if kind in AWAY or code in PASSING:
        return Away(
            f"{begin}, and {_endpoint()} does not answer ({code or kind}): is AWS_ENDPOINT_URL right, and is it up?"
        )
    if code in ("404", "NoSuchKey"):
        return None
    return BadInput(f"{begin}, which failed with {code or kind}: {error}")


def _code(error: BaseException) -> str:
    """S3's own word for what is wrong, also of an OSError that s3fs made of it; empty where there is none."""
    for cause in (error, error.__cause__):
        response = getattr(cause, "response", None)
        if isinstance(response, dict) and isinstance(known := response.get("Error"), dict):
            return str(known.get("Code", ""))
    return ""


def _endpoint() -> str:
    """Who is asked, without any credentials that the address might hold."""
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not address:
        return "Amazon S3"
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _first(names: Mapping[str, Path] | Sequence[str]) -> str:
    return next(iter(names), "nothing") + (" and others" if len(names) > 1 else "")
