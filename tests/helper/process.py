"""A helper process for a test, and the coordinator's end of its socket, as plain as can be."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from yaim_helper.clock import STAMPS_LATE_S
from yaim_helper.record.chain import GENESIS, seal, segment_name
from yaim_helper.record.stamps import boot_id

from tests.helper.network import INTERFACE, boottime, state, wait_for
from yaim.lab.namespaces import Namespace

Message: TypeAlias = dict[str, Any]

NETWORK = ("192.0.2.0/24", "2001:db8::/64")
ANSWER_WITHIN_S = 20.0
END_WITHIN_S = 3.0


def policy(
    audit_log: Path,
    *,
    networks: Sequence[str] = NETWORK,
    prefixes: Sequence[int] = (32,),
    limit: int = 64,
    rate: int = 1000,
    users: Sequence[int] = (0,),
    fence: str = "off",
    resets: bool | None = None,
) -> str:
    """A policy's text. Of the prefix lengths 128 is always one: there are IPv6 networks."""
    return json.dumps(
        {
            "users": list(users),
            "rules": [
                {
                    "interface": INTERFACE,
                    "networks": list(networks),
                    "prefix-lengths": sorted({*prefixes, 128}),
                    **({} if resets is None else {"reset-connections": resets}),
                }
            ],
            "max-addresses": limit,
            "commands-per-second": rate,
            "audit-log": str(audit_log),
            "fence": fence,
        },
        indent=1,
    )


class Client:
    """A connection. `ask` and the commands wait for the reply and give it without its id."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Whose connect is not blocking gives up at once if there are many others.
        limit = struct.pack("ll", int(ANSWER_WITHIN_S), 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._last_id = 0
        try:
            self.socket.connect(str(path))
            self.socket.settimeout(ANSWER_WITHIN_S)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, op: str, **fields: Any) -> int:
        """Sends a request without waiting for the reply; returns the request's id."""
        self._last_id += 1
        self.socket.send(json.dumps({"op": op, "id": self._last_id, **fields}).encode())
        return self._last_id

    def receive(self, request_id: int) -> Message:
        packet = self.socket.recv(65537)
        assert packet, "the helper hung up"
        assert len(packet) <= 65536
        reply: Message = json.loads(packet)
        assert reply.pop("id") == request_id
        return reply

    def ask(self, op: str, **fields: Any) -> Message:
        return self.receive(self.send(op, **fields))

    def is_hung_up(self) -> bool:
        """Whether the connection ends without a further reply; waits for it."""
        try:
            return self.socket.recv(65537) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def hello(self, cluster: str = "test") -> Message:
        return self.ask("hello", version=1, cluster=cluster, node="db1")

    def add(self, address: str, **fields: Any) -> Message:
        return self.ask("add", **add(address, **fields))

    def remove(self, address: str) -> Message:
        return self.ask("remove", address=address)

    def remove_with_reset(self, address: str) -> Message:
        return self.ask("remove", address=address, connections="reset")

    def clear(self, address: str) -> Message:
        return self.ask("clear", address=address)

    def renew(self, deadline_ns: int) -> Message:
        """Returns the reply without the record's head, which is never the same."""
        reply = self.ask("renew", deadline_ns=deadline_ns)
        if reply["result"] == "ok":
            head = reply.pop("head")
            # There is none while the record is behind.
            assert head is None or head.keys() == {"seq", "hash"}, head
        return reply

    def list(self, after: str = "") -> Message:
        return self.ask("list", after=after)


def add(
    address: str,
    *,
    deadline_ns: int = 0,
    interface: str = INTERFACE,
    prefix: int = 0,
    label: str = "",
) -> Message:
    """The fields of an add; what is not given is as most tests want it."""
    return {
        "interface": interface,
        "address": address,
        "prefix": prefix or (128 if ":" in address else 32),
        "label": label,
        "deadline_ns": deadline_ns or deadline_in(30),
    }


def deadline_in(seconds: float) -> int:
    """Returns a deadline in whole microseconds, which the helper's arithmetic keeps exactly."""
    return round((boottime() + seconds) * 1e6) * 1000


DEPRECATED = ("valid_lft", "900", "preferred_lft", "0")
"""Lifetimes like those of the helper's addresses."""


def leave(namespace: Namespace, directory: Path, *places: str, **changed: Any) -> None:
    """What an earlier life of the helper of this directory has left: on the interface, and on
    record, in which some keys may be changed. The record goes on for so long that it surely tells
    of all that was put there before."""
    lines = [f"address add {each} dev {INTERFACE} {' '.join(DEPRECATED)}" for each in places]
    namespace.run("sh", "-ec", "printf '%s\n' \"$@\" | ip -batch -", "sh", *lines)
    rows = []
    for place in places:
        address, _, prefix = place.partition("/")
        rows.append([address, INTERFACE, int(prefix), 0, "test", deadline_in(900)])
    record = {"type": "held", "seq": 1, "boot_id": boot_id(), "addresses": rows, "more": False}
    record["boottime_ns"] = deadline_in(STAMPS_LATE_S + 1)
    line, _ = seal(record | changed, GENESIS)
    audit_log = directory / "audit"
    audit_log.mkdir()
    (audit_log / segment_name(1)).write_bytes(line)


OK_ABSENT: Message = {"result": "ok", "was": "absent"}
OK_PRESENT: Message = {"result": "ok", "was": "present"}


def refused(reply: Message) -> str:
    """The code of a refusal; fails if it is none."""
    assert set(reply) == {"result", "code", "reason"}, reply
    assert reply["result"] == "refused"
    return str(reply["code"])


@dataclass(frozen=True, slots=True)
class Helper:
    process: subprocess.Popen[bytes]
    socket: Path
    audit_log: Path
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self) -> Client:
        return Client(self.socket)

    def greeted(self, cluster: str = "test") -> Client:
        client = self.connect()
        assert client.hello(cluster)["result"] == "ok"
        return client

    def records(self) -> list[Message]:
        self.wait_until_written()
        return read_records(self.audit_log)

    def wait_until_written(self) -> None:
        """What it has replied to: that is handed to another thread of it before."""
        if self.process.poll() is None:
            wait_for(self._is_at_rest, "the helper has written its record")

    def _is_at_rest(self) -> bool:
        # One thread may wait for the other, and be awake when that is looked at.
        found = [self._threads() for _ in range(2)]
        return found[0] == found[1] and not any(each[0] in ("R", "D") for each in found[0])

    def _threads(self) -> list[tuple[str, ...]]:
        """Returns for each the state and how often it has waited or was made to
        (proc_pid_status(5))."""
        texts = [(each / "status").read_text() for each in Path(f"/proc/{self.pid}/task").iterdir()]
        return [
            tuple(re.findall(r"^(?:State|\w+_ctxt_switches):\s*(\w+)", text, re.MULTILINE))
            for text in texts
        ]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """While it waits, not in the middle of its work."""
        wait_for(self._is_at_rest, "the helper waits")
        os.kill(self.pid, signal.SIGSTOP)
        wait_for(lambda: state(self.pid) == "T", "the helper stops")
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it; its exit status."""
        os.kill(self.pid, number)
        return self.process.wait(ANSWER_WITHIN_S)


def read_records(audit_log: Path) -> list[Message]:
    """But for one that is just being written."""
    segments = sorted(audit_log.glob("audit-*.jsonl"))
    return [json.loads(line) for each in segments for line in each.read_bytes().split(b"\n")[:-1]]


def essence(records: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The records without what all have in common."""
    common = {
        "v",
        "boot_id",
        "host",
        "policy",
        "time",
        "boottime_ns",
        "seq",
        "peer",
        "uid",
        "prev",
        "hash",
    }
    return [{k: v for k, v in record.items() if k not in common} for record in records]


@contextmanager
def being(uid: int, directory: Path) -> Iterator[None]:
    """This process is another user, in a directory which that user could not get to."""
    with chdir(directory):
        os.seteuid(uid)
        try:
            yield
        finally:
            os.seteuid(0)


PASSING = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid() + int(sys.argv[2]))}
os.execv(sys.argv[3], sys.argv[3:])
"""


def handed_in(listener: socket.socket, of_another: int = 0) -> Message:
    """How a helper is started with a socket as systemd would hand it in."""
    fd = listener.fileno()
    arguments = (PASSING, str(fd), str(of_another))
    return {"around": (sys.executable, "-I", "-c", *arguments), "pass_fds": (fd,)}


_FIRST = ("nice", "-n", "-10", "env", "--ignore-signal=ALRM")
"""The helper runs as its unit has it, but for its alarm (act_within), with which a helper that is
held up ends itself. What it asks the kernel for waits for all network namespaces that are made or
taken away on this machine, as by the tests that run beside these: it may be held up at any time
here. What the alarm is for is shown by helpers that have it, in front of each line (stepping.py),
and in test_addresses.py."""


@contextmanager
def started(
    namespace: Namespace,
    directory: Path,
    *,
    config: str | None = None,
    around: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    user: str = "root",
) -> Iterator[Helper]:
    """A helper process, perhaps not ready yet, that is gone at the end. `around`: a command in
    front of it, which must exec it."""
    audit_log = directory / "audit"
    config_file = directory / "helper.yml"
    config_file.write_text(config if config is not None else policy(audit_log))
    path = directory / "helper.sock"
    log = directory / "helper.log"
    with log.open("ab") as file:
        files = ("--config", str(config_file), "--socket", str(path), "--user", user)
        process = namespace.start(
            (*_FIRST, *around, sys.executable, "-I", "-m", "yaim_helper", *files),
            file,
            pass_fds=pass_fds,
        )
    try:
        yield Helper(process, path, audit_log, log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Lets it end by itself if it can: what it covered is told then (tests/helper/covered.py)."""
    process.terminate()
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def running(namespace: Namespace, directory: Path, **options: Any) -> Iterator[Helper]:
    """Starts a helper like `started`, and waits until it is ready."""
    with started(namespace, directory, **options) as helper:
        wait_until_ready(helper)
        yield helper


def wait_until_ready(helper: Helper) -> None:
    """Waits until it listens, and heeds SIGHUP: before that it is reading its file."""

    def is_ready() -> bool:
        assert helper.process.poll() is None, helper.log.read_text()
        status = Path(f"/proc/{helper.pid}/status").read_text()
        (caught,) = re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
        if not int(caught, 16) >> signal.SIGHUP - 1 & 1:
            return False
        try:
            helper.connect().__exit__()
        except OSError:
            return False
        return True

    wait_for(is_ready, "the helper is ready")
