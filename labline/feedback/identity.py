"""Ids of predictions: in the order of time, and recognised as issued here without looking anything up.

An id is a UUID version 7 (RFC 9562, section 5.7) in hex and 8 hex digits of a keyed BLAKE2b of it: whoever does not
hold the key makes one that is accepted in one of four thousand million tries.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
import time
from pathlib import Path

from labline.errors import BadInput

UUID_DIGITS = 32
CHECK_BYTES = 4
SHORTEST_SECRET = 16


def new_id(key: bytes) -> str:
    """A new id of 40 lowercase hex digits; ids of one process sort by the moment they were made, to the microsecond."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000  # the 12 bits that RFC 9562, section 6.2, method 3 gives to it
    random = int.from_bytes(os.urandom(8)) >> 2
    number = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random
    uuid = f"{number:032x}"
    return uuid + _check(uuid, key)


def issued(id: str, key: bytes) -> bool:
    """Whether an id was made with this key; any text may be asked about."""
    if len(id) != UUID_DIGITS + 2 * CHECK_BYTES or not id.isascii():
        return False
    return hmac.compare_digest(id[UUID_DIGITS:], _check(id[:UUID_DIGITS], key))


def feedback_key(folder: Path, usecase: str) -> bytes:
    """The key of a use case's ids, 32 bytes, from the secret in the file `folder/key`, which is made where missing.

    The environment variable LABLINE_FEEDBACK_KEY (at least 16 characters) takes the file's place: several machines
    that serve one use case must recognise each other's ids. Raises BadInput where the secret cannot be used.
    """
    secret = os.environ.get("LABLINE_FEEDBACK_KEY")
    if secret is None:
        secret = _secret_of(folder)
    if len(secret) < SHORTEST_SECRET:
        raise BadInput(
            f"LABLINE_FEEDBACK_KEY has {len(secret)} characters: at least {SHORTEST_SECRET} were expected, drawn by "
            "chance; unset it to use the key that labline keeps in its storage root"
        )
    return hashlib.blake2b(usecase.encode(), key=hashlib.blake2b(secret.encode()).digest(), digest_size=32).digest()


def _check(uuid: str, key: bytes) -> str:
    return hashlib.blake2b(uuid.encode(), key=key, digest_size=CHECK_BYTES).hexdigest()


def _secret_of(folder: Path) -> str:
    path = folder / "key"
    try:
        if not path.exists():
            _make_secret(path)
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: the key of prediction ids cannot be read or made ({error})") from error
    if len(secret) < SHORTEST_SECRET:
        raise BadInput(f"{path}: a key of prediction ids was expected; delete the file, and a new one is made")
    return secret


def _make_secret(path: Path) -> None:
    """Write a secret that only its owner may read; of several processes the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mkstemp gives 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(draft)
