"""A ``doortab`` that starts in milliseconds, so that every command in the documentation can run.

A process loads the program once and forks for each call. The command that stands in the PATH is a few
lines that hand over arguments, directory, environment and the three streams, and wait for the exit code:
everything else is as in a process of its own.

    python -m tests.docs.preloaded SOCKET
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import signal
import socket
import sys
import traceback
import warnings
from pathlib import Path

COMMAND = """\
#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
server.sendall(asked)
answers = server.makefile()
worker = int(answers.readline())
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(worker, number))
sys.exit(int(answers.readline() or 1))
"""

CURL = """\
#!{python} -I
import sys, time, urllib.error, urllib.request
words, headers, urls = sys.argv[1:], {{}}, []
while words:
    word = words.pop(0)
    if word == "-H":
        name, _, value = words.pop(0).partition(": ")
        headers[name] = value
    elif word == "--retry":
        words.pop(0)
    elif not word.startswith("-"):
        urls.append(word)
for _ in range(100):
    try:
        answer = urllib.request.urlopen(urllib.request.Request(urls[0], headers=headers))
    except urllib.error.HTTPError as refused:
        answer = refused
    except urllib.error.URLError:
        time.sleep(0.2)
        continue
    sys.exit(print(answer.read().decode(), end=""))
"""
"""Enough of curl for the pages, where there is none."""


def write_command(directory: Path, socket_path: Path) -> None:
    """Writes the command that calls the server at that socket, and what else a page needs that is missing here."""
    commands = {"doortab": COMMAND.format(python=sys.executable, path=str(socket_path))}
    if shutil.which("curl") is None:
        commands["curl"] = CURL.format(python=sys.executable)
    for name, text in commands.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)


def serve(path: str) -> None:
    """Answers calls until it is killed."""
    _load()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        call, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(call)
        call.close()


def _load() -> None:
    """Imports all of doortab; what cannot be imported is left to the call that needs it."""
    import doortab

    names = [module.name for module in pkgutil.walk_packages(doortab.__path__, "doortab.")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # What is imported where it is used, and takes the longest.
        for name in [*names, "rich.box", "rich.console", "rich.live", "rich.table", "pyarrow.parquet"]:
            try:
                importlib.import_module(name)
            except ImportError:
                continue


def _answer(call: socket.socket) -> None:
    code = 1
    try:
        head, streams, _, _ = socket.recv_fds(call, 4, 3)
        asked = b""
        while len(asked) < int.from_bytes(head, "big"):
            asked += call.recv(65_536)
        arguments, directory, environment = json.loads(asked)
        call.sendall(f"{os.getpid()}\n".encode())
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["doortab", *arguments]
        from doortab.__main__ import run

        code = run(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        call.sendall(f"{code}\n".encode())
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
