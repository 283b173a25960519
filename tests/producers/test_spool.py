from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from doortab.producers.appending import append_bytes
from doortab.producers.backlog import Backlog, Losses
from doortab.producers.claims import claim_new, claim_orphans
from doortab.producers.frames import FRAME_BYTES, HEADER_BYTES, MAGIC
from doortab.producers.spool import SMALLEST_SEGMENT_BYTES, Spool
from doortab.producers.syncer import Syncer, Work
from doortab.schemas.errors import SpoolFull, UsageError
from tests.laws.test_spool_laws import content_of, drain

LITTLE = 4 * SMALLEST_SEGMENT_BYTES


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(claim_new(tmp_path, "one"), Losses(), max_bytes=LITTLE)
    yield spool
    spool.close()


def fill(spool: Spool, payload: bytes = b"x" * 500) -> int:
    for count in range(1_000_000):
        try:
            spool.append(payload)
        except SpoolFull:
            return count
    raise AssertionError("the spool has no bound")


def test_the_bound_is_kept_on_disk_and_room_comes_back_with_acknowledgement(spool: Spool, tmp_path: Path) -> None:
    count = fill(spool)
    with pytest.raises(SpoolFull, match="bring the log back, or allow more"):
        spool.append(b"x" * 500)

    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*/*.segment"))
    assert LITTLE - 600 < on_disk <= LITTLE
    assert not spool.has_room(500)
    assert len(drain(spool)) == count
    assert spool.has_room(500)
    assert fill(spool) >= count - 1


def test_what_orphans_occupy_counts_too(spool: Spool) -> None:
    spool.foreign_bytes = LITTLE - 100

    with pytest.raises(SpoolFull):
        spool.append(b"x" * 200)

    spool.foreign_bytes = 0
    spool.append(b"x" * 200)


def test_a_payload_that_no_frame_can_hold_is_refused(spool: Spool) -> None:
    for payload in (b"", b"x" * 300_001):
        with pytest.raises(UsageError, match="1 to 300000"):
            spool.append(payload)


def test_a_bound_without_room_for_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds nothing"):
        Spool(claim_new(tmp_path, "one"), Losses(), max_bytes=1000)


def test_nothing_is_appended_after_closing(spool: Spool) -> None:
    spool.close()

    with pytest.raises(UsageError, match="closed"):
        spool.append(b"x")


def test_what_was_not_acknowledged_stays_after_closing(tmp_path: Path) -> None:
    spool = Spool(claim_new(tmp_path, "one"), Losses(), max_bytes=LITTLE)
    spool.append(b"kept")
    spool.close()

    (orphan,) = claim_orphans(tmp_path)
    backlog = Backlog(orphan.directory, Losses())
    assert drain(backlog) == [b"kept"]
    backlog.remove()
    orphan.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_spool_in_use_is_no_orphan_even_for_the_same_process(spool: Spool, tmp_path: Path) -> None:
    spool.append(b"x")

    assert list(claim_orphans(tmp_path)) == []


def test_a_directory_that_was_never_finished_is_cleared_away_once_it_is_old(tmp_path: Path) -> None:
    for name in ("with", "without"):
        (tmp_path / f".new-{name}").mkdir()
    (tmp_path / ".new-with" / "lock").touch()
    assert list(claim_orphans(tmp_path)) == []
    assert len(list(tmp_path.iterdir())) == 2, "its process may just be about to lock it"

    for directory in tmp_path.iterdir():
        os.utime(directory, (0, 0))

    assert list(claim_orphans(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def claim_and_count(root: Path) -> int:
    count = 0
    for orphan in claim_orphans(root):
        backlog = Backlog(orphan.directory, Losses())
        count += len(drain(backlog))
        backlog.remove()
        orphan.remove()
    return count


def test_a_directory_whose_process_died_while_deleting_it_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "1-ab").mkdir()
    (tmp_path / "2-cd").mkdir()
    (tmp_path / "2-cd" / "somebody's").touch()

    assert list(claim_orphans(tmp_path)) == []

    assert [path.name for path in tmp_path.iterdir()] == ["2-cd"]


def test_an_orphan_is_claimed_by_one_process_only(tmp_path: Path) -> None:
    for number in range(40):
        spool = Spool(claim_new(tmp_path, f"s{number}"), Losses(), max_bytes=LITTLE)
        for _ in range(3):
            spool.append(b"x")
        spool.close()

    with multiprocessing.get_context("spawn").Pool(4) as pool:
        counts = pool.map(claim_and_count, [tmp_path] * 8, chunksize=1)

    assert sum(counts) == 120
    assert list(tmp_path.iterdir()) == []


def test_a_segment_of_a_newer_version_is_refused_in_words(tmp_path: Path) -> None:
    newer = MAGIC + bytes([2]) + bytes(8)
    (tmp_path / "0000000001.segment").write_bytes(newer + b"x")

    with pytest.raises(UsageError, match=r"spool format 2, this doortab reads up to 1; start the newer doortab"):
        Backlog(tmp_path, Losses())


def test_a_damaged_segment_gives_the_rest_and_is_put_aside(tmp_path: Path) -> None:
    directory = tmp_path / "dead"
    directory.mkdir()
    content = bytearray(content_of([b"first", b"second", b"third"]))
    content[content.index(b"second")] ^= 1
    (directory / "0000000001.segment").write_bytes(content)
    (directory / "0000000002.segment").write_bytes(b"\x00" * HEADER_BYTES + content_of([b"fourth"])[HEADER_BYTES:])
    losses = Losses()
    backlog = Backlog(directory, losses)

    assert drain(backlog) == [b"first", b"third", b"fourth"]
    backlog.remove()

    assert (losses.damaged_places, losses.damaged_bytes) == (2, FRAME_BYTES + len(b"second") + HEADER_BYTES)
    aside = {path.name for path in (tmp_path / "damaged").iterdir()}
    assert aside == {"dead-0000000001.segment", "dead-0000000002.segment"}


def test_a_segment_that_disappears_is_counted_and_the_next_goes_on(spool: Spool) -> None:
    spool.append(b"lost")
    spool.segments[0].path.unlink()

    assert drain(spool) == []
    spool.append(b"next")

    assert drain(spool) == [b"next"]
    assert spool.losses.damaged_bytes == FRAME_BYTES + len(b"lost")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_is_a_full_spool_and_recovers(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    spool.append(b"before")
    real = append_bytes

    def fail(file: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("doortab.producers.spool.append_bytes", fail)
    for _ in range(3):
        with pytest.raises(SpoolFull, match=os.strerror(code)):
            spool.append(b"during")
    assert not spool.has_room(1)

    monkeypatch.setattr("doortab.producers.spool.append_bytes", real)
    spool.append(b"after")

    assert spool.has_room(1)
    assert drain(spool) == [b"before", b"after"]
    assert spool.losses == Losses()


def test_on_a_full_disk_what_the_log_has_makes_room(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = append_bytes

    def write(file: int, data: bytes) -> int:
        if os.fstat(file).st_size + len(data) > 3000:  # room for six
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data)

    monkeypatch.setattr("doortab.producers.spool.append_bytes", write)
    for number in range(50):
        if not number % 6:
            drain(spool)
        spool.append(b"%03d" % number * 150)

    with pytest.raises(SpoolFull, match="No space left"):
        spool.append(b"x" * 2500)
    assert drain(spool)[-1] == b"049" * 150
    spool.append(b"x" * 2500)
    assert drain(spool) == [b"x" * 2500]


@pytest.mark.parametrize("can_cut", [True, False])
def test_half_a_frame_is_taken_back_or_left_behind(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, can_cut: bool
) -> None:
    spool.append(b"before")
    real_write, real_cut = append_bytes, os.ftruncate

    def cut(file: int, size: int) -> None:
        if not can_cut:
            raise OSError(errno.EIO, "no")
        real_cut(file, size)

    monkeypatch.setattr(
        "doortab.producers.spool.append_bytes", lambda file, data: real_write(file, data[: len(data) // 2])
    )
    monkeypatch.setattr(os, "ftruncate", cut)
    with pytest.raises(SpoolFull, match="No space left"):
        spool.append(b"during")
    monkeypatch.setattr("doortab.producers.spool.append_bytes", real_write)
    spool.append(b"after")

    assert drain(spool) == [b"before", b"after"]


def write_until_full(root: Path, results: multiprocessing.SimpleQueue[tuple[int, int, bool]]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    spool = Spool(claim_new(root, "one"), Losses(), max_bytes=1 << 30)
    written = refused = 0
    for _ in range(200):
        try:
            spool.append(b"x" * 300)
            written += 1
        except SpoolFull:
            refused += 1
    found = len(drain(spool))
    results.put((written, refused, found == written))


def test_a_file_size_limit_of_the_system_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[tuple[int, int, bool]] = context.SimpleQueue()
    child = context.Process(target=write_until_full, args=(tmp_path, results))
    child.start()
    child.join()

    written, refused, is_complete = results.get()

    assert is_complete
    assert written + refused == 200
    assert refused > 0


def test_durable_waits_for_the_disk_and_many_share_one_sync(tmp_path: Path) -> None:
    synced = []

    def slow(file: int) -> None:
        synced.append(file)
        time.sleep(0.05)

    spool = Spool(claim_new(tmp_path, "one"), Losses(), max_bytes=LITTLE, fdatasync=slow)
    threads = [threading.Thread(target=spool.append, args=(b"x", True)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)

    assert not any(thread.is_alive() for thread in threads)
    assert 1 <= len(synced) <= 6
    spool.close()


def test_whoever_waits_for_a_disk_that_fails_is_told(tmp_path: Path) -> None:
    failing = [True]

    def sync(file: int) -> None:
        if failing[0]:
            raise OSError(errno.EIO, "no")

    spool = Spool(claim_new(tmp_path, "one"), Losses(), max_bytes=LITTLE, fdatasync=sync)
    with pytest.raises(SpoolFull, match="not synced"):
        spool.append(b"first", durable=True)
    failing[0] = False
    spool.append(b"second", durable=True)

    assert spool.syncer.failures == 1
    assert len(spool.segments) == 2, "what comes after a failed sync goes to another file"
    assert drain(spool) == [b"first", b"second"]
    spool.close()


def syncer(works: list[bool]) -> Syncer:
    """One whose syncs succeed or fail in this order."""

    def sync(file: int) -> None:
        if not works.pop(0):
            raise OSError(errno.EIO, "no")

    return Syncer(threading.Lock(), lambda: Work([0], [], []), lambda: None, 0.02, sync)


@pytest.mark.parametrize("later", [[False], [True, False], [True, True, False, True]])
def test_whoever_looks_late_is_told_of_the_sync_that_failed_all_the_same(later: list[bool]) -> None:
    one = syncer([False, *later])
    for _ in (False, *later):
        one.appended += 3
        one._sync()

    with pytest.raises(SpoolFull, match="not synced"):
        one.wait_for(2)
    for number, works in enumerate(later, 1):
        with nullcontext() if works else pytest.raises(SpoolFull, match="not synced"):
            one.wait_for(3 * number + 1)


def test_a_disk_that_fails_now_and_then_for_years_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doortab.producers.syncer.MAX_RANGES", 4)
    one = syncer([number % 2 == 0 for number in range(100)])
    for _ in range(100):
        one.appended += 1
        one._sync()

    assert len(one._not_synced) == 4
    for number in (2, 50, 98, 100):
        with pytest.raises(SpoolFull, match="not synced"):
            one.wait_for(number)
    one.wait_for(99)


def test_what_the_log_has_already_is_not_synced(tmp_path: Path) -> None:
    synced: list[int] = []
    spool = Spool(claim_new(tmp_path, "one"), Losses(), max_bytes=LITTLE, fdatasync=synced.append, sync_seconds=0.1)
    spool.append(b"x")
    drain(spool)
    time.sleep(0.3)

    assert synced == []
    spool.append(b"y")
    time.sleep(0.3)
    assert len(synced) == 1
    spool.close()


def test_threads_append_whole_frames(spool: Spool) -> None:
    spool.max_bytes = 1 << 30

    def append(number: int) -> None:
        for count in range(500):
            spool.append(f"{number}:{count}".encode())

    threads = [threading.Thread(target=append, args=(number,)) for number in range(8)]
    found: list[bytes] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += drain(spool)
    found += drain(spool)

    assert len(found) == spool.appended == 4000
    for number in range(8):
        mine = [text for text in found if text.startswith(b"%d:" % number)]
        assert mine == [f"{number}:{count}".encode() for count in range(500)]
    assert spool.losses == Losses()
