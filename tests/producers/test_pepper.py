from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from doortab.producers import pepper
from doortab.schemas.errors import NotFound, UsageError


def test_a_new_pepper_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pepper"

    peppers = pepper.load_or_create(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert pepper.load(path).digest("x") == pepper.load_or_create(path).digest("x") == peppers.digest("x")
    assert [entry.name for entry in path.parent.iterdir()] == ["pepper"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_pepper_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "pepper"
    pepper.load_or_create(path)
    path.chmod(mode)

    with pytest.raises(UsageError, match="chmod 600"):
        pepper.load_or_create(path)


def test_no_pepper_is_made_in_the_place_of_one_that_keys_need(tmp_path: Path) -> None:
    path = tmp_path / "pepper"

    with pytest.raises(UsageError, match="restore pepper p1 from your copy"):
        pepper.load_or_create(path, used={"p1"})
    assert not path.exists()

    made = pepper.load_or_create(path)
    assert pepper.load_or_create(path, used={made.current_id}).ids == made.ids
    with pytest.raises(UsageError, match="restore pepper p1 from your copy"):
        pepper.load_or_create(path, used={made.current_id, "p1"})


def test_after_a_rotation_new_keys_get_the_new_pepper_and_old_ones_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    old = pepper.load_or_create(path)

    new = pepper.rotate(path)

    assert new.current_id != old.current_id
    assert new.digest("x", old.current_id) == old.digest("x")
    assert set(new.digests("x")) == {new.digest("x"), old.digest("x")}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_file_is_not_found_and_not_rotated(tmp_path: Path) -> None:
    for act in (pepper.load, pepper.rotate):
        with pytest.raises(NotFound, match="pepper"):
            act(tmp_path / "pepper")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"current":"p","peppers":{"q":"00"}}', '{"current":"p","peppers":{"p":"c0ffee-not-hex"}}', "\xff"],
)
def test_a_damaged_file_is_refused_without_showing_what_stands_in_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pepper"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)

    with pytest.raises(UsageError, match="not a pepper file") as raised:
        pepper.load_or_create(path)

    assert "c0ffee" not in str(raised.value)
    assert raised.value.__suppress_context__


def create(path: Path) -> bytes:
    return pepper.load_or_create(path).digest("x")


def test_processes_that_start_together_agree_on_one_pepper(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        digests = pool.map(create, [tmp_path / "pepper"] * 64, chunksize=1)

    assert len(set(digests)) == 1
