"""A whole helper in this process, with a real kernel, fed with what a fuzzer makes.

One `Server` lives through all inputs. After each, what must always hold is looked at: in the
kernel, in the process, in the record.
"""

import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import time
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from yaim_helper.clock import boottime
from yaim_helper.held.reset import begin
from yaim_helper.owners import Peer
from yaim_helper.policy.read import read_policy
from yaim_helper.protocol import VERSION
from yaim_helper.record.log import AuditLog
from yaim_helper.record.recorder import Recorder
from yaim_helper.serve.connections import Connection
from yaim_helper.serve.disposal import Disposal
from yaim_helper.serve.server import Server

from tests.fuzz.packets import Bytes, packet_from

INTERFACE = "veth0"
DIRECTORY = Path("/run/yaim-fuzz")
NETWORKS = tuple(map(ip_network, ("192.0.2.0/24", "2001:db8::/64")))
MAX_ADDRESSES = 6
CLIENTS = 3
WRITTEN_WITHIN_S = 20.0
_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_CODES = {"version", "busy", "not-allowed", "limit", "foreign", "primary", "expired"}
_NUMBERS = (1, 2, 10, 11, 12, 254, 255, 0)


def isolated() -> None:
    """This process gets a network and a directory of its own, which nobody else sees; and being
    slow is no reason to end it (act_within)."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS | _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot make namespaces: is this root?")
    script = f"""
        mount --make-rprivate / && mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 700 {DIRECTORY}
        ip link set lo up
        ip link add {INTERFACE} type veth peer name peer0
        for each in {INTERFACE} peer0; do
            ip link set $each addrgenmode none && ip link set $each up || exit
        done
        ip address add 192.0.2.1/24 dev {INTERFACE}
        echo 1 > /proc/sys/net/ipv4/conf/{INTERFACE}/promote_secondaries
    """
    subprocess.run(("sh", "-euc", script), check=True)


@dataclass(eq=False)
class Client:
    """The other end of a connection; a new one whenever the helper has ended it."""

    socket: socket.socket
    last_id: int = 0


@dataclass
class Session:
    server: Server
    recorder: Recorder
    disposal: Disposal
    record: Path
    fds: int
    clients: list[Client | None] = field(default_factory=lambda: [None] * CLIENTS)
    last: dict[str, Any] = field(default_factory=dict)
    """The record that was read last."""
    at: int = 0
    """Where reading of the record goes on."""

    def run(self, data: bytes) -> None:
        """The first byte of each command says on which connection it comes, and what it is."""
        bytes_ = Bytes(data)
        while bytes_:
            self._step(bytes_)
        self._turn()
        self._check_kernel()
        self._check_record()
        assert _descriptors() == self.fds + 2 * self._open(), "descriptors"

    def _open(self) -> int:
        return sum(each is not None for each in self.clients)

    def _step(self, bytes_: Bytes) -> None:
        what = bytes_.byte()
        number = what % CLIENTS
        client = self.clients[number] or self._connected(number, bytes_)
        match what // CLIENTS % 10:
            case 0:
                client.socket.close()
                self.clients[number] = None
                self._turn()
            case 1:
                self._turn()
            case 2:
                self._send(client, packet_from(bytes_.take(bytes_.byte())))
            case 3:
                self._send(client, bytes_.take(bytes_.byte()), passing=bytes_.byte() % 4)
            case _:
                self._send(client, self._command(client, bytes_))

    def _connected(self, number: int, bytes_: Bytes) -> Client:
        """Mostly greeted; on a socket pair, for speed (tests/helper has the listener)."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        its.setblocking(False)
        client = Client(ours)
        self.clients[number] = client
        # As many users as clients, so that they do not share everything.
        uid = bytes_.byte() % 2
        self.server.admit(Connection(its, Peer(os.getpid(), uid, uid), boottime()))
        if bytes_.byte() % 8:
            hello = {"op": "hello", "version": 1, "node": "n", "cluster": f"c{bytes_.byte() % 2}"}
            self._send(client, json.dumps({**hello, "id": 0}).encode())
        return client

    def _command(self, client: Client, bytes_: Bytes) -> bytes:
        """One that is in form, and often allowed."""
        client.last_id += bytes_.byte() % 16 != 0
        address = bytes_.one_of(("192.0.2.{}", "192.0.2.{}", "2001:db8::{:x}", "198.51.100.{}"))
        address = str(ip_address(address.format(bytes_.one_of(_NUMBERS))))
        near = (30.0, 30.0, 2.6, 0.5, 2.45, -1.0, 3599.0, 3601.0)
        deadline_ns = max(0, round((boottime() + bytes_.one_of(near)) * 1e9))
        op = bytes_.one_of(
            (
                *("add", "add", "add", "remove", "remove", "renew", "list", "announce"),
                *("clear", "reset"),
            )
        )
        if op == "reset":
            how = bytes_.one_of(("reset", "reset", "leave"))
            fields_ = {"address": address, "connections": how}
            return json.dumps({"op": "remove", "id": client.last_id, **fields_}).encode()
        fields: dict[str, Any] = {
            "add": {
                "interface": bytes_.one_of((INTERFACE, INTERFACE, INTERFACE, "peer0", "lo", "x")),
                "address": address,
                "prefix": bytes_.one_of((32, 128, 24, 64, 0)),
                "label": bytes_.one_of(("", "yaim", "x" * 13)),
                "deadline_ns": deadline_ns,
            },
            "renew": {"deadline_ns": deadline_ns},
            "list": {"after": bytes_.one_of(("", address))},
        }.get(op, {"address": address})
        return json.dumps({"op": op, "id": client.last_id, **fields}).encode()

    def _send(self, client: Client, packet: bytes, passing: int = 0) -> None:
        what = [client.socket.fileno()] * passing
        try:
            socket.send_fds(client.socket, [packet], what)
        except BlockingIOError:
            self._turn()
        except OSError:
            # It has hung up.
            self._turn()

    def _turn(self) -> None:
        """And wait for the disk, and until all connections are read: what comes of an input depends
        on nothing else."""
        self.server.turn(0)
        self.recorder.drain(WRITTEN_WITHIN_S)
        resting = self.server._sources._resting
        while any(each.asked or each.socket in resting for each in self.server._connections):
            self.server.turn(0)
            self.recorder.drain(WRITTEN_WITHIN_S)
        self._read_replies()
        while self.disposal.waiting():
            time.sleep(0.0001)

    def _read_replies(self) -> None:
        for number, client in enumerate(self.clients):
            while client is not None:
                try:
                    packet = client.socket.recv(65537)
                except BlockingIOError:
                    break
                except ConnectionResetError:
                    packet = b""
                if not packet:
                    client.socket.close()
                    client = self.clients[number] = None
                    break
                _check_reply(packet)

    def _check_kernel(self) -> None:
        shown = _addresses()
        ours = [each for each in shown if (each.address, each.prefix) != ("192.0.2.1", 24)]
        assert len(shown) == len(ours) + 1, "the host's own is still there, once"
        assert len(ours) <= MAX_ADDRESSES, ours
        for each in ours:
            assert each.interface == INTERFACE, each
            assert any(ip_address(each.address) in network for network in NETWORKS), each
            assert each.address not in ("192.0.2.0", "192.0.2.1", "192.0.2.255", "2001:db8::"), each
            assert each.prefix == (128 if ":" in each.address else 32), each
            assert each.valid_s <= 3600, each

    def _check_record(self) -> None:
        """What has been written since; segments that are read whole are gone then."""
        segments = sorted(self.record.glob("audit-*.jsonl"))
        for segment in segments:
            with segment.open("rb") as file:
                file.seek(self.at)
                lines = file.read()
            self._check_lines(lines)
            self.at += len(lines)
            if segment != segments[-1]:
                segment.unlink()
                self.at = 0

    def _check_lines(self, lines: bytes) -> None:
        assert lines.endswith(b"\n") or not lines
        for line in lines.splitlines():
            record = json.loads(line)
            assert record["seq"] == self.last.get("seq", 0) + 1, (self.last, record)
            _check_chain(self.last, record)
            self.last = record


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@dataclass(frozen=True)
class Shown:
    interface: str
    address: str
    prefix: int
    valid_s: int


def _addresses() -> list[Shown]:
    """All but those of lo, as the kernel tells it (rtnetlink(7)); without the code under test."""
    request = struct.pack("=IHHIIBBBBI", 24, 22, 0x301, 1, 0, 0, 0, 0, 0, 0)
    found: list[Shown] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(request)
        while True:
            data = netlink.recv(1 << 17)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == 3:
                    return [each for each in found if each.interface != "lo"]
                found.append(_shown(data[16:length]))
                data = data[(length + 3) & ~3 :]


def _shown(body: bytes) -> Shown:
    prefix, index = struct.unpack_from("=xBxxI", body)
    attributes: dict[int, bytes] = {}
    at = 8
    while at + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, at)
        attributes[kind] = body[at + 4 : at + size]
        at += (size + 3) & ~3
    address = ip_address(attributes.get(2, attributes[1]))
    valid_s = struct.unpack_from("=II", attributes[6])[1]
    return Shown(socket.if_indextoname(index), str(address), prefix, valid_s)


def _check_reply(packet: bytes) -> None:
    assert len(packet) <= 65536
    reply = json.loads(packet)
    assert type(reply["id"]) is int, reply
    match reply["result"]:
        case "refused":
            assert reply.keys() == {"id", "result", "code", "reason"}, reply
            assert reply["code"] in _CODES, reply
        case "failed":
            assert reply.keys() == {"id", "result", "errno", "reason"}, reply
        case result:
            assert result == "ok", reply


def _check_chain(before: dict[str, Any], record: dict[str, Any]) -> None:
    """helper/AUDIT.md, "The chain"."""
    assert record["prev"] == before.get("hash", record["prev"]), (before, record)
    hash_ = record.pop("hash")
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    assert sha256((record["prev"] + text).encode()).hexdigest() == hash_, record
    record["hash"] = hash_


def new_session() -> Session:
    """Begins a session in the namespaces of this process (`isolated`)."""
    record = DIRECTORY / "record"
    config = DIRECTORY / "helper.yml"
    config.write_text(
        json.dumps(
            {
                "users": [0, 1],
                "rules": [
                    {
                        "interface": INTERFACE,
                        "networks": [str(each) for each in NETWORKS],
                        "prefix-lengths": [32, 128],
                    }
                ],
                "max-addresses": MAX_ADDRESSES,
                "commands-per-second": 1_000_000,
                "audit-log": str(record),
            }
        )
    )
    policy = read_policy(config)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(DIRECTORY / "helper.sock"))
    listener.listen()
    recorder = Recorder(AuditLog(policy.audit_log, policy.sha256), policy.sha256)
    disposal = Disposal()
    resetting = begin()
    assert not resetting.why_not, resetting
    server = Server(listener, policy, recorder, disposal, resetting=resetting)
    # The record's files are opened when they are first written.
    recorder.note([{"type": "start", "version": VERSION, "pid": os.getpid()}])
    recorder.mark({})
    recorder.drain(WRITTEN_WITHIN_S)
    return Session(server, recorder, disposal, record, _descriptors())
