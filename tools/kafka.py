"""A real Apache Kafka on this machine, without Docker: Java 17, Maven, one heap, one directory each.

    python tools/kafka.py start [--port 9092] [--dir .kafka] [--count 1]
    python tools/kafka.py status
    python tools/kafka.py stop [--wipe]

``start`` fetches the jars once (through Maven, into .kafka/libs), formats the storage, and returns when the
broker answers; a broker that runs already is left as it is. ``stop`` ends exactly the process that ``start``
began. Brokers with other ``--dir`` or ``--port`` are other brokers. Tests use ``Broker`` directly.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# Run as a script, Python puts this directory first, and `import kafka` would find this very file.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

HOME = Path(__file__).resolve().parent.parent / ".kafka"
HOST = "127.0.0.1"
KAFKA = "4.3.0"
READY_SECONDS = 90.0
SESSION_MS = 4000
"""So long a killed broker counts as alive, and is kept from coming back; Kafka's own 9 s are for real networks."""
STOP_SECONDS = 30.0

POM = f"""<?xml version="1.0" encoding="UTF-8"?>
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>doortab</groupId>
  <artifactId>kafka-libs</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""

PROPERTIES = """process.roles={roles}
node.id={node}
controller.quorum.bootstrap.servers={host}:{controller}
listeners={listeners}
advertised.listeners={advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map={protocols}
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms={session_ms}
"""


class Failed(Exception):
    """Something did not work; the message says what to look at."""


def libraries() -> Path:
    """The jars, fetched once per checkout.

    Raises:
        Failed: Maven or Java is missing, or Maven could not fetch.
    """
    libs = HOME / "libs"
    HOME.mkdir(parents=True, exist_ok=True)
    with open(HOME / "libs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may start several brokers at once
        if (libs / f"kafka_2.13-{KAFKA}.jar").exists():
            return libs
        for program in ("java", "mvn"):
            if shutil.which(program) is None:
                raise Failed(f"{program} is not installed; Debian: apt-get install openjdk-17-jre-headless maven")
        fresh = HOME / "libs.new"
        shutil.rmtree(fresh, ignore_errors=True)
        pom = HOME / "pom.xml"
        pom.write_text(POM)
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fresh}"]
        print(f"fetching Apache Kafka {KAFKA} through Maven (44 MB, once)", file=sys.stderr)
        if subprocess.run(["mvn", "-q", "-B", "-f", str(pom), *goal], stdout=sys.stderr).returncode:
            raise Failed("Maven could not fetch the jars; its words stand above")
        shutil.rmtree(libs, ignore_errors=True)
        fresh.rename(libs)  # only whole: an interrupted fetch leaves nothing that looks ready
    return libs


class Door(NamedTuple):
    """One more way into a broker: where it listens, and which port it tells its clients to use."""

    name: str
    port: int
    advertised_port: int
    protocol: str = "PLAINTEXT"


class Broker:
    """One broker process with its directory. With ``controller`` of another broker it joins that one's cluster.

    ``doors`` are further listeners, ``more`` further lines of server.properties.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        node: int = 1,
        controller: Broker | None = None,
        *,
        doors: Sequence[Door] = (),
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.resolve()
        self.port = port
        self.node = node
        self.controller = controller
        self.doors = doors
        self.more = more or {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"{HOST}:{self.port}"

    @property
    def controller_port(self) -> int:
        """Where the cluster's controller listens: next to its broker."""
        return self.controller.controller_port if self.controller else self.port + 1

    def start(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Starts it, unless it runs, and returns when it answers.

        Raises:
            Failed: it ended, or did not answer in time; the message names its output file.
        """
        if self.pid() is None:
            self._check_free()
            libs = libraries()
            self._format(libs)
            self._launch(libs)
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            if self.pid() is None:
                raise Failed(f"the broker ended at once; its last words: {self._last_words()}")
            if time.monotonic() > deadline:
                raise Failed(f"the broker did not answer within {timeout_seconds:.0f} s; see {self._output}")
            time.sleep(0.2)

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """A controlled shutdown; killed if that takes too long. Returns when the process has ended."""
        if not self._end(signal.SIGTERM, timeout_seconds):
            self.kill()

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        if not self._end(signal.SIGKILL, STOP_SECONDS):
            raise Failed(f"process {self.pid()} does not end")

    def pause(self) -> None:
        """SIGSTOP: the sockets stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Deletes the directory of a stopped broker, with everything in its topics."""
        if self.pid() is not None:
            raise Failed("it runs; stop it first")
        shutil.rmtree(self.directory, ignore_errors=True)

    def pid(self) -> int | None:
        """The running process, if it is still the one that was started here; else None."""
        if self.process is not None:
            if self.process.poll() is None:
                return self.process.pid
            self.process = None  # reaped
        try:
            number = int((self.directory / "pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return number if str(self._properties) in _command_of(number) else None

    def is_ready(self) -> bool:
        """Whether it answers; with kafka-python at hand a question about the cluster, else an open port."""
        if not _listens(self.port):
            return False
        try:
            from kafka import KafkaAdminClient
            from kafka.errors import KafkaError
        except ImportError:
            return True
        try:
            admin = KafkaAdminClient(bootstrap_servers=[self.address], bootstrap_timeout_ms=2000)
        except KafkaError:
            return False
        try:
            brokers = admin.describe_cluster()["brokers"]
            return any(broker["broker_id"] == self.node and not broker.get("is_fenced") for broker in brokers)
        except KafkaError:
            return False
        finally:
            admin.close()

    @property
    def _properties(self) -> Path:
        return self.directory / "server.properties"

    @property
    def _output(self) -> Path:
        return self.directory / "output.log"

    def _last_words(self) -> str:
        return " | ".join(self._output.read_text(errors="replace").splitlines()[-5:])

    def _check_free(self) -> None:
        """Somebody else's broker would answer for ours, and the tests would use that one."""
        ports = [self.port, *(door.port for door in self.doors)]
        for port in [*ports, self.controller_port] if self.controller is None else ports:
            if _listens(port):
                raise Failed(
                    f"another program listens at {HOST}:{port}; take other ports: --port N, make BROKER=HOST:N"
                )

    def _format(self, libs: Path) -> None:
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        self._properties.write_text(self._settings())
        if (self.directory / "data" / "meta.properties").exists():
            return
        whose = "--no-initial-controllers" if self.controller else "--standalone"
        cluster = self.controller.cluster_id() if self.controller else _java(libs, "random-uuid").split()[-1]
        _java(libs, "format", whose, "--ignore-formatted", "-t", cluster, "-c", str(self._properties))

    def _settings(self) -> str:
        listeners = [f"PLAINTEXT://{self.address}"]
        if self.controller is None:
            listeners.append(f"CONTROLLER://{HOST}:{self.controller_port}")
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT"}
        protocols |= {door.name: door.protocol for door in self.doors}
        text = PROPERTIES.format(
            roles="broker" if self.controller else "broker,controller",
            node=self.node,
            host=HOST,
            controller=self.controller_port,
            listeners=",".join([*listeners, *(f"{door.name}://{HOST}:{door.port}" for door in self.doors)]),
            advertised=",".join([*listeners, *(f"{d.name}://{HOST}:{d.advertised_port}" for d in self.doors)]),
            protocols=",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            data=self.directory / "data",
            session_ms=SESSION_MS,
        )
        return text + "".join(f"{name}={value}\n" for name, value in self.more.items())

    def cluster_id(self) -> str:
        """Of the formatted storage."""
        lines = (self.directory / "data" / "meta.properties").read_text().splitlines()
        return next(line.partition("=")[2] for line in lines if line.startswith("cluster.id="))

    def _launch(self, libs: Path) -> None:
        command = ["java", "-Xms256m", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        command += ["-cp", f"{libs}/*", "kafka.Kafka", str(self._properties)]
        with open(self._output, "wb") as output:
            # A session of its own, so that Ctrl-C at the terminal does not reach it.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        (self.directory / "pid").write_text(str(self.process.pid))

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid is None:
            raise Failed(f"no broker of {self.directory} runs")
        os.kill(pid, number)

    def _end(self, number: signal.Signals, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        pid = self.pid()
        if pid is not None:
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)  # a paused process does not hear SIGTERM
        while self.pid() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        (self.directory / "pid").unlink(missing_ok=True)
        return True


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _command_of(pid: int) -> str:
    """The command line of a process; nothing when it has ended (a number may be given to another process later)."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    return subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout


def _java(libs: Path, *words: str) -> str:
    command = ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{libs}/*", "kafka.tools.StorageTool"]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"formatting the storage failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def cluster(directory: Path, port: int, count: int) -> list[Broker]:
    """``count`` brokers of one cluster at ``port``, ``port`` + 2, …; the first is the controller too (``port`` + 1)."""
    first = Broker(directory / f"broker-{port}", port)
    others = range(1, count)
    return [first, *(Broker(directory / f"broker-{port + 2 * n}", port + 2 * n, 1 + n, first) for n in others)]


def main(words: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tools/kafka.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["start", "stop", "status"])
    parser.add_argument("--dir", type=Path, default=HOME, help="where the brokers live (default: .kafka)")
    parser.add_argument("--port", type=int, default=9092, help="of the first broker; its controller takes the next")
    parser.add_argument("--count", type=int, default=1, help="brokers of the cluster, at every other port")
    parser.add_argument("--wipe", action="store_true", help="with stop: delete what the brokers hold")
    asked = parser.parse_args(words)
    brokers = cluster(asked.dir, asked.port, asked.count)
    try:
        for broker in brokers if asked.command == "start" else reversed(brokers):
            if asked.command == "start":
                broker.start()
            elif asked.command == "stop":
                broker.stop()
                if asked.wipe:
                    broker.wipe()
            print(f"{broker.address} {'runs, pid ' + str(broker.pid()) if broker.pid() else 'is stopped'}")
    except Failed as error:
        print(f"tools/kafka.py: {error}", file=sys.stderr)
        return 1
    return 0 if asked.command != "status" or all(broker.pid() for broker in brokers) else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
