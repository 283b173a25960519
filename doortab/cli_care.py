"""The commands that look after an installation: is it whole, and what mends it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from doortab.cli_output import Json, emit, say

app = typer.Typer()


@app.command()
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Look at store, log, spools and clocks; say what is wrong and which command mends it."""
    from doortab.cli import settings_of
    from doortab.doctor import examine

    findings = examine(settings_of(context))
    if as_json:
        emit({"findings": findings})
    else:
        for finding in findings:
            mends = f"  ->  {finding['mends']}" if "mends" in finding else ""
            typer.echo(f"{finding['part']:9} {finding['state']:5} {finding['words']}{mends}")
    if any(finding["state"] == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command()
def audit(
    context: typer.Context,
    accept: Annotated[
        bool, typer.Option(help="Take the store that is there for the right one, after it was rolled back or replaced.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare the store with what its commits wrote, with the log and with what it was; exit 1 if anything differs."""
    from doortab.asking import asked
    from doortab.cli import settings_of

    with asked(settings_of(context)) as ledger:
        told = ledger.ask("audit", accept=accept)
    if as_json:
        emit(told)
    else:
        for finding in told["findings"]:
            typer.echo(f"{finding['kind']:15} {finding['sentence']}: {finding['repair']}")
        say(f"{told['rows']:,} rows until commit {told['batch']}: {len(told['findings'])} findings")
    if told["findings"]:
        raise typer.Exit(1)


@app.command()
def rebuild(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option(help="Build and compare only; the store stays as it is.")] = False,
    promote: Annotated[bool, typer.Option(help="Go on with what --dry-run has built, and put it in place.")] = False,
    rollback: Annotated[bool, typer.Option(help="Put the store back that was there before.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, whatever differs.")] = False,
    as_json: Json = False,
) -> None:
    """Build the store anew from the log, show what would change, and put it in the place of the old one.

    A running ledger goes on meanwhile, and goes on with the new store afterwards.
    """
    from doortab import rebuilding
    from doortab.cli import settings_of
    from doortab.cli_output import Progress

    if dry_run + promote + rollback > 1:
        raise typer.BadParameter("--dry-run, --promote and --rollback exclude each other")
    settings = settings_of(context)
    if rollback:
        told = rebuilding.back(settings)
        emit(told) if as_json else say(f"{told['store']} is the store again; the one after it is {told['kept']}")
        return
    progress = Progress()
    told = rebuilding.rebuild(settings, lambda events: progress("stored", events), anew=not promote)
    progress.done()
    if not as_json:
        _show_differences(told)
    agreed = yes or as_json or not rebuilding.differs(told) or not sys.stdin.isatty()
    told["promoted"] = not dry_run and (agreed or typer.confirm("put it in the place of the old store?", err=True))
    if told["promoted"]:
        told |= rebuilding.promote(settings)
    if as_json:
        emit(told)
        return
    kept = f"the old store is {told['kept'] or 'nowhere'}" if told["promoted"] else "next: doortab rebuild --promote"
    say(f"rebuilt {told['events']:,} events in {told['seconds']} s; {kept}")


SHOWN = 20


def _show_differences(told: dict[str, Any]) -> None:
    from doortab.cli_output import table

    for name, digest in told["exports"].items():
        before = told["exports_before"].get(name)
        verdict = "new" if before is None else "same" if before == digest else "DIFFERS from before"
        typer.echo(f"{name:14} sha256 {digest}  {verdict}")
    if not told["exact"]:
        say("the log moved on while they were compared: some of the difference is only that")
    if told["missing"]:
        say(f"the log no longer holds what was before (partition: offset {told['missing']}); neither does this store")
    if told["money"]:
        columns = ("account", "month", "events_before", "events", "amount_before", "amount", "currency")
        table(told["money"][:SHOWN], columns)
    for kind, ids in told["decisions"].items():
        for decision in ids[:SHOWN]:
            typer.echo(f"decision {kind}: {decision}")
    more = max(0, len(told["money"]) - SHOWN) + sum(max(0, len(ids) - SHOWN) for ids in told["decisions"].values())
    if more:
        say(f"and {more} more; --json has all")


@app.command()
def export(
    context: typer.Context,
    directory: Annotated[str, typer.Argument(help="Where to write the canonical CSV files.")],
    as_json: Json = False,
) -> None:
    """Write the canonical exports: rows, counters, decisions and rejections, in an order that is always the same."""
    from pathlib import Path

    from doortab.cli import settings_of
    from doortab.ledger import Ledger
    from doortab.rebuilding import export_to

    ledger = Ledger(settings_of(context))
    try:
        ledger.catch_up()
        digests = export_to(ledger, Path(directory))
    finally:
        ledger.close()
    if as_json:
        emit({"exports": digests})
    else:
        for name, digest in digests.items():
            typer.echo(f"{name:14} sha256 {digest}")


@app.command()
def backup(
    context: typer.Context,
    directory: Annotated[str, typer.Argument(help="A new directory for it.")],
    as_json: Json = False,
) -> None:
    """Copy store, positions and catalog as they are at one moment; a running ledger goes on meanwhile.

    doortab backup /backups/2026-11-24
    """
    from pathlib import Path

    from doortab.asking import asked
    from doortab.cli import settings_of

    with asked(settings_of(context)) as ledger:
        told = ledger.ask("backup", directory=str(Path(directory).resolve()))
    if as_json:
        emit(told)
        return
    control = told["control"]
    say(
        f"{int(control['records']):,} events until commit {told['batch']}, {told['bytes']:,} bytes: {told['directory']}"
    )
    say("the log, the pepper and the settings are not in it: they are backed up by other means")


@app.command()
def restore(
    context: typer.Context,
    directory: Annotated[str, typer.Argument(help="What doortab backup wrote.")],
    anyway: Annotated[bool, typer.Option(help="Although the log no longer holds what came after it.")] = False,
    as_json: Json = False,
) -> None:
    """Check a backup and put it in the place of the store, which is kept; the rest comes from the log.

    doortab restore /backups/2026-11-24
    """
    from pathlib import Path

    from doortab.backup import restore as run
    from doortab.cli import settings_of

    told = run(settings_of(context), Path(directory), anyway=anyway)
    if as_json:
        emit(told)
        return
    say(f"the store is that of {told['created']}; {told['waiting']:,} log records after it are read again")
    say(f"the old store is {told['kept'] or 'nowhere'}; doortab rebuild --rollback puts it back")
