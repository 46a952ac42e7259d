"""A disk that hangs under the record (fsfreeze(8)): adds wait for it, and nothing else does."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count
from pathlib import Path

import pytest
from yaim_helper.tools.history import History
from yaim_helper.tools.records import open_chain
from yaim_helper.tools.verify import Finding, Verification

from tests.helper.network import Change, boottime, new_network, present, wait_for, watching
from tests.helper.process import (
    ANSWER_WITHIN_S,
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Helper,
    Message,
    add,
    deadline_in,
    policy,
    running,
)
from tests.helper.serve.test_sd_notify import Manager, manager
from tests.helper.test_attack import OTHER, other_user
from yaim.lab.namespaces import Namespace

__all__ = ["manager"]

A, B, C, D = "192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::4"
HANGS: Message = {
    "result": "failed",
    "errno": None,
    "reason": "the disk of the audit record does not answer",
}
WITHIN_S = 0.5
"""What does not wait for the disk is done by then; what does, for at least a second."""
GRACE_S = 0.2


@dataclass(frozen=True, slots=True)
class Disk:
    path: Path
    """The path as seen from here."""

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Whoever writes there waits until the end of this, whatever becomes of the test."""
        script = 'cd "$0"; fsfreeze -f .; echo; read _; fsfreeze -u .'
        with subprocess.Popen(
            ("sh", "-c", script, str(self.path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as freezer:
            assert freezer.stdout is not None
            assert freezer.stdout.read(1) == b"\n"
            try:
                yield
            finally:
                freezer.communicate(b"\n")


@contextmanager
def on_own_disk(
    network: Namespace, tmp_path: Path, *around: str
) -> Iterator[tuple[Helper, Disk, Client]]:
    """A helper whose record is on an ext4 of its own, and holds A, B and C."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(("mkfs.ext4", "-q", str(image)), check=True)
    mounted = 'mount -o loop "$0" "$1"; shift; exec "$@"'
    inside = (*around, "unshare", "--mount", "sh", "-ec", mounted, str(image), str(disk))
    config = policy(disk / "audit")
    with running(network, tmp_path, config=config, around=inside) as helper:
        seen = Disk(Path(f"/proc/{helper.pid}/root{disk}"))
        with helper.greeted() as client:
            for each in (A, B, C):
                assert client.add(each)["result"] == "ok"
            yield helper, seen, client


def there(network: Namespace) -> list[str]:
    return [each.split()[1].split("/")[0] for each in present(network)]


def took_s(began: float) -> float:
    return boottime() - began


def at_least_once(each_s: Callable[[], float], within_s: float) -> None:
    """It is done within this time, of some tries: a busy machine may hold up any."""
    tries_s = [each_s()]
    while min(tries_s) >= within_s and len(tries_s) < 5:
        tries_s.append(each_s())
    assert min(tries_s) < within_s, tries_s


def add_anew(helper: Helper, client: Client, *addresses: str) -> None:
    """When the disk is back, and the helper knows that."""
    helper.wait_until_written()
    for each in addresses:
        wait_for(lambda each=each: client.add(each)["result"] == "ok", f"{each} is added")  # type: ignore[misc]


def essence(disk: Disk) -> list[tuple[str, ...]]:
    """Returns what is essential of the intents and results about addresses, and of what the helper
    did of itself."""
    segments = sorted((disk.path / "audit").glob("audit-*.jsonl"))
    records = [json.loads(line) for each in segments for line in each.read_text().splitlines()]
    return [
        (each["type"], each["op"], each["address"], each.get("outcome", ""))
        for each in records
        if each["type"] in ("intent", "result", "own") and "address" in each
    ]


def test_renewals_and_removals_do_not_wait_for_a_disk_that_hangs(
    network: Namespace, tmp_path: Path
) -> None:
    with on_own_disk(network, tmp_path) as (helper, disk, client):

        def asked_s() -> float:
            add_anew(helper, client, A, B)
            with disk.hanging():
                began = boottime()
                assert client.renew(deadline_in(60)) == {"result": "ok", "missing": []}
                assert client.remove(A) == OK_PRESENT
                assert client.renew(deadline_in(70)) == {"result": "ok", "missing": []}
                assert client.remove(B) == OK_PRESENT
                seconds = took_s(began)
                assert there(network) == [C]
            helper.wait_until_written()
            assert essence(disk)[-4:] == [
                ("intent", "remove", A, ""),
                ("result", "remove", A, "ok"),
                ("intent", "remove", B, ""),
                ("result", "remove", B, "ok"),
            ]
            return seconds

        at_least_once(asked_s, WITHIN_S)


def test_an_address_goes_at_its_deadline_and_is_extended_before_it_while_the_disk_hangs(
    network: Namespace, tmp_path: Path
) -> None:
    with on_own_disk(network, tmp_path) as (helper, disk, client):
        for each in (B, C):
            client.remove(each)
        deadline = deadline_in(6)
        assert client.renew(deadline)["result"] == "ok"
        with watching(network) as watch, disk.hanging():
            assert client.remove(B) == OK_ABSENT
            wait_for(lambda: Change("added", ip_address(A)) in watch.changes(), "it is extended")
            assert not watch.still_there({ip_address(A)}, deadline / 1e9 + GRACE_S)
            assert there(network) == []
            wait_for(lambda: boottime() > deadline / 1e9 + GRACE_S, "its deadline is past")
        helper.wait_until_written()
        assert [each[:3] for each in essence(disk)[-2:]] == [("own", "expire", A)] * 2


SLOW = """
import os, sys, time
# -c SECONDS python -I -m yaim_helper ...
slow_s, soon = float(sys.argv[1]), os.fdatasync
sys.argv[1:6] = []
def late(fd):
    time.sleep(slow_s)
    soon(fd)
os.fdatasync = late
from yaim_helper.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("slow_s", [0.01, 0.05, 0.25])
def test_a_slow_disk_that_another_user_keeps_busy_delays_no_renewal(
    network: Namespace, tmp_path: Path, slow_s: float
) -> None:
    """Eight connections that remove and add in a loop, each add durable first."""
    tmp_path.chmod(0o755)
    config = policy(tmp_path / "audit", users=(0, OTHER))
    around = (sys.executable, "-I", "-c", SLOW, str(slow_s))
    with running(network, tmp_path, config=config, around=around) as helper, ExitStack() as stack:
        helper.socket.chmod(0o666)
        busy = [stack.enter_context(helper.greeted(str(number))) for number in range(8)]
        victim = stack.enter_context(other_user(helper))
        assert victim.hello()["result"] == "ok"
        assert victim.add(A) == OK_ABSENT
        for each in busy:
            each.socket.setblocking(False)

        def slowest_s() -> float:
            slowest, until = 0.0, boottime() + 1
            while (began := boottime()) < until:
                for each in busy:
                    with suppress(BlockingIOError):
                        for _ in range(20):
                            each.send("remove", address=B)
                            each.send("add", **add(B))
                    with suppress(BlockingIOError):
                        while each.socket.recv(65537):
                            pass
                sent = boottime()
                assert victim.renew(deadline_in(30)) == {"result": "ok", "missing": []}
                slowest = max(slowest, took_s(sent))
                time.sleep(max(0.0, began + 0.02 - boottime()))
            return slowest

        at_least_once(slowest_s, WITHIN_S)
        done = [each for each in helper.records() if each.get("op") == "remove"]
        assert len(done) > 100, "it was busy"


def test_an_add_fails_within_a_second_and_is_not_done_when_the_disk_is_back(
    network: Namespace, tmp_path: Path
) -> None:
    """What its coordinator does then, leaving it to another node, would make two."""
    with on_own_disk(network, tmp_path) as (helper, disk, client):
        with disk.hanging():
            began = boottime()
            assert client.add(D) == HANGS
            assert took_s(began) > 0.9
            assert client.add(D) == HANGS
            assert client.ask("announce", address=A) == HANGS
        wait_for(lambda: "can be written again" in helper.log.read_text(), "the disk is back")
        assert D not in there(network)
        assert client.add(D)["result"] == "ok"
        assert D in there(network)
        helper.wait_until_written()
        assert [each for each in essence(disk) if each[2] == D] == [
            ("intent", "add", D, ""),
            ("result", "add", D, "refused"),
            ("result", "add", D, "refused"),
            ("intent", "add", D, ""),
            ("result", "add", D, "ok"),
        ]
        assert f"{tmp_path}/disk/audit: its disk does not answer: nothing" in helper.log.read_text()


def test_an_add_waits_for_the_disk_for_a_second_and_the_next_not_at_all(
    network: Namespace, tmp_path: Path
) -> None:
    with on_own_disk(network, tmp_path) as (helper, disk, client):

        def first_s() -> float:
            add_anew(helper, client, A)
            with disk.hanging():
                began = boottime()
                assert client.add(D) == HANGS
                return took_s(began)

        def next_s() -> float:
            add_anew(helper, client, A)
            with disk.hanging():
                assert client.add(D) == HANGS
                began = boottime()
                assert client.add(D) == HANGS
                assert client.ask("announce", address=A) == HANGS
                return took_s(began)

        at_least_once(first_s, 1.0 + WITHIN_S)
        at_least_once(next_s, WITHIN_S)


def test_a_removal_overtakes_the_adds_that_wait_and_ends_the_one_of_its_address(
    network: Namespace, tmp_path: Path
) -> None:
    with on_own_disk(network, tmp_path) as (helper, disk, client):

        def removed_s() -> float:
            add_anew(helper, client, A)
            with disk.hanging():
                began = boottime()
                asked = [
                    client.send("add", **add(A)),
                    client.send("add", **add(D)),
                    client.send("remove", address=A),
                ]
                wait_for(lambda: A not in there(network), "it is removed")
                seconds = took_s(began)
                over, late, removed = map(client.receive, asked)
            assert (over["reason"], late, removed) == (
                "its removal was asked for while it waited for the disk",
                HANGS,
                OK_PRESENT,
            )
            assert there(network) == [B, C]
            return seconds

        at_least_once(removed_s, WITHIN_S)


def test_a_connection_that_ends_is_there_until_nothing_waits(
    network: Namespace, tmp_path: Path
) -> None:
    """Else who comes back is told by `list` what he has, and gets more of it later."""
    with on_own_disk(network, tmp_path) as (helper, disk, client):
        with disk.hanging():
            client.send("add", **add(D))
            client.__exit__()
            with helper.connect() as other:
                assert other.hello()["code"] == "busy"

            def is_welcome() -> bool:
                with helper.connect() as other:
                    if other.hello()["result"] != "ok":
                        return False
                    return D not in {each["address"] for each in other.list()["addresses"]}

            wait_for(is_welcome, "the first is over")
        assert there(network) == [A, B, C]


def test_what_waits_for_the_disk_is_over_when_the_rules_change(
    network: Namespace, tmp_path: Path
) -> None:
    """SIGHUP is heeded meanwhile: before the add has failed, which would be told."""
    with on_own_disk(network, tmp_path) as (helper, disk, client):
        config = json.loads((tmp_path / "helper.yml").read_text())
        config["rules"][0]["networks"] = ["192.0.2.0/24"]
        (tmp_path / "helper.yml").write_text(json.dumps(config))
        with disk.hanging():
            client.send("add", **add(D))
            helper.process.send_signal(signal.SIGHUP)
            assert client.is_hung_up()
        helper.wait_until_written()
        assert there(network) == [A, B, C]
        assert essence(disk)[-1] == ("result", "add", D, "refused")


def test_the_watchdog_is_fed_while_the_disk_hangs(
    network: Namespace, tmp_path: Path, manager: Manager
) -> None:
    around = manager.around("WATCHDOG_USEC=400000")
    with on_own_disk(network, tmp_path, *around) as (_, disk, client), disk.hanging():
        client.send("remove", address=A)
        manager.wait_until_told(
            f"STATUS={tmp_path}/disk/audit: its disk does not answer: nothing is added until it"
            " does; what is held is renewed and removed"
        )
        began = boottime()
        for _ in range(10):
            manager.wait_until_told("WATCHDOG=1")
        assert took_s(began) / 10 < 0.4


def test_a_stop_hangs_up_at_once_and_does_not_wait_for_the_disk_for_long(
    tmp_path: Path, manager: Manager
) -> None:
    numbers = count()

    def hung_up_s() -> float:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        around = manager.around()
        with (
            new_network() as network,
            on_own_disk(network, directory, *around) as (helper, disk, client),
        ):
            with disk.hanging():
                assert client.remove(A) == OK_PRESENT
                # There is room for what comes then.
                manager.told()
                began = boottime()
                helper.process.terminate()
                manager.wait_until_told("STOPPING=1")
                assert client.is_hung_up()
                seconds = took_s(began)
                time.sleep(1.2)
            assert helper.process.wait(ANSWER_WITHIN_S) == 0
        return seconds

    at_least_once(hung_up_s, WITHIN_S)


def test_a_record_with_a_hang_in_it_is_whole_and_proves_what_was_held(
    network: Namespace, tmp_path: Path
) -> None:
    with on_own_disk(network, tmp_path) as (helper, disk, client):
        with disk.hanging():
            assert client.add(D) == HANGS
            assert client.remove(A) == OK_PRESENT
            removed_at = time.time()
        helper.wait_until_written()
        findings: list[Finding] = []
        history = History("n1")
        verification = Verification(open_chain(disk.path / "audit"), findings.append)
        for record in verification.records():
            history.take(record)
        history.finish(verification.marker)
        assert findings == []
        intervals = {each.address: each for each in history.intervals}
        assert set(intervals) == {A, B, C}, "what was not done was nowhere"
        assert intervals[A].possible[1] <= removed_at * 1e6
