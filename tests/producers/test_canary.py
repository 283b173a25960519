"""A secret is shown once and stands nowhere else: it is driven through every path, and looked for in what is left."""

from __future__ import annotations

import gc
import traceback
from pathlib import Path

import pytest

from doortab.log.open import open_log
from doortab.producers import pepper
from doortab.producers.client import Client
from doortab.producers.desk import Desk
from doortab.producers.follower import Follower
from doortab.producers.gate import Gate, Verdict
from doortab.producers.keyring import Keyring
from doortab.producers.problem import answer
from doortab.schemas.errors import UsageError

pytestmark = pytest.mark.promises("R16")


def held_by(keyring: Keyring) -> bytes:
    """All the bytes that a keyring refers to, as far as the collector can see them."""
    seen: dict[int, object] = {}
    todo: list[object] = [keyring]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen[id(one)] = one
        todo.extend(gc.get_referents(one))
    found = (
        one.encode() if isinstance(one, str) else bytes(one)
        for one in seen.values()
        if isinstance(one, str | bytes | bytearray)
    )
    return b"\n".join(found)


def test_no_secret_reaches_disk_memory_or_words(tmp_path: Path) -> None:
    log = open_log(f"file:{tmp_path}/log")
    peppers = pepper.load_or_create(tmp_path / "pepper")
    desk = Desk(log, peppers, actor="ada")
    keyring = Keyring()
    follower = Follower(keyring, lambda: log)
    gate = Gate(keyring, peppers, view=follower)
    client = Client(log, tmp_path / "spool", source="s")
    first = desk.issue(account="a", owner="o", purpose="p")
    second = desk.rotate(first.key.key_id)
    desk.revoke(second.key.key_id)
    follower.step(0)
    canaries = [first.secret.reveal(), second.secret.reveal()]
    words = [repr(first), str(second), repr(desk.list()), repr(peppers)]

    for secret in canaries:
        for header in (f"Bearer {secret}", f"Bearer {secret}x", f"Bearer {secret}, Bearer {secret}", f"Basic {secret}"):
            verdict: Verdict = gate.check(header)
            words.append(repr(verdict))
            if not verdict.allowed:
                words.append(repr(answer(verdict, now=0)))
        client.record(account="a", operation=f"GET /v1?key={secret}", dimensions={"path": secret, "half": secret[:30]})
        for field in ("account", "key", "subject", "id", "type"):
            with pytest.raises(UsageError, match=r"holds the secret|dt_live_…") as raised:
                client.record(**{field: secret})  # type: ignore[arg-type]
            words += traceback.format_exception(raised.value)
        for wrong in (
            {"units": {"n": secret}},
            {"units": {secret: 1}},
            {"dimensions": {secret: "d"}},
            {"verdict": secret},
        ):
            with pytest.raises(UsageError) as raised:
                client.record(account="a", **wrong)
            words += traceback.format_exception(raised.value)
    on_disk = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    client.close()
    on_disk += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    log.close()

    everything = b"\n".join([*on_disk, held_by(keyring), *(word.encode() for word in words)])
    assert len(on_disk) > 4
    for secret in canaries:
        # The body alone would do for a thief; the checksum can be computed.
        assert secret[8:40].encode() not in everything
        assert secret[8:30].encode() not in everything
