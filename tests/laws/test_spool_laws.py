from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from doortab.producers import frames
from doortab.producers.backlog import Backlog, Losses, Position
from doortab.producers.claims import claim_new
from doortab.producers.frames import FRAME_BYTES, HEADER_BYTES, MARKER, frame, header, take
from doortab.producers.spool import SMALLEST_SEGMENT_BYTES, Spool

# Markers and beginnings of frames inside payloads are what could lead a reader astray.
payloads = st.lists(
    st.binary(min_size=1, max_size=60)
    | st.just(MARKER)
    | st.binary(max_size=20).map(lambda tail: frame(b"inner", 0) + tail)
    | st.integers(1, 3000).map(lambda n: b"x" * n),
    max_size=12,
)


def content_of(found: list[bytes], before: bytes = b"") -> bytes:
    """A segment with these payloads."""
    content = header(1) + before
    for payload in found:
        content += frame(payload, len(content))
    return content


def backlog_of(directory: Path, segments: list[bytes]) -> Backlog:
    for number, content in enumerate(segments, start=1):
        (directory / f"{number:010d}.segment").write_bytes(content)
    return Backlog(directory, Losses())


def drain(backlog: Backlog) -> list[bytes]:
    found: list[bytes] = []
    while (batch := backlog.peek()) is not None:
        found += batch.payloads
        backlog.ack(batch.end)
    return found


@given(payloads, st.data())
def test_whatever_is_cut_off_exactly_the_whole_frames_are_recovered(found: list[bytes], data: st.DataObject) -> None:
    content = content_of(found)
    cut = data.draw(st.integers(0, len(content)))
    whole = [p for number, p in enumerate(found) if HEADER_BYTES + sum(map(_size, found[: number + 1])) <= cut]

    with tempfile.TemporaryDirectory() as directory:
        backlog = backlog_of(Path(directory), [content[:cut]])

        assert drain(backlog) == whole
        rest = max(0, cut - HEADER_BYTES - sum(map(_size, whole)))
        assert (backlog.losses.torn_bytes, backlog.losses.damaged_bytes) == (rest, 0)
        backlog.close()


def _size(payload: bytes) -> int:
    return FRAME_BYTES + len(payload)


@given(payloads, st.data())
def test_a_changed_byte_costs_one_frame_and_is_counted(found: list[bytes], data: st.DataObject) -> None:
    content = bytearray(content_of(found))
    if len(content) == HEADER_BYTES:
        return
    place = data.draw(st.integers(HEADER_BYTES, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    hit, end = 0, HEADER_BYTES
    for number, payload in enumerate(found):
        end += _size(payload)
        if place < end:
            hit = number
            break

    with tempfile.TemporaryDirectory() as directory:
        backlog = backlog_of(Path(directory), [bytes(content)])

        assert drain(backlog) == found[:hit] + found[hit + 1 :]
        assert backlog.losses.damaged_bytes + backlog.losses.torn_bytes > 0
        backlog.close()


@given(payloads, st.binary(max_size=200), st.binary(max_size=200))
def test_rubbish_before_and_after_takes_no_frame_with_it(found: list[bytes], before: bytes, after: bytes) -> None:
    content = content_of(found, before) + after

    with tempfile.TemporaryDirectory() as directory:
        backlog = backlog_of(Path(directory), [content])

        assert drain(backlog) == found
        assert backlog.losses.damaged_bytes + backlog.losses.torn_bytes == len(before) + len(after)
        backlog.close()


@given(payloads, st.integers(FRAME_BYTES + 3100, FRAME_BYTES + 6000))
def test_frames_are_the_same_in_whatever_chunks_they_are_read(found: list[bytes], chunk_bytes: int) -> None:
    content = content_of(found)
    recovered: list[bytes] = []
    place = HEADER_BYTES
    while place < len(content):
        taken = take(content[place : place + chunk_bytes], place, at_end=place + chunk_bytes >= len(content))
        assert taken.consumed_bytes > 0
        recovered += taken.payloads
        place += taken.consumed_bytes

    assert recovered == found


@given(st.binary(max_size=2000), st.booleans())
def test_reading_rubbish_always_gets_to_its_end(rubbish: bytes, at_end: bool) -> None:
    chunk = rubbish + b"\x00" * (frames.MAX_PAYLOAD_BYTES + 100)

    taken = take(chunk, 0, at_end)

    assert taken.consumed_bytes > 0
    if at_end:
        assert taken.consumed_bytes == len(chunk)


@given(st.lists(st.integers(1, 700), max_size=60), st.lists(st.booleans(), max_size=80))
def test_what_is_appended_is_peeked_once_in_order_and_nothing_is_left_behind(
    sizes: list[int], turns: list[bool]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        spool = Spool(claim_new(root, "one"), Losses(), max_bytes=4 * SMALLEST_SEGMENT_BYTES * 8, sync_seconds=60)
        waiting = [number.to_bytes(2, "big") * size for number, size in enumerate(sizes)]
        expected = list(waiting)
        found: list[bytes] = []
        for is_append in turns:
            if is_append and waiting:
                spool.append(waiting.pop(0))
            elif (batch := spool.peek()) is not None:
                found += batch.payloads
                spool.ack(batch.end)
        for payload in waiting:
            spool.append(payload)
        found += drain(spool)

        assert found == expected
        assert spool.waiting_bytes == 0
        assert spool.used_bytes == spool.disk_bytes == sum(p.stat().st_size for p in root.glob("*/*.segment"))
        spool.close()
        assert list(root.iterdir()) == []


@given(st.integers(0, 40), st.integers(0, 40))
def test_after_a_crash_nothing_that_was_not_acknowledged_is_missing(appended: int, shipped: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        held = claim_new(root, "one")
        spool = Spool(held, Losses(), max_bytes=1 << 20, sync_seconds=60)
        spool._segment_bytes = 200  # several segments
        everything = [b"%d" % number * 9 for number in range(appended)]
        for payload in everything:
            spool.append(payload)
        acknowledged: list[bytes] = []
        while len(acknowledged) < min(shipped, appended) and (batch := spool.peek()) is not None:
            acknowledged += batch.payloads
            spool.ack(batch.end)

        again = Backlog(held.directory, Losses())
        rest = drain(again)

        assert acknowledged + rest == everything
        again.close()
        spool.close()


def test_a_position_file_that_is_damaged_means_that_everything_comes_again(tmp_path: Path) -> None:
    content = content_of([b"a", b"b"])
    for acked in (b"", b"x" * 20, os.urandom(20)):
        (tmp_path / "acked").write_bytes(acked)

        backlog = backlog_of(tmp_path, [content])

        assert backlog.acked == Position(1, HEADER_BYTES)
        batch = backlog.peek()
        assert batch is not None
        assert batch.payloads == [b"a", b"b"]
        backlog.close()
