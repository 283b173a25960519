"""The file that holds the peppers: made for the first key, readable by its owner only.

Whoever has it and the log could test guesses against digests; 190 random bits make that useless, but
it costs nothing to keep the two apart. Losing it makes every key unknown: keep a copy where passwords
are kept. Nobody makes another in its place while a key needs it, and gates make none at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path

from doortab.producers.keytext import Peppers, Random
from doortab.schemas.errors import NotFound, UsageError

PEPPER_BYTES = 32


def load(path: Path) -> Peppers:
    """The peppers in the file.

    Raises:
        NotFound: there is no such file.
        UsageError: others may read it, or it is not a pepper file.
    """
    current_id, values = _read(path)
    return Peppers(current_id, values)


def load_if_there(path: Path) -> Peppers:
    """The peppers in the file; none where there is no file.

    Raises:
        UsageError: others may read it, or it is not a pepper file.
    """
    try:
        return load(path)
    except NotFound:
        return Peppers.none()


def load_or_create(path: Path, random: Random = os.urandom, *, used: Collection[str] = ()) -> Peppers:
    """The peppers in the file, which is made if it is missing. Many processes may do so at once: one wins.

    ``used`` are those that keys that still work were hashed with: a file that lacks one is never made, nor used.

    Raises:
        UsageError: others may read it, it is not a pepper file, or it lacks a pepper.
    """
    peppers = load_if_there(path)
    lacking = set(used) - set(peppers.ids)
    if lacking:
        raise UsageError(lack(path, lacking))
    if peppers.ids:
        return peppers
    path.parent.mkdir(parents=True, exist_ok=True)
    value = random(PEPPER_BYTES)
    _write(path, _id_of(value), {_id_of(value): value}, random, replace=False)
    return load(path)


def rotate(path: Path, random: Random = os.urandom) -> Peppers:
    """Adds a pepper that new keys get from now on. Older keys keep theirs, and stay valid.

    Raises:
        NotFound: there is no such file.
        UsageError: others may read it, or it is not a pepper file.
    """
    _, values = _read(path)
    value = random(PEPPER_BYTES)
    _write(path, _id_of(value), {**values, _id_of(value): value}, random, replace=True)
    return load(path)


def lack(path: Path, lacking: Collection[str]) -> str:
    """What is wrong where a file lacks peppers that keys need, and the way out."""
    names = ", ".join(sorted(lacking))
    return f"keys that still work need pepper {names}, which {path} does not hold: {way_out(names)}"


def way_out(names: str) -> str:
    """What brings keys back whose peppers are not here, or ends them."""
    return (
        f"restore pepper {names} from your copy, or copy the pepper file from where keys are issued; if it is lost, "
        "revoke those keys (`doortab keys list --json` has each one's pepper_id) and issue others"
    )


def _id_of(value: bytes) -> str:
    """A name that says nothing about the value, and shows when the wrong file is in place."""
    return "p" + hashlib.blake2b(value, digest_size=4, person=b"doortab.pepper").hexdigest()


def _read(path: Path) -> tuple[str, dict[str, bytes]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"no pepper file {path}; issue a key, or copy the file from where keys were issued") from None
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode & 0o777
        if mode & 0o077:
            raise UsageError(f"{path} has mode {mode:o}: others can read the pepper; run `chmod 600 {path}`")
        text = file.read()
    try:
        content = json.loads(text)
        values = {str(name): bytes.fromhex(value) for name, value in content["peppers"].items()}
        current_id = str(content["current"])
        Peppers(current_id, values)
    except (ValueError, KeyError, TypeError, AttributeError):
        # Neither the cause nor the text is shown: both may hold the pepper.
        raise UsageError(f"{path} is not a pepper file; restore it from your copy") from None
    return current_id, values


def _write(path: Path, current_id: str, values: dict[str, bytes], random: Random, replace: bool) -> None:
    """Puts the whole file in place at once, durably. Without ``replace``, a file that is there stands."""
    content = {"current": current_id, "peppers": {name: value.hex() for name, value in values.items()}}
    new = path.with_name(f".{path.name}.{random(8).hex()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(json.dumps(content, indent=1) + "\n")
            file.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(new, path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
