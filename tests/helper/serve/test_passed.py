"""What a client passes along with its words: file descriptors whose last close takes long. On this
kernel a helper refuses them (SO_PASSRIGHTS, Linux 6.16); here it is as on those before."""

import contextlib
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helper.network import boottime, present, wait_for
from tests.helper.process import (
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Helper,
    deadline_in,
    policy,
    running,
)
from tests.helper.record.test_disk import at_least_once, took_s
from tests.helper.test_attack import (
    OTHER,
    V4,
    V6,
    descriptors,
    other_user,
    rss_kib,
    settled,
    written,
)
from yaim.lab.namespaces import DIES_WITH_US, Namespace

LIST = b'{"op": "list", "after": "", "id": 2}'
WITHIN_S = 0.2
"""A renewal or a removal of somebody else, meanwhile. A helper that acts too late by 0.1 s ends."""
OF_USER, IN_ALL, MORE_AT_ONCE = 8, 64, 16
"""Connections, and those that are not closed yet."""
EXTENTS = 2000

BEFORE_6_16 = """
import ctypes, os, struct, sys
# seccomp(2): setsockopt(_, _, SO_PASSRIGHTS, ...) is ENOPROTOOPT, all else is as it is.
call, option = map(int, sys.argv[1:3])
steps = (0x20, 0, 0, 0), (0x15, 0, 3, call), (0x20, 0, 0, 32), (0x15, 0, 1, option)
steps += (0x06, 0, 0, 0x50000 | 92), (0x06, 0, 0, 0x7FFF0000)
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
if ctypes.CDLL(None).prctl(22, 2, program, 0, 0):
    sys.exit("no seccomp here")
os.execvp(sys.argv[3], sys.argv[3:])
"""
_SETSOCKOPT = {"x86_64": "54", "aarch64": "208"}[platform.machine()]
AROUND = (sys.executable, "-I", "-c", BEFORE_6_16, _SETSOCKOPT, "83")


@contextlib.contextmanager
def older_kernel(network: Namespace, directory: Path) -> Iterator[tuple[Helper, Client]]:
    """A helper that cannot refuse them, for this user and OTHER, who holds V4 and V6."""
    directory.chmod(0o755)
    config = policy(directory / "audit", users=(0, OTHER))
    with running(network, directory, config=config, around=AROUND) as helper:
        helper.socket.chmod(0o666)
        with other_user(helper) as victim:
            assert victim.hello()["result"] == "ok"
            for each in (V4, V6):
                assert victim.add(each) == OK_ABSENT
            yield helper, victim


# --- what takes long to close ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Disk:
    path: Path
    """The path as seen from here."""
    below: Path
    """Its own file is there."""

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """The last close of a file that has no name any more waits until the end of this, and no
        signal ends that."""
        subprocess.run(("fsfreeze", "-f", str(self.below)), check=True)
        try:
            yield
        finally:
            subprocess.run(("fsfreeze", "-u", str(self.below)), check=True)


@contextlib.contextmanager
def on_disk(directory: Path) -> Iterator[Disk]:
    """An ext4 whose every change waits for its disk: a file on one that can be frozen."""
    script = """
        cd "$0"; mkdir below disk
        truncate -s 64M image; mkfs.ext4 -q image; mount -o loop image below
        truncate -s 32M below/image; mkfs.ext4 -q below/image; mount -o loop,sync below/image disk
        echo; exec cat
    """
    with subprocess.Popen(
        (*DIES_WITH_US, "unshare", "--mount", "sh", "-ec", script, str(directory)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.read(1) == b"\n", "cannot mount an image"
            seen = Path(f"/proc/{holder.pid}/root{directory}")
            yield Disk(seen / "disk", seen / "below")
        finally:
            holder.kill()


def nameless(disk: Disk) -> int:
    path = disk.path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(4096))
    path.unlink()
    return fd


def many_extents(directory: Path) -> int:
    """4 kB each, on any file system that has extents."""
    path = directory / "extents"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for number in range(EXTENTS):
        os.pwrite(fd, bytes(4096), number * 8192)
    os.fsync(fd)
    path.unlink()
    return fd


def much_memory(_: Path) -> int:
    fd = os.memfd_create("much")
    for _mib in range(256):
        os.write(fd, bytes(1 << 20))
    return fd


def lingering(_: Path | None = None) -> int:
    """A file descriptor of a connection that, when it is closed, waits for its peer to read, which
    it never does; the only one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        reader, _address = listener.accept()
        reader.detach()
    sender.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sender.send(bytes(65536))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("2i", 1, 3600))
    return sender.detach()


def pass_along(client: Client, packet: bytes, fds: Sequence[int]) -> None:
    """And have them no more. If their last close hangs the helper must be stopped: else it may be
    ours."""
    socket.send_fds(client.socket, [packet], list(fds))
    for fd in set(fds):
        # Not the last: it does not wait.
        os.close(fd)


def slowest_s(victim: Client, for_s: float) -> float:
    """Returns how long the slowest took of renewals, removals and adds one after the other, for so
    long."""
    slowest, until = 0.0, boottime() + for_s
    while (began := boottime()) < until:
        assert victim.renew(deadline_in(30)) == {"result": "ok", "missing": []}
        assert victim.remove(V4) == OK_PRESENT
        assert victim.add(V4) == OK_ABSENT
        slowest = max(slowest, took_s(began))
        time.sleep(0.005)
    return slowest


# --- nobody waits for it ------------------------------------------------------------------------


def test_file_descriptors_do_not_stay(network: Namespace, tmp_path: Path) -> None:
    with older_kernel(network, tmp_path) as (helper, victim):
        before = settled(helper)
        for number in (1, 2, 10, 252, 253):
            with helper.greeted(str(number)) as client:
                pass_along(client, LIST, [os.dup(0)] * number)
                assert client.is_hung_up()
        assert victim.add(V4) == OK_PRESENT
        wait_for(lambda: descriptors(helper) == before, "all are closed")
        reasons = [each["reason"] for each in helper.records() if each["type"] == "hung-up"]
    assert reasons == ["malformed: too long, or with file descriptors"] * 5


def test_nobody_waits_for_a_file_that_is_passed_along(network: Namespace, tmp_path: Path) -> None:
    """Its last close waits for a disk that hangs. So it is with packets that
    are read, with those behind them, and with those of who is not let in."""
    with (
        older_kernel(network, tmp_path) as (helper, victim),
        on_disk(tmp_path) as disk,
        contextlib.ExitStack() as stack,
    ):
        before = settled(helper)

        def while_it_hangs_s() -> float:
            fds = [nameless(disk) for _ in range(OF_USER + 2)]
            with disk.hanging():
                with helper.stopped():
                    for number, fd in enumerate(fds):
                        client = stack.enter_context(helper.connect())
                        client.send("hello", version=1, cluster=str(number), node="n")
                        pass_along(client, b"" if number % 2 else LIST, [fd])
                with helper.connect() as one_more:
                    assert one_more.is_hung_up(), "what is not closed yet counts"
                slowest = slowest_s(victim, 1.0)
            stack.close()
            wait_for(lambda: descriptors(helper) == before, "all are closed")
            return slowest

        at_least_once(while_it_hangs_s, WITHIN_S)


@pytest.mark.parametrize("made", [many_extents, much_memory, lingering])
def test_what_takes_long_to_close_delays_nobody(
    network: Namespace, tmp_path: Path, made: Callable[[Path], int]
) -> None:
    with older_kernel(network, tmp_path) as (helper, victim):
        before, rss_before = settled(helper), rss_kib(helper)

        def passed_s() -> float:
            fds = [made(tmp_path) for _ in range(2)]
            with helper.greeted("a") as one, helper.greeted("b") as other:
                with helper.stopped():
                    pass_along(one, LIST, fds[:1])
                    other.socket.send(b"malformed")
                    pass_along(other, LIST, fds[1:])
                slowest = slowest_s(victim, 0.3)
            wait_for(lambda: descriptors(helper) == before, "all are closed")
            return slowest

        at_least_once(passed_s, WITHIN_S)
        assert rss_kib(helper) < rss_before + 1024


def test_nobody_waits_for_a_socket_that_is_passed_along(network: Namespace, tmp_path: Path) -> None:
    """Its sender could keep it open for an hour, and with it his connections, and those of all."""
    with (
        older_kernel(network, tmp_path) as (helper, victim),
        helper.greeted("1") as one,
        helper.greeted("2") as two,
    ):
        before = settled(helper)
        with helper.stopped():
            pass_along(one, LIST, [lingering()])
            for _ in range(2):
                two.socket.send(b"malformed")
            for packet in (b"", LIST, b"x" * 2000):
                pass_along(two, packet, [lingering(), os.dup(0)])
        assert [each.is_hung_up() for each in (one, two)] == [True, True]
        assert victim.add(V4) == OK_PRESENT
        wait_for(lambda: descriptors(helper) == before - 2, "both are closed")


def test_who_passes_along_what_hangs_keeps_others_out_only_when_64_wait(
    network: Namespace, tmp_path: Path
) -> None:
    """There is an end to what waits; who is connected is served, and the others are let in when it
    is closed."""
    with (
        older_kernel(network, tmp_path) as (helper, victim),
        on_disk(tmp_path) as disk,
        contextlib.ExitStack() as stack,
    ):
        before = settled(helper)
        fds = [nameless(disk) for _ in range(IN_ALL // 2)]
        with disk.hanging():
            with helper.stopped():
                for fd in fds:
                    pass_along(stack.enter_context(helper.connect()), LIST, [fd])
            for _ in range(2 * OF_USER):  # each is closed at once
                with other_user(helper) as another:
                    assert another.hello("another")["result"] == "ok"
            for _ in range(2):
                os.kill(helper.pid, signal.SIGSTOP)  # one of its threads hangs
                for _ in range(IN_ALL // 2):
                    null = os.open(os.devnull, os.O_RDONLY)
                    pass_along(stack.enter_context(helper.connect()), LIST, [null])
                os.kill(helper.pid, signal.SIGCONT)
            # That of the one that is just being closed is gone.
            wait_for(lambda: descriptors(helper) >= before + IN_ALL - 1, "so many wait")
            late = stack.enter_context(other_user(helper))
            late.socket.settimeout(0.5)
            with pytest.raises(TimeoutError):
                late.hello("another")
            assert descriptors(helper) <= before + IN_ALL + MORE_AT_ONCE
            assert victim.renew(deadline_in(30)) == {"result": "ok", "missing": []}
        late.socket.settimeout(20)
        assert late.receive(1)["result"] == "ok"
        stack.close()
        wait_for(lambda: descriptors(helper) == before, "all are closed")


def test_what_hangs_when_a_helper_is_killed_keeps_no_address_past_its_deadline(
    network: Namespace, tmp_path: Path
) -> None:
    """Its process is there until the file is closed: no other takes its place. The kernel ends what
    it held."""
    with (
        older_kernel(network, tmp_path) as (helper, victim),
        on_disk(tmp_path) as disk,
        helper.greeted("a") as client,
    ):
        fd = nameless(disk)
        with disk.hanging():
            deadline = boottime() + 4
            assert victim.renew(round(deadline * 1e9))["result"] == "ok"
            with helper.stopped():
                pass_along(client, LIST, [fd])
            assert client.is_hung_up()
            assert victim.renew(round(deadline * 1e9))["result"] == "ok"
            os.kill(helper.pid, signal.SIGKILL)
            wait_for(lambda: present(network) == [], "the kernel ends them", 10)
            assert boottime() < deadline + 0.3
            assert helper.process.poll() is None
        helper.process.wait(20)


def test_file_descriptors_are_refused_or_let_go(helper: Helper, client: Client) -> None:
    """Refused to the sender since Linux 6.16."""
    before = settled(helper)
    try:
        pass_along(client, LIST, [os.dup(0)])
    except PermissionError:
        assert client.list()["result"] == "ok"
        assert descriptors(helper) == before
    else:
        assert client.is_hung_up()
        wait_for(lambda: descriptors(helper) == before - 1, "it is closed")


def test_credentials_that_are_passed_along_do_not_count(helper: Helper, client: Client) -> None:
    theirs = struct.pack("3i", os.getpid(), OTHER, OTHER)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, theirs)]
    client.socket.sendmsg([written()], ancillary)
    assert client.receive(2) == OK_ABSENT
    recorded = [each["peer"]["uid"] for each in helper.records() if each.get("op") == "add"]
    assert recorded == [0, 0]
