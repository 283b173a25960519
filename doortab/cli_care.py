"""The commands that look after an installation: is it whole, and what mends it."""

from __future__ import annotations

from typing import Annotated

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
            typer.echo(f"{finding['part']:9} {finding['state']:5} {finding['words']}")
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
    as_json: Json = False,
) -> None:
    """Build the store anew from the log, compare it with the old one, and put it in its place."""
    from doortab.cli import settings_of
    from doortab.cli_output import Progress
    from doortab.rebuilding import rebuild as run

    progress = Progress()
    told = run(settings_of(context), lambda events: progress("stored", events))
    progress.done()
    if as_json:
        emit(told)
        return
    for name, digest in told["exports"].items():
        before = told["exports_before"].get(name)
        verdict = "new" if before is None else "same" if before == digest else "DIFFERS from before"
        typer.echo(f"{name:14} sha256 {digest}  {verdict}")
    say(f"rebuilt {told['events']:,} events in {told['seconds']} s; the old store is {told['kept'] or 'nowhere'}")


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
