"""Runs what the documentation shows, and compares what it prints."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.docs.pages import REPOSITORY, Block, Page

MARK = "\x01"
FILE = "file: "
PORT = "8700"
"""What pages listen on. Here it is another port each time, so that two runs do not meet."""


class Shown(NamedTuple):
    """A command, what the page shows of its output, and the line it stands in."""

    line: int
    command: str
    output: str


def shown_in(block: Block) -> Iterator[Shown]:
    """The commands of a console block: after ``$``, continued after ``>``."""
    line, command, output = 0, "", ""
    for number, text in enumerate(block.text.splitlines()):
        if text.startswith("$ "):
            if command:
                yield Shown(line, command, output)
            line, command, output = block.line + number + 1, text[2:], ""
        elif text.startswith("> ") and not output:
            command += "\n" + text[2:]
        else:
            output += text.rstrip() + "\n"
    if command:
        yield Shown(line, command, output)


def matches(shown: str, printed: str) -> bool:
    """Whether the output is as shown."""
    lines = [
        r"(?:[^\n]*\n)*?" if line == "…" else re.escape(line).replace("…", r"[^\n]*") + r"\n"
        for line in shown.splitlines()
    ]
    told = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    return re.fullmatch("".join(lines), told) is not None


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


class Console:
    """One shell in one directory, for the blocks of one page."""

    def __init__(self, directory: Path, bin_directory: Path) -> None:
        self.directory = directory
        shutil.copytree(REPOSITORY / "examples", directory / "examples")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOORTAB_", "PYTHON"))}
        self.environment = kept | {
            "PATH": f"{bin_directory}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
            "USER": "dana",
            "LOGNAME": "dana",
        }
        self._port = free_port()
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """The exit code of a command, and what it printed."""
        code, printed = self._run(command.replace(PORT, self._port))
        return code, printed.replace(self._port, PORT)

    def _run(self, command: str) -> tuple[int, str]:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\n__code=$?; printf '{MARK}%s\\n' $__code; (exit $__code)\n")
        self._shell.stdin.flush()
        printed = ""
        for line in self._shell.stdout:
            before, mark, code = line.partition(MARK)
            printed += before
            if mark:
                return int(code), printed
        raise AssertionError(f"the shell ended in {command!r} after printing {printed!r}")

    def close(self) -> None:
        """Ends the shell and what it left running in the background."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write("kill $(jobs -p) 2>/dev/null; wait\n")
        self._shell.stdin.close()
        try:
            self._shell.wait(15)
        finally:
            self._shell.kill()
            self._shell.stdout.close()


def play(page: Page, console: Console) -> list[str]:
    """Does everything that is marked on a page; what differs from what is shown, a text each."""
    wrong: list[str] = []
    for block in page.blocks:
        if block.mark.startswith(FILE):
            (console.directory / block.mark.removeprefix(FILE)).write_text(block.text, encoding="utf-8")
        elif block.mark == "run" and block.language == "python":
            wrong += _run_python(page, block, console)
        elif block.mark == "run":
            assert block.language == "console", f"{page.name}:{block.line}: what runs is console or python"
            wrong += _run_console(page, block, console)
    return wrong


def _run_python(page: Page, block: Block, console: Console) -> Iterator[str]:
    program = console.directory / ".example.py"
    program.write_text(block.text, encoding="utf-8")
    code, printed = console.run(f"python {program.name}")
    if code or printed:
        yield f"{page.name}:{block.line}: the example ends with {code}\n{printed}"


def _run_console(page: Page, block: Block, console: Console) -> Iterator[str]:
    code = 0
    for shown in shown_in(block):
        if code and not shown.command.startswith("echo $?"):
            yield f"{page.name}:{shown.line}: the command before failed with {code}; show it with 'echo $?'"
        code, printed = console.run(shown.command)
        if not matches(shown.output, printed):
            yield f"{page.name}:{shown.line}: $ {shown.command}\nshown:\n{shown.output}\nprinted:\n{printed}"
    if code:
        yield f"{page.name}:{block.line}: the last command failed with {code}; show it with 'echo $?'"
