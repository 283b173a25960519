"""The trail: the last commit, kept outside of the store, survives whatever cuts it short."""

from __future__ import annotations

from pathlib import Path

from doortab.analytics.trail import SLOT, Head, Line, Trail


def head(batch: int) -> Head:
    return Head(store="s", batch=batch, committed=batch * 10, next={0: batch, 3: 2 * batch})


def test_the_last_commit_that_was_marked_is_read(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    assert trail.head() is None

    for batch in range(1, 8):
        trail.mark(head(batch))
        found = Trail(tmp_path).head()
        assert found is not None
        assert (found.batch, found.committed, found.next) == (batch, batch * 10, {0: batch, 3: 2 * batch})
    trail.close()

    after = Trail(tmp_path)
    after.mark(head(2))
    found = after.head()
    assert found is not None
    assert found.batch == 2
    after.close()


def test_a_mark_that_is_cut_short_or_spoilt_leaves_the_one_before(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    trail.mark(head(1))
    trail.mark(head(2))
    trail.close()
    held = (tmp_path / "head").read_bytes()
    newest = 0 if b'"batch":2' in held[:SLOT] else SLOT

    for at in range(newest, newest + 60):
        (tmp_path / "head").write_bytes(held[:at] + b"\x00" + held[at + 1 :])
        found = trail.head()
        assert found is not None
        assert found.batch == (1 if held[at] else 2)


def test_a_line_that_is_cut_short_hides_no_other(tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    trail.add(Line(what="finding", at=1, store="s", kind="rolled_back"))
    path = tmp_path / "trail.jsonl"
    path.write_bytes(path.read_bytes() + b'{"what":"finding","at":2,"sto')
    trail.add(Line(what="finding", at=3, store="s", kind="replaced", parts={2: (5, 9)}))

    assert [line.at for line in trail.open_findings()] == [1, 3]
    assert trail.open_findings()[1].parts == {2: (5, 9)}
    trail.add(Line(what="accepted", at=4, store="t"))
    assert trail.open_findings() == []
    assert trail.awaited() == "t"
    trail.add(Line(what="opened", at=5, store="t"))
    assert trail.awaited() is None
