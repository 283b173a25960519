"""What is documented is there, what is there is documented, and what is shown happens."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml

from doortab.schemas import alerts, catalog, errors, events, keys, meters, periods, topics, wire
from doortab.schemas.log import Record
from doortab.schemas.revocations import Revocation
from tests.docs import preloaded
from tests.docs.console import FILE, Console, play
from tests.docs.pages import DOCS, REPOSITORY, Page, page, pages, reference

ROOMS = ("analytics", "consumers", "producers", "schemas", "doortab")
PLAYED = [p.name for p in pages() if any(b.mark == "run" or b.mark.startswith(FILE) for b in p.blocks)]


def quoted(words: Any) -> str:
    """Words as the reference writes a name."""
    return f"`{words}`"


def missing(names: Any, text: str) -> list[str]:
    """Which of the names the text does not have."""
    return [name for name in names if quoted(name) not in text]


@cache
def all_calls() -> list[tuple[str, ast.Call]]:
    """Every call in the product, with the name of the function or method that is called."""
    paths = (path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py"))
    nodes = (node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return [
        (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""), node)
        for node in nodes
        if isinstance(node, ast.Call)
    ]


def calls(*names: str) -> Iterator[ast.Call]:
    """The calls of one of these names."""
    return (node for name, node in all_calls() if name in names)


def texts(nodes: Iterator[ast.Call], place: int) -> set[str]:
    """The text constants that stand in that place of the calls."""
    arguments = (node.args[place] for node in nodes if len(node.args) > place)
    return {arg.value for arg in arguments if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}


# ------------------------------------------------------------------------------ what is there is documented


def test_every_setting_stands_in_the_reference_with_its_variable_and_default() -> None:
    from doortab.settings import PREFIX, Settings

    rows = {row[0]: row for row in reference("settings").rows()}

    for name, field in Settings.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        assert quoted(name) in rows, f"setting {name} is not in settings.md"
        assert rows[quoted(name)][1] == quoted(PREFIX + name.upper())
        assert rows[quoted(name)][2] == (quoted(default) if default else "empty")


def test_every_setting_in_the_reference_is_there() -> None:
    from doortab.settings import Settings

    documented = {row[0].strip("`") for row in reference("settings").rows() if row[1].startswith("`DOORTAB_")}

    assert documented == set(Settings.model_fields)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its full name."""
    from doortab.cli import app

    waiting: list[tuple[str, Any]] = [("doortab", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        below = getattr(command, "commands", {})
        waiting += [(f"{name} {word}", child) for word, child in below.items()]
        if not below:
            yield name, command


def test_every_command_and_option_stands_in_the_reference() -> None:
    found = reference("commands")

    for name, command in commands():
        section = found.section(quoted(name))
        for parameter in command.params:
            words = [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []
            inherited = {"--help", "-h"}
            assert missing([word for word in words if word not in inherited], section) == [], f"{name} in commands.md"


def test_every_option_of_all_commands_stands_in_the_reference() -> None:
    from doortab.cli import app

    whole = typer.main.get_command(app)
    words = [word for parameter in whole.params for word in parameter.opts]

    assert missing(words, reference("commands").text) == []


def test_every_command_in_the_reference_is_there() -> None:
    names = {name for name, _ in commands()}

    documented = {
        word
        for heading in reference("commands").headings(3)
        for word in heading.split("`")
        if word.startswith("doortab")
    }

    assert documented == names


def test_every_exit_code_stands_in_the_reference() -> None:
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DoortabError)
    }

    documented = {row[0] for row in reference("commands").rows() if row[0].isdigit()}

    assert documented == {"0", *map(str, codes)}


def test_every_topic_stands_in_the_reference_as_it_is_made() -> None:
    rows = {row[0]: row for row in reference("topics").rows()}

    for topic in topics.topics():
        row = rows[quoted(topic.name)]
        assert row[1].split()[0] == str(topic.partitions)
        assert row[4] == ("compacted" if topic.compacted else "")
        assert topic.retention_ms == topics.FOREVER_MS, "topics.md says that all are kept for ever"


def test_every_state_of_a_key_stands_in_the_reference() -> None:
    rows = {row[0] for row in reference("topics").rows()}

    assert {quoted(state) for state in keys.TRANSITIONS if state != "unknown"} <= rows


def test_every_field_of_a_revocation_stands_in_its_example() -> None:
    (example,) = [block for block in reference("topics").blocks if block.language == "json"]

    assert missing([], example.text) == []
    assert [name for name in Revocation.__struct_fields__ if f'"{name}"' not in example.text] == []


@pytest.mark.parametrize(
    ("heading", "entry"),
    [
        ("`[[meters]]`", catalog.MeterEntry),
        ("`[[plans]]`", catalog.Plan),
        ("`[[plans.charges]]`", catalog.Charge),
        ("`[[plans.charges]]`", catalog.TierEntry),
        ("`[[accounts]]`", catalog.Account),
        ("`[[caps]]`", catalog.CapEntry),
    ],
)
def test_every_field_of_the_catalog_stands_in_the_reference(heading: str, entry: Any) -> None:
    assert missing(entry.model_fields, reference("catalog").section(heading)) == []


def test_every_part_of_the_catalog_stands_in_the_reference() -> None:
    text = reference("catalog").text

    assert [
        name for name in catalog.Catalog.model_fields if f"[[{name}]]" not in text and quoted(name) not in text
    ] == []


def test_every_aggregation_stands_in_the_reference_with_whether_it_can_be_charged() -> None:
    rows = {row[0]: row for row in reference("catalog").rows() if len(row) == 3}

    for aggregation in meters.AGGREGATIONS:
        assert rows[quoted(aggregation)][2] == ("yes" if aggregation in meters.ADDITIVE else "no")


def test_every_charge_model_operator_and_period_stands_in_the_reference() -> None:
    found = reference("catalog")
    capped = get_args(catalog.CapEntry.model_fields["period"].annotation)
    models = get_args(catalog.Charge.model_fields["model"].annotation)

    assert missing(models, found.section("`[[plans.charges]]`")) == []
    assert [row[0] for row in found.rows() if row[0].strip("`") in models] == [quoted(model) for model in models]
    assert missing(meters.OPERATORS, found.section("Conditions")) == []
    assert missing(capped, found.section("`[[caps]]`")) == []
    assert missing(periods.KINDS, reference("commands").section("`doortab report`") + quoted("total")) == []


def test_every_heading_of_a_report_stands_in_the_reference() -> None:
    from doortab.analytics.report import FIELDS, METER, TIMES

    assert missing([*FIELDS, *TIMES, METER], reference("commands").section("`doortab report`")) == []


def test_every_field_of_an_event_stands_in_the_reference() -> None:
    found = reference("events")

    assert missing(events.Event.__struct_fields__, found.section("The envelope")) == []
    assert missing(events.Usage.__struct_fields__, found.section("The data of")) == []


def test_every_reason_of_refusal_stands_in_the_reference() -> None:
    reasons = get_args(events.Reason)

    assert [row[0] for row in reference("events").rows() if row[0].strip("`") in reasons] == list(map(quoted, reasons))


def test_every_refusal_stands_in_the_reference_with_what_http_answers() -> None:
    from doortab.producers.problem import KINDS

    rows = {row[0]: row for row in reference("http").rows()}

    assert {reason: rows[quoted(reason)][1:3] for reason in get_args(events.Reason)} == {
        reason: [str(kind.status), quoted(kind.type)] for reason, kind in KINDS.items()
    }


def test_every_reason_of_rejection_has_a_heading_and_no_other_has_one() -> None:
    reasons = texts(calls("Unreadable"), 0) | texts(calls("Rejected"), 4)

    assert {heading.strip("`") for heading in reference("rejections").headings(3)} == reasons


def test_every_alert_and_rule_stands_in_the_reference() -> None:
    from doortab.analytics.alerts import RULES

    found = reference("alerts")

    assert missing(get_args(alerts.AlertKind), found.text) == []
    assert {heading.strip("`") for heading in found.headings(3)} == {rule.name for rule in RULES}


def test_every_argument_of_gate_and_middleware_stands_where_it_is_shown() -> None:
    from doortab.asgi import Meter
    from doortab.embed import Gate

    found = page("docs/how-to/meter-a-service.md")
    arguments = [*inspect.signature(Gate.open).parameters, *inspect.signature(Meter).parameters]

    assert missing([name for name in arguments if name not in ("app", "opening")], found.text) == []


def test_every_question_stands_in_the_reference() -> None:
    from doortab.questions import QUESTIONS

    assert missing(QUESTIONS, reference("http").section("Questions")) == []


def test_every_route_stands_in_the_reference_and_no_other() -> None:
    routes = {
        path for path in texts(calls("get", "post", "put", "patch", "delete", "api_route"), 0) if path.startswith("/")
    }

    documented = {word.split()[-1].strip("`") for row in reference("http").rows() for word in row[:1] if "/" in word}

    assert documented == routes


def test_every_metric_stands_in_the_reference() -> None:
    names = texts(calls("CounterMetricFamily", "GaugeMetricFamily", "HistogramMetricFamily"), 0)

    assert names
    assert [name for name in names if f"`{name}" not in reference("http").section("Metrics")] == []


def test_every_table_column_and_export_stands_in_the_reference() -> None:
    from doortab.analytics.exports import _PLAIN
    from doortab.analytics.tables import FORMAT, TABLES

    found = reference("store")
    others = {row[0]: row[-1] for row in found.rows()}

    assert f"<!-- store format -->{FORMAT}." in found.text
    for table, columns in TABLES.items():
        where = found.section("`usage`") if table == "usage" else others[quoted(table)]
        assert missing(columns, where) == [], f"table {table} in store.md"
    assert missing(["usage.csv", *(export.name for export in _PLAIN)], found.section("canonical exports")) == []


# --------------------------------------------------------------------------------- what is shown happens


def test_every_example_of_an_event_is_one() -> None:
    shown = [
        block.text
        for found in pages()
        for block in found.blocks
        if block.language == "json" and '"specversion"' in block.text
    ]

    decoded = wire.decode(
        [Record("usage", 0, at, 1_795_000_000_000, None, text.encode()) for at, text in enumerate(shown)]
    )

    assert shown
    assert [(r.reason, r.detail, shown[r.offset]) for r in decoded.rejected] == []


def test_every_example_of_a_rejection_is_rejected_for_that_reason() -> None:
    marked = [block for block in reference("rejections").blocks if block.mark.startswith("rejected: ")]

    for block in marked:
        decoded = wire.decode([Record("usage", 0, 0, 1_795_000_000_000, None, block.text.encode())])
        assert [r.reason for r in decoded.rejected] == [block.mark.removeprefix("rejected: ")], block.text


def test_every_example_of_a_catalog_is_one() -> None:
    shown = [block.text for found in pages() for block in found.blocks if block.language == "toml"]
    shown.append((REPOSITORY / "examples" / "catalog.toml").read_text(encoding="utf-8"))

    parsed = [catalog.parse(text) for text in shown if "[[" in text]

    assert all(found.plans or found.caps for found in parsed)


def test_every_example_in_python_compiles() -> None:
    for found in pages():
        for block in found.blocks:
            if block.language == "python":
                compile(block.text, f"{found.name}:{block.line}", "exec")


@pytest.fixture(scope="module")
def bin_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a ``doortab`` that starts quickly."""
    directory = tmp_path_factory.mktemp("bin")
    place = directory / "socket"
    preloaded.write_command(directory, place)
    words = [sys.executable, "-m", "tests.docs.preloaded", str(place)]
    with subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield directory
        server.kill()


@pytest.mark.parametrize("name", PLAYED)
def test_what_a_page_shows_happens(name: str, tmp_path: Path, bin_directory: Path) -> None:
    console = Console(tmp_path, bin_directory)
    try:
        wrong = play(page(name), console)
    finally:
        console.close()

    assert wrong == [], "\n".join(wrong)


# ------------------------------------------------------------------------------------ what is named is there


def broken_links(found: Page) -> Iterator[str]:
    """The relative links of a page that lead nowhere."""
    for link in found.links:
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (found.path.parent / path).resolve() if path else found.path
        if not target.exists() or (anchor and anchor not in page(target.relative_to(REPOSITORY).as_posix()).anchors):
            yield link


def test_every_relative_link_leads_somewhere() -> None:
    assert {found.name: broken for found in pages() if (broken := list(broken_links(found)))} == {}


def test_the_navigation_has_every_page_once() -> None:
    def listed(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for below in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from listed(below)

    navigation = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]

    assert sorted(listed(navigation)) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {(found.name, word) for found in pages() for word in re.findall(r"`make ([a-z-]+)", found.text)}

    assert {(where, word) for where, word in named if word not in targets} == set()


def test_every_test_that_is_named_as_a_proof_is_there() -> None:
    named = {(found.name, path) for found in pages() for path in re.findall(r"tests/[\w/]+\.py", found.text)}

    assert {(where, path) for where, path in named if not (REPOSITORY / path).exists()} == set()
