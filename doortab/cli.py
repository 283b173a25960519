"""The commands. Data goes to standard output, words to standard error.

Everything heavy is imported where it is used: ``--help`` loads nothing of it.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from doortab import cli_care, cli_keys
from doortab.cli_output import Json, emit, say

if TYPE_CHECKING:
    from doortab.settings import Loaded, Settings

app = typer.Typer(
    help="Who used it, may they go on, and what do they owe?",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_care.app)


@app.callback()
def common(
    context: typer.Context,
    data: Annotated[str | None, typer.Option(help="Directory where everything of one machine lives.")] = None,
    log: Annotated[str | None, typer.Option(help="file:DIR or kafka://host:port[,host:port].")] = None,
) -> None:
    """Flags that every command takes; they stand over DOORTAB_DATA and DOORTAB_LOG."""
    context.obj = {"data": data, "log": log}


def loaded(context: typer.Context, **flags: Any) -> Loaded:
    """The settings in force, and where each came from."""
    from doortab.settings import load

    return load({**context.obj, **flags})


def settings_of(context: typer.Context, **flags: Any) -> Settings:
    """The settings in force."""
    return loaded(context, **flags).settings


@app.command()
def up(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
) -> None:
    """Run everything in one process: ledger, reports, alerts and a gate over HTTP.

    doortab up --port 8600
    """
    from doortab.wiring import run

    run(settings_of(context, host=host, port=port), ledger=True, gate=True, say=say)


@app.command()
def ledger(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
) -> None:
    """Run the ledger: the owner of the store, with reports, alerts and snapshots."""
    from doortab.wiring import run

    run(settings_of(context, host=host, port=port), ledger=True, gate=False, say=say)


@app.command()
def gate(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
) -> None:
    """Run a gate over HTTP: check, forward-auth and ingest. Services in Python embed one instead."""
    from doortab.wiring import run

    run(settings_of(context, host=host, port=port), ledger=False, gate=True, say=say)


@app.command()
def demo(
    context: typer.Context,
    seconds: Annotated[int, typer.Option(help="How long the show takes.", min=10)] = 60,
    seed: Annotated[int, typer.Option(help="The same seed shows the same traffic.")] = 1,
) -> None:
    """Watch a metered, capped and billed API at work, for about a minute."""
    from pathlib import Path
    from tempfile import mkdtemp

    from doortab.demo import run
    from doortab.interrupting import told

    directory = Path(context.obj["data"] or mkdtemp(prefix="doortab-demo-"))
    with told(lambda: f"the show was stopped; what it has made is in {directory}, and nothing else needs it"):
        run(seconds, seed, directory)


@app.command()
def apply(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Catalog in TOML: meters, plans, accounts, caps. - is standard input.")],
    dry_run: Annotated[bool, typer.Option(help="Check and compare only.")] = False,
    as_json: Json = False,
) -> None:
    """Check a catalog whole, print what it changes, and publish it.

    doortab apply catalog.toml
    """
    from doortab import applying

    changes = applying.apply(settings_of(context), file, dry_run)
    if as_json:
        emit({"changes": changes, "published": bool(changes) and not dry_run})
        return
    for change in changes:
        typer.echo(change)
    if not changes:
        say("nothing changes")
    elif dry_run:
        say(f"{len(changes)} changes; not published (--dry-run)")
    else:
        say(f"published, {len(changes)} changes; next: doortab ingest FILE, or doortab report")


@app.command()
def ingest(
    context: typer.Context,
    files: Annotated[
        list[str], typer.Argument(help="NDJSON or a JSON array of CloudEvents, .gz too. - is standard input.")
    ],
    as_json: Json = False,
) -> None:
    """Read usage events from files; returns when all of them are in the store.

    doortab ingest events.ndjson.gz
    """
    from doortab.asking import asked
    from doortab.cli_output import Progress
    from doortab.ingest import ingest as run
    from doortab.ingest import stopped
    from doortab.interrupting import told

    progress = Progress()
    with told(lambda: stopped(progress.done())), asked(settings_of(context)) as ledger:
        counts = run(ledger, files, progress)
    progress.done()
    if as_json:
        emit(counts._asdict())
        return
    read, accepted, duplicates, rejected = counts
    typer.echo(f"read {read:,} · accepted {accepted:,} · duplicates {duplicates:,} · rejected {rejected:,}")
    if rejected:
        say("see why: doortab rejected")


@app.command()
def report(
    context: typer.Context,
    period: Annotated[
        str | None, typer.Argument(help="2026, 2026-03, 2026-03-10 or FROM..TO; default this month.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="account, key, day, hour, month, meter, operation, dimensions.NAME, …")
    ] = "account,key",
    form: Annotated[str | None, typer.Option("--format", help="table (default), json, csv or parquet.")] = None,
    as_json: Json = False,
    timezone: Annotated[str | None, typer.Option(help="Zone of the period and of days; default the plan's.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File to write instead of standard output.")
    ] = None,
) -> None:
    """Usage and money of a period, with the control equation.

    doortab report 2026-03 --by account,day
    """
    from doortab.asking import asked
    from doortab.reporting import form_of, write

    chosen = form_of(form, as_json, output)
    with asked(settings_of(context)) as ledger:
        told = ledger.ask(
            "report", period=period, by=[b.strip() for b in by.split(",") if b.strip()], timezone=timezone
        )
    write(told, chosen, output)


@app.command()
def caps(
    context: typer.Context,
    reached: Annotated[bool, typer.Option(help="Only caps that are reached.")] = False,
    as_json: Json = False,
) -> None:
    """What each cap's subject has used of it."""
    from doortab.asking import asked
    from doortab.cli_output import table

    with asked(settings_of(context)) as ledger:
        rows = ledger.ask("caps", reached=reached)["rows"]
    if as_json:
        emit({"rows": rows})
    else:
        table(rows, ("subject", "cap", "from", "used", "limit", "percent", "reached", "hard"))


@app.command()
def rejected(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=1_000_000)] = 100,
    as_json: Json = False,
) -> None:
    """What could not be billed, and why."""
    from doortab.asking import asked
    from doortab.cli_output import table

    with asked(settings_of(context)) as ledger:
        told = ledger.ask("rejected", limit=limit)
    if as_json:
        emit(told)
    else:
        table(told["rows"], ("topic", "partition", "offset", "index", "reason", "detail"))


@app.command()
def config(
    context: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Also say where each value came from.")] = False,
    as_json: Json = False,
) -> None:
    """The settings in force."""
    found = loaded(context)
    values = json.loads(found.settings.model_dump_json())
    if values["webhook_secret"]:
        values["webhook_secret"] = "(set)"
    if as_json:
        emit({name: {"value": value, "origin": found.origins[name]} for name, value in values.items()})
        return
    for name, value in values.items():
        typer.echo(f"{name} = {json.dumps(value)}" + (f"   # {found.origins[name]}" if origin else ""))


alerts_app = typer.Typer(help="Alerts: spikes, thresholds, caps.", no_args_is_help=True)
app.add_typer(alerts_app, name="alerts")


@alerts_app.command("list")
def alerts_list(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help="Only threshold, cap, spike, unattributed or drift.")] = None,
    as_json: Json = False,
) -> None:
    """Every alert, oldest first."""
    from doortab.alerting import alerts_in
    from doortab.asking import asked
    from doortab.schemas.alerts import KINDS
    from doortab.schemas.errors import UsageError

    if kind is not None and kind not in KINDS:
        raise UsageError(f"--kind {kind!r} is not one of {', '.join(KINDS)}")
    with asked(settings_of(context)) as ledger:
        ledger.ask("status")
        found = [alert for alert in alerts_in(ledger.log) if kind is None or alert["kind"] == kind]
    if as_json:
        emit({"rows": found})
        return
    for alert in found:
        typer.echo(f"{alert['at']}  {alert['severity']:8} {alert['text']}")


@alerts_app.command("test")
def alerts_test(context: typer.Context) -> None:
    """Send a test alert through every channel that is set up."""
    from doortab.alerting import send_test

    for line in send_test(settings_of(context)):
        typer.echo(line)


if __name__ == "__main__":
    sys.exit("run it as: doortab, or python -m doortab")
