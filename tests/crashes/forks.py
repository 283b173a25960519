"""Child processes that start in milliseconds: everything is imported once, and each child is a fork.

For programs of their own (``python -m tests.crashes.…``), which have no threads when they fork. A child ends
with its parent, whatever happens to either.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

SET_PARENT_DEATH_SIGNAL = 1
SET_TRACER = 0x59616D61
ANY_TRACER = ctypes.c_ulong(-1)
ATTACH_SECONDS = 20.0
HUNG = -99
"""The status of a child that had to be killed because it did not end."""

_c = ctypes.CDLL(None, use_errno=True)


def forked(work: Callable[[], None]) -> int:
    """Runs the work in a child process and returns its id."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        _c.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() == parent:
            work()
            code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException as error:
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        print(f"{where}{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def reap(process: int, seconds: float = 120.0) -> int:
    """Waits for the process; its exit status, negative where a signal ended it. One that hangs is killed: ``HUNG``."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return HUNG
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def done(work: Callable[[], None], seconds: float = 120.0) -> int:
    """Runs the work in a child process and waits for it; its exit status."""
    return reap(forked(work), seconds)


def told(work: Callable[[], str], seconds: float = 120.0) -> str:
    """What the work returned, done in a child process; or how the child ended, if it did not return."""
    reading, writing = os.pipe()

    def say() -> None:
        os.close(reading)
        with os.fdopen(writing, "w") as answer:
            answer.write("said:" + work())

    child = forked(say)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    status = reap(child, seconds)
    return said.removeprefix("said:") if said.startswith("said:") else f"the child ended with {status}"


def traced(work: Callable[[], None], words: Sequence[str], output: Path, seconds: float = 120.0) -> int:
    """Runs the work in a child that strace has been attached to, with these options; its exit status.

    Raises:
        PermissionError: processes may not be traced here.
    """

    def wait_and_work() -> None:
        _c.prctl(SET_TRACER, ANY_TRACER, 0, 0, 0)
        deadline = time.monotonic() + ATTACH_SECONDS
        while _tracer_of_this() == 0:
            if time.monotonic() > deadline:
                os._exit(98)
            time.sleep(0.0005)
        work()

    child = forked(wait_and_work)
    command = ["strace", "-f", "-qq", "-o", str(output), *words, "-p", str(child)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as strace:
        status = reap(child, seconds)
        assert strace.stderr is not None
        said = strace.stderr.read().decode()
    if status == 98 or "Operation not permitted" in said:
        raise PermissionError(f"processes may not be traced here: {said.strip()}")
    return status


def _tracer_of_this() -> int:
    with open("/proc/self/status", "rb") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(b"TracerPid:"))
