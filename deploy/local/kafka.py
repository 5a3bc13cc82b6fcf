"""Apache Kafka on loopback: one KRaft node, or several that replicate.

Looked for in this order: a running server (`HF_LOCAL_KAFKA=host:port`), a folder of jars
(`HF_LOCAL_KAFKA_JARS`), the distribution whose `kafka-server-start.sh` is on PATH, the cache; then Maven
fetches the jars. A class archive, recorded once, cuts the start from several seconds to about one.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploy.local import cache
from deploy.local.process import Running, Unavailable, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION: Final = "4.3.0"
_SCALA: Final = "2.13"
_MAVEN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_JVM: Final = (
    "-Xms256m",
    "-Xmx256m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
)
_POM: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_{_SCALA}</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""

# Small, quick to start and quick to notice a death; replication of everything internal is 1 on one broker.
_SETTINGS: Final = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "unclean.leader.election.enable": "false",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "1",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "queued.max.requests": "64",
    # At the default, a broker killed and started again waits for its own old session: 13 s.
    "broker.heartbeat.interval.ms": "200",
    "broker.session.timeout.ms": "1000",
    "controller.quorum.election.timeout.ms": "200",
    "controller.quorum.election.backoff.max.ms": "200",
    "controller.quorum.fetch.timeout.ms": "1000",
}

# With three, any one broker may die; nobody is taken for dead because the machine is busy for a moment.
_REPLICATED: Final = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    "broker.session.timeout.ms": "3000",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "2000",
}


def start_kafka(
    directory: Path, port: int = 0, settings: Mapping[str, str] | None = None, *, guarded: bool = True
) -> Running:
    """Return a Kafka that serves on loopback, with data and logs in `directory`.

    `settings` are server properties that go before ours. Not `guarded`, it outlives this process.
    Raises Unavailable.
    """
    return start_brokers(directory, [port], settings, guarded=guarded)[0]


def start_brokers(
    directory: Path,
    ports: Sequence[int],
    settings: Mapping[str, str] | None = None,
    *,
    advertise: str = "127.0.0.1",
    guarded: bool = True,
) -> list[Running]:
    """Return the brokers of one Kafka, one for each port (0: any); from three on, topics have three replicas.

    They listen on 127.0.0.1 and tell everybody, each other included, to find them at `advertise` on the same
    ports. Several are named `kafka-1` and so on, each with a folder of that name. Raises Unavailable.
    """
    if given := os.environ.get("HF_LOCAL_KAFKA"):
        running = Running("kafka", given, lambda: answers(given))
        running.wait_ready(10.0)
        return [running]
    java, jars, archive = find()
    options = [f"-XX:SharedArchiveFile={archive}"]
    several = len(ports) > 1
    controllers = [free_port() for _ in ports]
    brokers = [
        _node(
            java,
            jars,
            directory / f"kafka-{number}" if several else directory,
            options=options,
            port=port,
            number=number,
            controllers=controllers,
            name=f"kafka-{number}" if several else "kafka",
            advertise=advertise,
            settings=(_REPLICATED if len(ports) >= 3 else {}) | dict(settings or {}),
            guarded=guarded,
        )
        for number, port in enumerate(ports, 1)
    ]
    try:
        for broker in brokers:
            broker.start()
        for broker in brokers:
            broker.wait_ready()
            until = time.monotonic() + 60.0
            while not answers(broker.address, len(brokers)) and time.monotonic() < until:
                time.sleep(0.02)
    except BaseException:
        for broker in brokers:
            broker.kill()
        raise
    return brokers


def find() -> tuple[str, Path, Path]:
    """Return the paths of Java, the folder of Kafka's jars, and an archive of its classes.

    What is missing is fetched with Maven in a minute or so. Raises Unavailable.
    """
    java, jars = _java(), jar_folder()
    return java, jars, _archive(java, jars)


def answers(address: str, brokers: int = 1) -> bool:
    """Tell whether a Kafka answers at host:port, and knows of so many live brokers."""
    host, _, port = address.partition(",")[0].rpartition(":")
    # Metadata, version 7, correlation id 1, no client id, no topics, no creation of any.
    body = struct.pack(">hhihib", 3, 7, 1, -1, 0, 0)
    try:
        with socket.create_connection((host, int(port)), timeout=2.0) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            answer = connection.recv(16)
    except OSError:
        return False
    return len(answer) == 16 and struct.unpack(">iiii", answer)[3] >= brokers


def administer(*arguments: str) -> str:
    """Run one of Kafka's own tools (its class, then its arguments); return its output. Raises Unavailable."""
    return cache.run("kafka", [_java(), *_JVM, "-cp", f"{jar_folder()}/*", *arguments])


def _java() -> str:
    return cache.program("kafka", "java", "openjdk-17-jre-headless")


def jar_folder() -> Path:
    """Return the folder of Kafka's jars; fetched where missing. Raises Unavailable."""
    if given := os.environ.get("HF_LOCAL_KAFKA_JARS"):
        return Path(given)
    if found := shutil.which("kafka-server-start.sh"):
        libraries = Path(found).resolve().parent.parent / "libs"
        if libraries.is_dir():
            return libraries
    return cache.keep(f"kafka-{VERSION}", _fetch)


def _fetch(jars: Path) -> None:
    maven = cache.program("kafka", "mvn", "maven")
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "pom.xml").write_text(_POM)
        copy = [maven, "-B", "-q", _MAVEN, "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        cache.run("kafka", copy, directory=Path(work))
    if not any(jars.glob("kafka_*.jar")):
        raise Unavailable("kafka", "Maven fetched no Kafka")


def _archive(java: str, jars: Path) -> Path:
    """Return the class archive for this Java and these jars; the machine ignores one that does not fit."""
    version = subprocess.run([java, "-version"], capture_output=True, check=True).stderr
    key = zlib.crc32(version + "".join(sorted(map(str, jars.glob("*.jar")))).encode())

    def record(path: Path) -> None:
        with tempfile.TemporaryDirectory() as work:
            option = f"-XX:ArchiveClassesAtExit={path}"
            with _node(java, jars, Path(work), options=[option]) as running:
                running.start()
                running.wait_ready()
        if not path.exists():
            path.touch()  # this Java cannot record one: without it, the start is slower

    return cache.keep(f"kafka-{key:08x}.jsa", record)


def _node(
    java: str,
    jars: Path,
    directory: Path,
    *,
    options: list[str],
    port: int = 0,
    number: int = 1,
    controllers: Sequence[int] = (),
    name: str = "kafka",
    advertise: str = "127.0.0.1",
    settings: Mapping[str, str] | None = None,
    guarded: bool = True,
) -> Running:
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    port, controllers = port or free_port(), controllers or [free_port()]
    address = f"127.0.0.1:{port}"
    properties = directory / "server.properties"
    own = {
        "node.id": str(number),
        "controller.quorum.voters": ",".join(
            f"{voter}@127.0.0.1:{controller}" for voter, controller in enumerate(controllers, 1)
        ),
        "listeners": f"PLAINTEXT://{address},CONTROLLER://127.0.0.1:{controllers[number - 1]}",
        "advertised.listeners": f"PLAINTEXT://{advertise}:{port}",
        "log.dirs": str(directory / "data"),
    }
    lines = (_SETTINGS | own | dict(settings or {})).items()
    properties.write_text("".join(f"{name}={value}\n" for name, value in lines))
    base = [java, *_JVM, *options, "-cp", f"{jars}/*"]
    if not (directory / "data" / "meta.properties").exists():
        tool = [java, *_JVM, "-cp", f"{jars}/*", "kafka.tools.StorageTool"]
        if "SharedArchiveFile" in "".join(options):
            tool[1:1] = options
        cache.run("kafka", [*tool, "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", str(properties)])
    command = [*base, "kafka.Kafka", str(properties)]
    return Running(
        name, address, lambda: answers(address), command=command, directory=directory, guarded=guarded
    )
