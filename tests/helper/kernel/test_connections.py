"""Real connections between two network namespaces, ended on one side. `ss` says what is left."""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from yaim_helper.kernel import connections as connections_module
from yaim_helper.kernel import sock_diag
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.kernel.connections import HANGS, TOGETHER, Connections, Destroyed
from yaim_helper.kernel.netlink import NLM_F_ACK, NLMSG_DONE, NLMSG_ERROR, Message

from tests.helper.network import INTERFACE, PEER, Address, boottime, wait_for
from yaim.lab.namespaces import DIES_WITH_US, Namespace

V4, V6, OTHER = ip_address("192.0.2.10"), ip_address("2001:db8::10"), ip_address("192.0.2.11")
CLIENT = "192.0.2.2"
PORT, PORT_6, DEFERRED = 80, 81, 82
LONG_S = 20.0
"""Longer than any of it takes; nobody waits for it."""
RESET, ABORTED = errno.ECONNRESET, errno.ECONNABORTED


@dataclass
class Hosts:
    server: Namespace
    client: Namespace
    connections: Connections
    """Of the server."""
    open: list[socket.socket] = field(default_factory=list)

    def kept(self, it: socket.socket) -> socket.socket:
        it.settimeout(LONG_S)
        self.open.append(it)
        return it

    def listener(self, address: object, port: int = PORT, **options: Any) -> socket.socket:
        family = socket.AF_INET6 if ":" in str(address) else socket.AF_INET
        with self.server.entered():
            made = socket.create_server((str(address), port), family=family, backlog=64, **options)
        return self.kept(made)

    def connected(self, to: object, port: int = PORT) -> socket.socket:
        with self.client.entered():
            return self.kept(socket.create_connection((str(to), port), LONG_S))

    def pair(self, listener: socket.socket, to: object, port: int = PORT) -> list[socket.socket]:
        """Returns both ends of a connection: the client's, the server's."""
        client = self.connected(to, port)
        return [client, self.kept(listener.accept()[0])]

    def ended(self, *addresses: Address, within_s: float = LONG_S) -> dict[Address, Destroyed]:
        return self.connections.destroy(addresses, boottime() + within_s)

    def wait_until_idle(self) -> None:
        wait_for(lambda: self.connections._under_way is None, "it goes on")


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Some tests have the thread do what needs the test's own files."""
    monkeypatch.setattr(connections_module, "_libc", SimpleNamespace(unshare=lambda _: -1))
    with ExitStack() as stack:
        server, client = Namespace.new(), Namespace.new()
        stack.callback(server.close)
        stack.callback(client.close)
        there = f"/proc/{os.getpid()}/fd/{client.fd}"
        server.run(
            *("sh", "-ec"),
            f"ip link add {INTERFACE} type veth peer name {PEER} netns {there}\n"
            f"for each in 192.0.2.1/24 {V4}/32 {OTHER}/32; do\n"
            f"    ip address add $each dev {INTERFACE}\n"
            f"done\n"
            f"for each in 2001:db8::1/64 {V6}/128; do\n"
            f"    ip address add $each dev {INTERFACE} nodad\n"
            f"done\n"
            f"ip link set {INTERFACE} up",
        )
        client.run(
            *("sh", "-ec"),
            f"ip address add {CLIENT}/24 dev {PEER}\n"
            f"ip address add 2001:db8::2/64 dev {PEER} nodad\n"
            f"ip link set {PEER} up",
        )
        wait_for(lambda: "state UP" in server.run("ip", "link", "show", INTERFACE), "it is up")
        with server.entered():
            hosts = Hosts(server, client, Connections())
        yield hosts
        for each in hosts.open:
            each.close()


def states(namespace: Namespace, address: object) -> Counter[str]:
    """The states of the TCP sockets that have the address on this side, as `ss` shows them."""
    lines = namespace.run("ss", "-Htan", "src", f"[{address}]").splitlines()
    return Counter(line.split()[0] for line in lines)


def fate(it: socket.socket) -> int:
    """What a socket says that it waits for something."""
    try:
        while it.recv(1 << 16):
            pass
        return 0
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or 0


def is_open(pair: Sequence[socket.socket]) -> bool:
    client, server = pair
    client.send(b"x")
    return server.recv(1) == b"x"


# --- what is ended, and what is not ---------------------------------------------------------------


@pytest.mark.parametrize("address", [V4, V6])
def test_both_ends_learn_at_once(hosts: Hosts, address: Address) -> None:
    listener = hosts.listener(address)
    client, server = hosts.pair(listener, address)
    assert hosts.ended(address) == {address: Destroyed(1, 0)}
    assert (fate(client), fate(server)) == (RESET, ABORTED)
    assert states(hosts.server, address) == {"LISTEN": 1}
    # And it is still listened to.
    assert is_open(hosts.pair(listener, address))


def test_a_socket_of_both_versions_is_ended_by_its_ipv4_address(hosts: Hosts) -> None:
    listener = hosts.listener("::", dualstack_ipv6=True)
    by_ipv4, by_ipv6 = hosts.pair(listener, V4), hosts.pair(listener, V6)
    assert hosts.ended(V4) == {V4: Destroyed(1, 0)}
    assert [fate(each) for each in by_ipv4] == [RESET, ABORTED]
    assert is_open(by_ipv6)


def test_connections_of_other_addresses_stay(hosts: Hosts) -> None:
    listener = hosts.listener("0.0.0.0")
    one, other = hosts.pair(listener, V4), hosts.pair(listener, OTHER)
    assert hosts.ended(V4, V6) == {V4: Destroyed(1, 0), V6: Destroyed(0, 0)}
    assert fate(one[0]) == RESET
    assert is_open(other)


def test_so_do_those_of_other_network_namespaces(hosts: Hosts) -> None:
    hosts.client.run("ip", "address", "add", f"{V4}/32", "dev", "lo")
    with hosts.client.entered():
        listener = hosts.kept(socket.create_server((str(V4), PORT)))
    pair = [hosts.connected(V4), hosts.kept(listener.accept()[0])]
    assert hosts.ended(V4) == {V4: Destroyed(0, 0)}
    assert is_open(pair)


def test_what_waits_to_be_accepted_is_ended(hosts: Hosts) -> None:
    listener = hosts.listener(V4)
    client = hosts.connected(V4)
    assert hosts.ended(V4) == {V4: Destroyed(1, 0)}
    assert fate(client) == RESET
    assert fate(hosts.kept(listener.accept()[0])) == ABORTED


def test_what_is_not_yet_connected_is_ended(hosts: Hosts) -> None:
    """TCP_DEFER_ACCEPT: SYN_RECV until something comes. The kernel sends no reset for that one:
    who then says something gets one from the new holder."""
    listener = hosts.listener(V4)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    hosts.connected(V4)
    assert states(hosts.server, V4) == {"LISTEN": 1, "SYN-RECV": 1}
    assert hosts.ended(V4) == {V4: Destroyed(1, 0)}
    assert states(hosts.server, V4) == {"LISTEN": 1}


@pytest.mark.parametrize("closer", ["client", "server"])
def test_what_one_side_has_closed_is_ended(hosts: Hosts, closer: str) -> None:
    client, server = hosts.pair(hosts.listener(V4), V4)
    (client if closer == "client" else server).shutdown(socket.SHUT_WR)
    closed = "CLOSE-WAIT" if closer == "client" else "FIN-WAIT-2"
    wait_for(lambda: closed in states(hosts.server, V4), f"it is {closed}")
    assert hosts.ended(V4) == {V4: Destroyed(1, 0)}
    if closer == "client":
        assert fate(client) == RESET
    else:
        # It has read the end; what it writes is not taken any more.
        with pytest.raises(OSError, match=r"Broken pipe|reset by peer"):
            client.send(b"x")
    assert states(hosts.server, V4) == {"LISTEN": 1}


@pytest.mark.parametrize("is_closed", [False, True])
def test_what_has_not_sent_all_is_ended(hosts: Hosts, is_closed: bool) -> None:
    """Also when its process has closed it: FIN_WAIT1."""
    client, server = hosts.pair(hosts.listener(V4), V4)
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            server.send(bytes(1 << 16))
    if is_closed:
        server.close()
    assert states(hosts.server, V4) == {"LISTEN": 1, "FIN-WAIT-1" if is_closed else "ESTAB": 1}
    assert hosts.ended(V4) == {V4: Destroyed(1, 0)}
    assert fate(client) == RESET
    assert states(hosts.server, V4) == {"LISTEN": 1}


def test_outgoing_ones_are_ended(hosts: Hosts) -> None:
    with hosts.client.entered():
        listener = hosts.kept(socket.create_server((CLIENT, PORT)))
    with hosts.server.entered():
        server = hosts.kept(socket.create_connection((CLIENT, PORT), LONG_S, (str(V4), 0)))
        # Nobody is there.
        attempt = hosts.kept(socket.socket())
        attempt.setblocking(False)
        attempt.bind((str(V4), 0))
        assert attempt.connect_ex(("192.0.2.99", PORT)) == errno.EINPROGRESS
    client = hosts.kept(listener.accept()[0])
    assert states(hosts.server, V4) == {"ESTAB": 1, "SYN-SENT": 1}
    assert hosts.ended(V4) == {V4: Destroyed(2, 0)}
    assert [fate(each) for each in (client, server)] == [RESET, ABORTED]
    assert attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == ABORTED
    assert not states(hosts.server, V4)


def test_what_only_waits_for_its_end_stays(hosts: Hosts) -> None:
    """And is not counted: TIME_WAIT, and FIN_WAIT2 without a process."""
    listener = hosts.listener(V4)
    client, server = hosts.pair(listener, V4)
    server.close()
    assert client.recv(1) == b""
    client.close()
    _, server = hosts.pair(listener, V4)
    server.close()
    waiting = {"LISTEN": 1, "TIME-WAIT": 1, "FIN-WAIT-2": 1}
    wait_for(lambda: states(hosts.server, V4) == waiting, "they are as far as that")
    assert hosts.ended(V4) == {V4: Destroyed(0, 0)}
    assert states(hosts.server, V4) == waiting


def test_each_of_many_addresses_gets_its_own_count(hosts: Hosts) -> None:
    """More than the kernel is asked to look for."""
    many = [ip_address("198.51.100.1") + number for number in range(sock_diag.MAX_FILTERED + 1)]
    hosts.server.run(
        *("sh", "-ec"),
        f"for each in {' '.join(map(str, many))}; do ip address add $each/32 dev {INTERFACE}; done",
    )
    hosts.client.run("ip", "route", "add", "198.51.100.0/24", "dev", PEER)
    listener = hosts.listener("0.0.0.0")
    clients = [hosts.pair(listener, each)[0] for each in (*many, many[0])]
    other = hosts.pair(listener, V4)
    expected = {each: Destroyed(1, 0) for each in many} | {many[0]: Destroyed(2, 0)}
    assert hosts.ended(*many) == expected
    assert {fate(each) for each in clients} == {RESET}
    assert is_open(other)


@pytest.mark.parametrize("count", [1, 2, sock_diag.MAX_FILTERED])
def test_the_kernel_looks_for_no_others_than_it_is_asked_for(hosts: Hosts, count: int) -> None:
    listener = hosts.listener("::", dualstack_ipv6=True)
    plain = hosts.listener("0.0.0.0", PORT_6)
    for address in (V4, OTHER, V6, ip_address("2001:db8::1")):
        hosts.pair(listener, address)
    hosts.pair(plain, V4, PORT_6)
    hosts.pair(plain, OTHER, PORT_6)
    others = [ip_address("203.0.113.1") + number for number in range(count - 1)]
    for wanted, expected in (
        ([*others, V4], {socket.AF_INET: [V4], socket.AF_INET6: [V4]}),
        ([V6, *others], {socket.AF_INET: [], socket.AF_INET6: [V6]}),
    ):
        found = {
            family: [ip_address(each.local) for each in hosts.connections._all(family, wanted)]
            for family in expected
        }
        assert found == expected


# --- many, that come back at once -----------------------------------------------------------------

CLIENTS = """
import errno, select, socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
poll = select.epoll()
clients = {}
def connect():
    client = socket.socket(family)
    client.setblocking(False)
    client.connect_ex((address, port))
    clients[client.fileno()] = client
    poll.register(client, select.EPOLLIN)
for _ in range(count):
    client = socket.create_connection((address, port))
    clients[client.fileno()] = client
    poll.register(client, select.EPOLLIN)
print("ready", flush=True)
resets = 0
while resets < count:
    for fd, _ in poll.poll():
        client = clients.pop(fd)
        error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        client.close()
        assert error == errno.ECONNRESET, error
        resets += 1
        connect()
print(resets, flush=True)
sys.stdin.read()
"""


@contextmanager
def many_clients(hosts: Hosts, address: Address, count: int) -> Iterator[Callable[[], str]]:
    """Clients that connect again at once when they are reset. Gives what tells of their resets when
    all have had one."""
    command = (sys.executable, "-c", CLIENTS, str(address), str(PORT), str(count))
    with (
        hosts.client.entered(),
        subprocess.Popen(
            (*DIES_WITH_US, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None

        def told() -> str:
            assert process.stdout is not None
            return process.stdout.readline().strip()

        yield told
        process.kill()


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("count", [100, 1000, 5000])
def test_all_are_reset_and_none_comes_back(
    hosts: Hosts, many_files: None, address: Address, count: int
) -> None:
    """In the order in which an address is removed: nobody comes through to the old holder."""
    listener = hosts.listener(address)
    listener.listen(count)
    with many_clients(hosts, address, count) as told:
        for _ in range(count):
            hosts.kept(listener.accept()[0])
        assert told() == "ready"
        with hosts.server.entered():
            kernel = Kernel()
            index = kernel.interface(INTERFACE).index
        if address.version == 4:
            kernel.withdraw_route(index, address)
            assert hosts.ended(address) == {address: Destroyed(count, 0)}
            assert kernel.delete(index, address, 32)
        else:
            assert kernel.delete(index, address, 128)
            assert hosts.ended(address) == {address: Destroyed(count, 0)}
        assert told() == str(count)
        assert states(hosts.server, address) == {"LISTEN": 1}
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


# --- what is over, and what takes long ------------------------------------------------------------


def test_nothing_is_done_when_the_time_is_over(hosts: Hosts) -> None:
    pair = hosts.pair(hosts.listener(V4), V4)
    assert hosts.ended(V4, V6, within_s=0) == {V4: Destroyed(0, 1), V6: Destroyed(0, 1)}
    # What comes next is behind it.
    assert hosts.ended(V6) == {V6: Destroyed(0, 0)}
    assert is_open(pair)


@pytest.mark.parametrize(("looks", "destroyed"), [(2, 0), (3, TOGETHER)])
def test_the_rest_is_left_when_the_time_is_over(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, looks: int, destroyed: int
) -> None:
    """The clock is read by who asks and then by the thread: before it lists, before it ends."""
    count = TOGETHER + 2
    listener = hosts.listener(V4)
    for _ in range(count):
        hosts.pair(listener, V4)
    readings = chain(repeat(0.0, looks), repeat(LONG_S))
    monkeypatch.setattr(connections_module, "boottime", lambda: next(readings))
    got = hosts.connections.destroy([V4], LONG_S)
    assert got == {V4: Destroyed(destroyed, count - destroyed)}
    assert states(hosts.server, V4) == {"LISTEN": 1, "ESTAB": count - destroyed}


def test_nobody_waits_for_a_kernel_that_hangs(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = hosts.listener(V4)
    hosts.pair(listener, V4)
    end, hangs, goes_on = hosts.connections._end, threading.Event(), threading.Event()

    def hanging(names: Sequence[bytes]) -> dict[int, int]:
        hangs.set()
        assert goes_on.wait(LONG_S)
        return end(names)

    monkeypatch.setattr(hosts.connections, "_end", hanging)
    began = boottime()
    assert hosts.ended(V4, within_s=1) == {V4: Destroyed(0, 1)}
    assert hangs.is_set()
    assert hosts.ended(V4, V6, within_s=0.1) == {V4: Destroyed(0, 1), V6: Destroyed(0, 1)}
    for _ in range(1000):
        assert hosts.ended(V4, within_s=1) == {V4: Destroyed(0, 1)}
    assert boottime() - began < LONG_S / 2
    assert hosts.connections._batches.qsize() <= 1, "what nobody waits for is not kept"
    assert hosts.connections.why_not() == HANGS
    goes_on.set()
    hosts.wait_until_idle()
    assert hosts.connections.why_not() == ""
    assert hosts.ended(V4) == {V4: Destroyed(0, 0)}
    assert states(hosts.server, V4) == {"LISTEN": 1}


def files_of(thread: threading.Thread) -> int:
    return len([*Path(f"/proc/self/task/{thread.native_id}/fd").iterdir()])


def test_its_thread_has_no_other_file_open(network: Namespace) -> None:
    """A process that was killed while it hangs keeps none open: no lock, no socket."""
    with network.entered():
        connections = Connections()
    thread = [each for each in threading.enumerate() if each.name == "connections"][-1]
    wait_for(lambda: files_of(thread) <= 4, "the others are closed")
    assert connections.destroy([V4], boottime() + LONG_S) == {V4: Destroyed(0, 0)}
    assert files_of(threading.main_thread()) > 4


def test_where_it_may_not_have_its_own_files_it_works_with_all(hosts: Hosts) -> None:
    before = files_of(threading.main_thread())
    hosts.connections._keep_one_file()
    assert files_of(threading.main_thread()) == before


def test_what_goes_wrong_once_is_told_and_no_more(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts.pair(hosts.listener(V4), V4)
    with monkeypatch.context() as patch:
        patch.setattr(hosts.connections, "_end", lambda _names: 1 // 0)
        assert hosts.ended(V4) == {V4: Destroyed(0, 1)}
    assert "connections are not ended: ZeroDivisionError" in capsys.readouterr().err
    assert hosts.ended(V4) == {V4: Destroyed(1, 0)}


@contextmanager
def page_that_nobody_gives() -> Iterator[int]:
    """Gives the address of memory. Who reads there waits until this is over: userfaultfd(2), for
    want of a file system that hangs."""
    area = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE)
    at = ctypes.addressof(ctypes.c_char.from_buffer(area))
    fd = libc.syscall(_USERFAULTFD, os.O_CLOEXEC)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    try:
        fcntl.ioctl(fd, _UFFDIO_API, bytearray(struct.pack("=QQQ", 0xAA, 0, 0)))
        fcntl.ioctl(fd, _UFFDIO_REGISTER, bytearray(struct.pack("=QQQQ", at, mmap.PAGESIZE, 1, 0)))
        yield at
    finally:
        os.close(fd)


libc = ctypes.CDLL(None, use_errno=True)
libc.send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}[platform.machine()]
_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00


def test_nobody_waits_for_a_process_that_keeps_its_socket_locked(hosts: Hosts) -> None:
    """The kernel does, uninterruptibly."""
    _, server = hosts.pair(hosts.listener(V4), V4)
    with page_that_nobody_gives() as at:
        sender = threading.Thread(target=libc.send, args=(server.fileno(), at, mmap.PAGESIZE, 0))
        sender.start()
        wait_for(lambda: "handle_userfault" in waiting(sender), "it waits for its page")
        assert hosts.ended(V4, within_s=1) == {V4: Destroyed(0, 1)}
        (asker,) = (each for each in threading.enumerate() if "__lock_sock" in waiting(each))
        assert asker.name == "connections"
    sender.join()
    hosts.wait_until_idle()
    assert hosts.ended(V4) == {V4: Destroyed(0, 0)}
    assert states(hosts.server, V4) == {"LISTEN": 1}


def waiting(thread: threading.Thread) -> str:
    """What a thread waits for in the kernel (proc_pid_wchan(5))."""
    return Path(f"/proc/self/task/{thread.native_id}/wchan").read_text()


def test_what_comes_meanwhile_is_ended_too(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = hosts.listener(V4)
    hosts.pair(listener, V4)
    end = hosts.connections._end
    late: list[socket.socket] = []

    def slow(names: Sequence[bytes]) -> dict[int, int]:
        if not late:
            late.extend(hosts.pair(listener, V4))
        return end(names)

    monkeypatch.setattr(hosts.connections, "_end", slow)
    assert hosts.ended(V4) == {V4: Destroyed(2, 0)}
    assert fate(late[0]) == RESET


# --- what a kernel may say ------------------------------------------------------------------------


def said(number: int, kind: int = NLMSG_ERROR, sequence: int = 0) -> Message:
    return Message(kind, 0, sequence, struct.pack("=i", -number))


LISTED, NOT_FOUND = said(0, NLMSG_DONE), said(errno.ENOENT)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ((LISTED, NOT_FOUND), ""),
        ((said(errno.ENOENT, NLMSG_DONE),), "the kernel has no tcp_diag: load that module"),
        ((NOT_FOUND,), "the kernel has no tcp_diag: load that module"),
        (
            (LISTED, said(errno.EOPNOTSUPP)),
            "the kernel cannot: it was built without CONFIG_INET_DIAG_DESTROY",
        ),
        ((LISTED, said(errno.EPERM)), "sock_diag: Operation not permitted"),
        ((LISTED, said(0)), "sock_diag: a socket that cannot exist was ended"),
        (
            (Message(sock_diag.SOCK_DIAG_BY_FAMILY, 0, 0, b""),),
            "cannot make sense of sock_diag: 0 bytes, too few for a socket",
        ),
        (
            (LISTED, Message(NLMSG_ERROR, 0, 0, b"")),
            "cannot make sense of sock_diag: 0 bytes, too few for an error number",
        ),
    ],
)
def test_it_says_why_the_kernel_cannot(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, answers: tuple[Message, ...], reason: str
) -> None:
    waiting = list(answers)

    def told(_: Connections, __: bytes, first: int, ___: int) -> Iterator[Message]:
        yield waiting.pop(0)._replace(sequence=first)

    pair = hosts.pair(hosts.listener(V4), V4)
    with monkeypatch.context() as patched, hosts.server.entered():
        patched.setattr(Connections, "_answers", told)
        connections = Connections()
    assert connections.why_not() == reason
    assert not waiting
    ended = connections.destroy([V4], boottime() + LONG_S)
    assert ended == {V4: Destroyed(0, 1) if reason else Destroyed(1, 0)}
    assert reason == "" or is_open(pair)


def test_a_kernel_without_sock_diag_is_an_error_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr("yaim_helper.kernel.connections.socket.socket", refused)
    with pytest.raises(KernelError, match="the kernel has no sock_diag"):
        Connections()


def test_what_the_kernel_refuses_is_left(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not asked for again. What has gone by itself is neither ended nor left."""
    listener = hosts.listener(V4)
    for _ in range(4):
        hosts.pair(listener, V4)
    end = hosts.connections._end
    asked = []

    def refusing(names: Sequence[bytes]) -> dict[int, int]:
        asked.append(len(names))
        end(names[1:3])
        return {0: errno.EPERM, 1: errno.ENOENT}

    monkeypatch.setattr(hosts.connections, "_end", refusing)
    assert hosts.ended(V4) == {V4: Destroyed(1, 2)}
    assert asked == [4]


def test_a_kernel_that_cannot_be_asked_leaves_all(hosts: Hosts) -> None:
    hosts.connections._socket.close()
    assert hosts.ended(V4) == {V4: Destroyed(0, 1)}
    assert hosts.connections.why_not() == ""


@contextmanager
def just_before(connections: Connections, act: Callable[[], object]) -> Iterator[None]:
    """Something happens right before each request: its outcome is there before the answer."""
    its = connections._socket

    class Between:
        recv, recvfrom = its.recv, its.recvfrom

        def send(self, request: bytes) -> int:
            act()
            return its.send(request)

    connections._socket = Between()  # type: ignore[assignment]
    yield
    connections._socket = its


def test_what_others_than_the_kernel_say_is_not_believed(hosts: Hosts) -> None:
    hosts.pair(hosts.listener(V4), V4)
    port = hosts.connections._socket.getsockname()[0]
    with hosts.server.entered():
        somebody = hosts.kept(
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sock_diag.NETLINK_SOCK_DIAG)
        )

    def say() -> None:
        number = hosts.connections._sequence - 1
        somebody.sendto(struct.pack("=IHHIIi", 20, NLMSG_DONE, 0, number, 0, 0), (port, 0))

    with just_before(hosts.connections, say):
        assert hosts.ended(V4) == {V4: Destroyed(1, 0)}


def test_the_answer_to_something_else_is_passed_over(hosts: Hosts) -> None:
    hosts.pair(hosts.listener(V4), V4)
    hosts.connections._sequence = 100
    other = sock_diag.destroy(sock_diag.NOBODY, NLM_F_ACK, 7)
    send = hosts.connections._socket.send
    with just_before(hosts.connections, lambda: send(other)):
        assert hosts.ended(V4) == {V4: Destroyed(1, 0)}


def test_a_list_that_was_not_read_to_its_end_is_in_nobodys_way(hosts: Hosts) -> None:
    """It keeps the kernel from telling another one."""
    listener = hosts.listener(V4)
    for _ in range(300):
        hosts.pair(listener, V4)
    hosts.connections._socket.send(sock_diag.all_sockets(socket.AF_INET, [V4], 7))
    assert hosts.ended(V4) == {V4: Destroyed(300, 0)}


def test_sequence_numbers_begin_again(hosts: Hosts) -> None:
    hosts.pair(hosts.listener(V4), V4)
    hosts.connections._sequence = 1 << 31
    assert hosts.ended(V4) == {V4: Destroyed(1, 0)}
    assert hosts.connections._sequence < 100
