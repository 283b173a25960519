"""The house around the code: what ships, what a file may be, what must not stand anywhere."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("analytics", "consumers", "producers", "schemas")
LOCKS = ("requirements.lock", "requirements-run.lock")

LINES_OF_A_MODULE = 400
LINES_OF_A_FUNCTION = 60
HOMELESS = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}

# A service that embeds the gate must not load what only the ledger needs.
HEAVY = (
    "apscheduler",
    "duckdb",
    "fastapi",
    "kafka",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "pydantic_core",
    "typer",
)

# Where binary fractions may be made, and why no money comes near. Path -> reason.
FLOATS_ALLOWED: dict[str, str] = {}


# ---------------------------------------------------------------------------------- what git knows


def git(*words: str) -> list[str]:
    """What a git command lists, whoever owns the checkout."""
    command = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY), *words, "-z"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line for line in out.split("\0") if line]


@cache
def tracked() -> dict[str, str]:
    """Path -> mode of every file that is committed and still there."""
    rows = (line.split("\t", 1) for line in git("ls-files", "--stage"))
    return {path: about.split()[0] for about, path in rows if os.path.lexists(REPOSITORY / path)}


def text_of(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def sources() -> list[str]:
    """Every Python file, once: where it stands, not where a link shows it."""
    return [path for path, mode in tracked().items() if path.endswith(".py") and mode != "120000"]


def product() -> list[str]:
    """The Python files that ship."""
    return [path for path in sources() if path.split("/")[0] in (*ROOMS, "doortab")]


@cache
def tree_of(path: str) -> ast.Module:
    return ast.parse(text_of(path), path)


# ------------------------------------------------------------------------------------- what ships


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, built offline from what is committed and nothing else."""
    base = tmp_path_factory.mktemp("wheel")
    for path in tracked():
        if path.split("/")[0] in (*ROOMS, "doortab", "pyproject.toml", "README.md", "LICENSE"):
            (base / "src" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / path, base / "src" / path, follow_symlinks=False)
    words = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(base), "./src"]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, cwd=base)
    (built,) = base.glob("doortab-*.whl")
    return built


def test_the_wheel_holds_exactly_what_git_tracks_in_the_rooms(wheel: Path) -> None:
    tracked_files = {
        path if path.startswith("doortab/") else f"doortab/{path}"
        for path, mode in tracked().items()
        if path.split("/")[0] in (*ROOMS, "doortab") and mode != "120000"
    }

    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert shipped - tracked_files == set(), "ships, but is not committed"
    assert tracked_files - shipped == set(), "is committed, but does not ship: see package-data in pyproject.toml"


def test_the_installed_wheel_finds_its_rooms_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = f"import importlib\nfor room in {ROOMS}: print(importlib.import_module('doortab.' + room).__file__)"

    places = run_python(program, cwd=tmp_path).split()

    assert places == [str(tmp_path / "doortab" / room / "__init__.py") for room in ROOMS]


def test_the_rooms_are_flat_and_every_package_is_named_in_pyproject() -> None:
    named = tomllib.loads(text_of("pyproject.toml"))["tool"]["setuptools"]["package-dir"]

    folders = {str(Path(path).parent) for path in product()}

    assert folders - set(named.values()) == set()


def test_the_rooms_are_linked_where_python_sees_them() -> None:
    # A clone without symbolic links has small files in their place that hold the target.
    links = {
        path: os.readlink(full) if (full := REPOSITORY / path).is_symlink() else full.read_text(encoding="utf-8")
        for path, mode in tracked().items()
        if mode == "120000"
    }

    assert links == {f"doortab/{room}": f"../{room}" for room in ROOMS}


def run_python(program: str, cwd: Path) -> str:
    """What a fresh interpreter prints that sees ``cwd`` first and no variable of this test run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_embedding_the_gate_loads_neither_the_store_nor_the_reports() -> None:
    program = (
        "import sys, doortab\n"
        "from doortab import Client, Gate\n"
        f"print(*sorted({set(HEAVY)!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )

    loaded = run_python(program, cwd=REPOSITORY).split()

    assert loaded == []


# ------------------------------------------------------------------------------- what a file may be


def imports_of(path: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every absolute import in a file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


def test_nobody_imports_a_room_by_its_plain_name() -> None:
    found = [
        f"{path}:{line} imports {name}"
        for path in sources()
        for line, name in imports_of(path)
        if name.split(".")[0] in ROOMS
    ]

    assert found == []


def test_a_room_imports_itself_and_the_words_and_nothing_else_of_ours() -> None:
    found = [
        f"{path}:{line} imports {name}"
        for path in product()
        if (room := "log" if path.startswith("doortab/log/") else path.split("/")[0]) != "doortab"
        for line, name in imports_of(path)
        if name.split(".")[0] == "doortab" and [*name.split("."), ""][1] not in {room, "schemas"}
    ]

    assert found == []


def test_a_module_fits_in_four_hundred_lines() -> None:
    found = {path: lines for path in product() if (lines := text_of(path).count("\n")) > LINES_OF_A_MODULE}

    assert found == {}


def lines_of_function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How long a function is, its docstring not counted."""
    first = node.body[0]
    docstring = ast.get_docstring(node) is not None and first.end_lineno is not None
    explained = (first.end_lineno or first.lineno) - first.lineno + 1 if docstring else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - explained


def test_a_function_fits_on_one_screen() -> None:
    found = {
        f"{path}:{node.lineno} {node.name}": lines
        for path in product()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := lines_of_function(node)) > LINES_OF_A_FUNCTION
    }

    assert found == {}


def test_no_module_is_a_drawer_for_homeless_functions() -> None:
    found = [path for path in sources() if HOMELESS & set(Path(path).stem.strip("_").split("_"))]

    assert found == []


def float_makers(path: str) -> Iterator[str]:
    """Where a file turns something into binary fractions: ``float(x)``, ``.df()``, ``.fetchdf()``."""
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "float":
            yield f"{path}:{node.lineno} float("
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"df", "fetchdf", "fetch_df"}:
            yield f"{path}:{node.lineno} .{node.func.attr}()"


@pytest.mark.promises("R18")
def test_money_never_becomes_a_binary_fraction() -> None:
    rooms = [path for path in product() if path.split("/")[0] in ROOMS]

    found = [place for path in rooms if path not in FLOATS_ALLOWED for place in float_makers(path)]

    assert found == []


def test_an_exception_to_the_float_rule_is_still_needed() -> None:
    assert [path for path in FLOATS_ALLOWED if path not in tracked() or not list(float_makers(path))] == []


# ----------------------------------------------------------------------- what must not stand anywhere


def test_nothing_that_git_ignores_is_committed() -> None:
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard") == []


def test_no_file_names_a_package_registry() -> None:
    # Built from parts, so that this file passes its own test.
    hosts = [
        ".".join(parts).encode()
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("anaconda", "org"),
            ("npmjs", "org"),
            ("npmjs", "com"),
            ("yarnpkg", "com"),
            ("maven", "apache", "org"),
            ("maven", "org"),
            ("crates", "io"),
            ("proxy", "golang", "org"),
            ("docker", "io"),
            ("ghcr", "io"),
            ("quay", "io"),
            ("jfrog", "io"),
        )
    ]

    found = [
        f"{path}: {host.decode()}"
        for path, mode in tracked().items()
        if mode != "120000"
        for host in hosts
        if host in (REPOSITORY / path).read_bytes()
    ]

    assert found == []


# --------------------------------------------------------------------------------------- the lock


def locked(path: str) -> dict[str, list[str]]:
    """Requirement -> hashes, as a lock file has them."""
    entries: dict[str, list[str]] = {}
    for line in text_of(path).replace("\\\n", " ").splitlines():
        words = line.split("#")[0]
        if words.strip():
            requirement, *hashes = words.split("--hash=")
            entries[requirement.strip()] = [digest.strip() for digest in hashes]
    return entries


@pytest.mark.parametrize("path", LOCKS)
def test_every_locked_package_has_one_version_and_its_hashes(path: str) -> None:
    entries = locked(path)

    assert entries
    for requirement, hashes in entries.items():
        assert re.match(r"^[a-z0-9._-]+==[^ ]+( ; .+)?$", requirement), requirement
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), requirement


@pytest.mark.parametrize("path", LOCKS)
def test_the_lock_leaves_open_where_packages_come_from(path: str) -> None:
    text = text_of(path)

    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b", text, re.MULTILINE)


def test_what_runs_has_the_versions_that_were_tested() -> None:
    tested, runs = (
        {entry.split(" ;")[0]: hashes for entry, hashes in locked(path).items()}  # the markers may be wider here
        for path in LOCKS
    )

    assert {name for name, hashes in runs.items() if tested.get(name) != hashes} == set()


def test_the_lock_fulfils_what_pyproject_asks_for() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    wanted = [
        *project["dependencies"],
        *(word for extra in project["optional-dependencies"].values() for word in extra),
    ]
    versions: dict[str, list[Version]] = {}
    for entry in map(Requirement, locked("requirements.lock")):
        versions.setdefault(entry.name, []).append(Version(str(entry.specifier).removeprefix("==")))

    missing = [
        str(one)
        for one in map(Requirement, wanted)
        if one.name != "doortab"
        and not (one.name in versions and all(one.specifier.contains(version) for version in versions[one.name]))
    ]

    assert missing == [], "run `make lock`"


def test_ci_can_be_started() -> None:
    assert tracked()[".ci/run"] == "100755"
