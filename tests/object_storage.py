"""A real S3-compatible server of the tests' own, moto's, in a process of its own on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import boto3
import pytest
from free_ports import free_port

SECRET = "planted-secret-4711"


@dataclass(frozen=True)
class Server:
    """The server at `address`; `environment` are the variables with which a process may use it."""

    address: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "planted-key-4711",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",  # what is refused or away here stays so
        }

    def reader(self) -> dict[str, str]:
        """The variables of somebody who may read everything and write nothing, while `refusing`."""
        iam, name = self.client("iam"), f"reader-{uuid4().hex}"
        statement = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="read", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def client(self, service: str = "s3") -> Any:
        """A client that may do everything."""
        keys = {"aws_access_key_id": "root", "aws_secret_access_key": "root"}
        return boto3.client(service, endpoint_url=self.address, region_name="us-east-1", **keys)

    def new_store(self) -> str:
        """The address of an empty place."""
        bucket = f"bucket-{uuid4().hex}"
        self.client().create_bucket(Bucket=bucket)
        return f"s3://{bucket}/labline"

    def names(self, url: str) -> list[str]:
        """Of every object below an address, relative to it."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return [entry["Key"].removeprefix(f"{prefix}/") for page in pages for entry in page.get("Contents", [])]

    def content(self, url: str, name: str) -> bytes:
        """Of an object below an address."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        content: bytes = self.client().get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read()
        return content

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Let nobody in whose key the server does not know, and it does not know that of `environment`."""
        self._check_keys_after(0)
        try:
            yield
        finally:
            self._check_keys_after(10**12)

    def _check_keys_after(self, requests: int) -> None:
        # As text: what looks like a form is parsed, and the server then finds no number.
        asked = urllib.request.Request(
            f"{self.address}/moto-api/reset-auth", data=str(requests).encode(), headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(asked).close()


@contextmanager
def running_object_storage() -> Iterator[Server]:
    """Start a server; it and what is in it are gone afterwards."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=dict(os.environ))
    try:
        address = f"http://127.0.0.1:{port}"
        while True:
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"{address}/moto-api/").close()
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        yield Server(address)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def object_storage() -> Iterator[Server]:
    """The server of this test process, started by the first test that asks for it."""
    with running_object_storage() as server:
        yield server
