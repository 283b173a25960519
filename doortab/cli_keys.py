"""The commands ``doortab keys``: issue, list, show, rotate, revoke."""

from __future__ import annotations

import getpass
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doortab.cli_output import Json, emit, say, shown, table

if TYPE_CHECKING:
    from doortab.producers.desk import Desk, Issued
    from doortab.schemas.keys import Key
    from doortab.schemas.log import Log

app = typer.Typer(help="Keys: issue, list, show, rotate, revoke.", no_args_is_help=True)

CAP = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Z]{3})?/(hour|day|week|month|total)\Z")
Cap = tuple[str, str | None, str]
"""Amount, currency and period of a cap."""

COLUMNS = ("key_id", "account", "owner", "purpose", "environment", "status", "scopes", "hint", "created_at")


@contextmanager
def _desk(context: typer.Context) -> Iterator[tuple[Desk, Log]]:
    from doortab.log.open import open_log
    from doortab.producers.desk import Desk
    from doortab.producers.pepper import load_or_create
    from doortab.schemas.topics import topics
    from doortab.settings import load

    settings = load(context.obj).settings
    log = open_log(settings.log_url)
    try:
        log.ensure_topics(topics(settings.usage_partitions))
        # Read, and made, only for a secret: what lists or ends keys works without it.
        yield Desk(log, lambda used: load_or_create(settings.pepper_path, used=used), actor=getpass.getuser()), log
    finally:
        log.close()


@app.command()
def issue(
    context: typer.Context,
    account: Annotated[str, typer.Option("--account", "--owner-account", help="Who is billed.")],
    owner: Annotated[
        str | None, typer.Option(help="The person, app or agent that holds it; default the account.")
    ] = None,
    purpose: Annotated[str, typer.Option(help="What it is for.")] = "unspecified",
    environment: Annotated[str, typer.Option(help="live or test.")] = "live",
    scope: Annotated[list[str] | None, typer.Option(help="What it may do; repeat for several.")] = None,
    cap: Annotated[str | None, typer.Option(help="The most it may spend, such as 25.00USD/month.")] = None,
    uncapped: Annotated[bool, typer.Option(help="Issue it without any cap; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it needs no cap.")] = None,
    expires: Annotated[str | None, typer.Option(help="When it expires, such as 2027-01-01T00:00:00Z.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its secret is shown once, and stored nowhere.

    doortab keys issue --account acme --scope chat:write --cap 25.00USD/month
    """
    from doortab.capping import check_capped, check_currency
    from doortab.handing import handing_over
    from doortab.schemas.errors import UsageError

    if uncapped and cap is not None:
        raise UsageError(f"--uncapped and --cap {cap} contradict each other; leave one out")
    wanted = None if cap is None else _cap(cap)
    with handing_over() as made:
        with _desk(context) as (desk, log):
            if wanted is None:
                check_capped(log, account, uncapped=uncapped, reason=reason)
            else:
                check_currency(log, account, wanted[1])
            issued = desk.issue(
                account=account,
                owner=owner or account,
                purpose=purpose,
                environment=environment,  # type: ignore[arg-type]
                scopes=scope or [],
                expires_at=_instant(expires) if expires else None,
                note=reason,
                before=lambda key: made(_capped(log, key, wanted)),
            )
        _show_secret(issued, cap, as_json)


def _capped(log: Log, key: Key, wanted: Cap | None) -> str:
    """The key's id, with its cap in the catalog before the key is written: the key without it might do harm."""
    from doortab.capping import cap_of, put_cap

    if wanted is not None:
        put_cap(log, cap_of(key.key_id, wanted[0], wanted[2]))
    return key.key_id


def _show_secret(issued: Issued, cap: str | None, as_json: bool) -> None:
    secret = issued.secret.reveal()
    if as_json:
        emit({"secret": secret, "cap": cap} | _row(issued.key))
        return
    typer.echo(secret)
    say(f"key_id {issued.key.key_id} · account {shown(issued.key.account)} · cap {cap or 'as in the catalog'}")
    say("The secret is shown this once. Keep it out of code: put it into the environment or a secrets manager:")
    say(f"  DOORTAB_API_KEY={issued.key.hint}   (your .env file, which Git must ignore)")
    say('try it:   curl -H "Authorization: Bearer $DOORTAB_API_KEY" …')
    say(f"stop it:  doortab keys revoke {issued.key.key_id}")


@app.command("list")
def list_keys(
    context: typer.Context,
    account: Annotated[str | None, typer.Option(help="Only this account's.")] = None,
    as_json: Json = False,
) -> None:
    """Every key, without its secret."""
    with _desk(context) as (desk, _):
        desk.refresh()
        rows = [_row(key) for key in desk.list(account=account)]
    if as_json:
        emit({"rows": rows})
    else:
        table(rows, COLUMNS)


@app.command()
def show(context: typer.Context, key_id: str, as_json: Json = False) -> None:
    """One key, without its secret."""
    with _desk(context) as (desk, _):
        desk.refresh()
        row = _row(desk.show(key_id))
    if as_json:
        emit(row)
        return
    for name, value in row.items():
        typer.echo(f"{name:12} {shown(value)}")


@app.command()
def rotate(
    context: typer.Context,
    key_id: str,
    overlap: Annotated[int, typer.Option(help="Seconds for which the old key works on; 0: none.")] = 86_400,
    as_json: Json = False,
) -> None:
    """Make a key that takes over from this one; the old one works on for the overlap."""
    from doortab.handing import handing_over

    with handing_over() as made:
        with _desk(context) as (desk, _):
            issued = desk.rotate(key_id, overlap_seconds=overlap, before=lambda key: made(key.key_id))
        _show_secret(issued, None, as_json)


@app.command()
def revoke(
    context: typer.Context,
    key_id: str,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    as_json: Json = False,
) -> None:
    """Revoke a key for good: every gate refuses it as soon as it reads of it."""
    with _desk(context) as (desk, _):
        desk.refresh()
        key = desk.revoke(key_id, note=reason)
    if as_json:
        emit(_row(key))
    else:
        typer.echo(f"revoked {key.key_id} of {shown(key.account)}")
        say(f"next: doortab keys issue --account {shown(key.account)}")


def _row(key: Key) -> dict[str, Any]:
    import msgspec

    row: dict[str, Any] = msgspec.to_builtins(key)
    return {name: value for name, value in row.items() if name not in ("digest", "kind")} | {"status": key.status}


def _cap(text: str) -> Cap:
    from doortab.schemas.errors import UsageError

    match = CAP.match(text)
    if match is None:
        raise UsageError(f"cap {text!r} is not one; write 25.00USD/month (hour, day, week, month or total)")
    return match[1], match[2], match[3]


def _instant(text: str) -> int:
    from doortab.schemas import instants
    from doortab.schemas.errors import UsageError

    try:
        return instants.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
