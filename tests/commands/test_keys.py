"""The commands for keys: what they make, what they refuse, and what they leave behind when something fails."""

from __future__ import annotations

import shutil

from tests.commands.conftest import Doortab

UNCAPPED = ("--account", "acme", "--uncapped", "--reason", "test")


def test_a_lost_pepper_is_asked_back_and_never_replaced_while_a_key_needs_it(doortab: Doortab) -> None:
    key = doortab.json("keys", "issue", *UNCAPPED)
    path, kept = doortab.data / "pepper", doortab.data / "pepper.kept"
    path.rename(kept)

    issued, rotated = doortab.run("keys", "issue", *UNCAPPED), doortab.run("keys", "rotate", key["key_id"])

    for done in (issued, rotated):
        assert done.returncode == 2
        assert f"restore pepper {key['pepper_id']} from your copy".encode() in done.stderr
    assert len(doortab.json("keys", "list")["rows"]) == 1
    assert not path.exists()
    shutil.copy(kept, path)
    doortab.ok("keys", "rotate", key["key_id"])


def test_keys_are_listed_shown_and_revoked_without_a_pepper_and_then_another_may_be_made(doortab: Doortab) -> None:
    key = doortab.json("keys", "issue", *UNCAPPED)
    (doortab.data / "pepper").unlink()

    doortab.ok("keys", "list")
    doortab.ok("keys", "show", key["key_id"])
    doortab.ok("keys", "revoke", key["key_id"])

    assert not (doortab.data / "pepper").exists()
    assert doortab.json("keys", "issue", *UNCAPPED)["pepper_id"] != key["pepper_id"]
