"""A helper with a fence: what is answered on the wire is the judge."""

import json
import os
import re
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv6Address
from itertools import pairwise
from pathlib import Path

import pytest
from yaim_helper.kernel.fence import Ruleset, unmake
from yaim_helper.protocol import Address

from tests.helper import client as wire
from tests.helper.client import V4, V6, neighbour, pinging
from tests.helper.network import boottime, is_readable, present, wait_for
from tests.helper.process import (
    NETWORK,
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Helper,
    Message,
    add,
    deadline_in,
    policy,
    read_records,
    running,
    started,
    wait_until_ready,
)
from tests.routing_lock import routing_lock_held
from yaim.lab.namespaces import Namespace

MUTED = [False, False]
ANSWERS = [True, True]
GRACE_S = 0.05
"""helper/PROTOCOL.md: with a fence nothing answers later than this after its deadline."""
GAP_S = 0.15
"""For so long it may seem silent because who asks has no processor."""


@pytest.fixture
def client(network: Namespace) -> Iterator[wire.Client]:
    with neighbour(network) as client:
        yield client


@pytest.fixture
def helper(network: Namespace, tmp_path: Path) -> Iterator[Helper]:
    config = policy(tmp_path / "audit", fence="auto")
    with running(network, tmp_path, config=config) as helper:
        yield helper


def tables(network: Namespace) -> str:
    return network.run("nft", "list", "ruleset")


def test_hello_tells_that_the_fence_is_in_force(helper: Helper) -> None:
    with helper.connect() as asks:
        assert asks.hello()["fence"] == {"in_force": True, "reason": ""}


def test_what_is_held_answers_until_its_deadline(helper: Helper, client: wire.Client) -> None:
    with helper.greeted() as asks:
        at = boottime()
        for each in (V4, V6):
            deadline_ns = round((at + 1.5) * 1e9)
            assert asks.add(str(each), deadline_ns=deadline_ns) == OK_ABSENT
            assert client.is_answered_by(each) == ANSWERS
        os.kill(helper.pid, signal.SIGSTOP)
        last_s = client.last_answer_s(V4, 1.0)
        time.sleep(max(0.0, at + 1.6 - boottime()))
        assert client.is_answered_by(V4) == client.is_answered_by(V6) == MUTED
        os.kill(helper.pid, signal.SIGCONT)
        assert last_s > 0.3


def test_a_renewal_is_for_all(helper: Helper, client: wire.Client) -> None:
    with helper.greeted() as asks:
        for each in (V4, V6):
            assert asks.add(str(each), deadline_ns=deadline_in(0.7)) == OK_ABSENT
        for _ in range(10):
            time.sleep(0.2)
            assert asks.renew(deadline_in(0.7)) == {"result": "ok", "missing": []}
            assert client.is_answered_by(V4) == client.is_answered_by(V6) == ANSWERS


@pytest.mark.alone
def test_the_routing_lock_holds_up_no_renewal(
    network: Namespace, helper: Helper, client: wire.Client
) -> None:
    with helper.greeted() as asks:
        assert asks.add(str(V4), deadline_ns=deadline_in(1.0)) == OK_ABSENT
        with routing_lock_held():
            began = boottime()
            number = asks.send("add", **wire_add(V6))
            removed = asks.send("remove", address="192.0.2.77")
            failed: list[Message] = []
            while boottime() < began + 4.0:
                asked = asks.send("renew", deadline_ns=deadline_in(1.5))
                if not failed:
                    failed = [asks.receive(number), asks.receive(removed)]
                assert asks.receive(asked)["result"] == "ok"
                assert client.is_answered_by(V4) == ANSWERS
                time.sleep(0.2)
            assert [each["result"] for each in failed] == ["failed", "failed"]
            assert "RTNL" in failed[0]["reason"]
        assert asks.renew(deadline_in(20.0)) == {"result": "ok", "missing": []}
        wait_for(lambda: any(str(V6) in each for each in present(network)), "the add is done")
        assert client.is_answered_by(V6, 2.0) == ANSWERS
        assert asks.remove(str(V6)) == OK_PRESENT
        assert asks.remove(str(V4)) == OK_PRESENT
        assert "yaim" not in tables(network)


def test_a_renewal_that_comes_after_the_deadline_revives_nothing(
    network: Namespace, helper: Helper, client: wire.Client
) -> None:
    """It was asked for before, and waited."""
    with helper.greeted() as asks:
        until = deadline_in(0.7)
        for each in (V4, V6):
            assert asks.add(str(each), deadline_ns=until) == OK_ABSENT
        with helper.stopped():
            asked = asks.send("renew", deadline_ns=deadline_in(20.0))
            time.sleep(max(0.0, until / 1e9 + GRACE_S - boottime()))
            assert client.heard((V4, V6), boottime() + 0.1) == set()
        assert client.heard((V4, V6), boottime() + 0.3) == set()
        told = set(asks.receive(asked)["missing"])
        assert told <= {str(V4), str(V6)}
        wait_for(lambda: not on_interface(network), "they are removed")
        told |= set(asks.renew(deadline_in(20.0))["missing"])
        assert told == {str(V4), str(V6)}
        assert client.heard((V4, V6), boottime() + 0.1) == set()


def wire_add(address: Address) -> dict[str, object]:
    return {
        "interface": "veth0",
        "address": str(address),
        "prefix": address.max_prefixlen,
        "label": "",
        "deadline_ns": deadline_in(20.0),
    }


def renew_until(asks: Client, until: float, for_s: float = 1.0) -> float:
    """Renews again and again until that instant, and returns the last deadline."""
    deadline_ns = 0
    while boottime() < until:
        deadline_ns = deadline_in(for_s)
        assert asks.renew(deadline_ns) == {"result": "ok", "missing": []}
        time.sleep(0.1)
    return deadline_ns / 1e9


@pytest.mark.alone
def test_who_holds_the_routing_lock_for_ten_seconds_makes_nothing_answer_too_long(
    network: Namespace, helper: Helper, client: wire.Client
) -> None:
    """One owner renews; another does not. A third has asked for a removal, and renews."""
    renewed, left, removed, added = V4, V6, V4 + 1, V6 + 1
    everything = (renewed, left, removed, added)
    with (
        helper.greeted("one") as one,
        helper.greeted("two") as two,
        helper.greeted("three") as three,
        pinging(network, *everything) as pings,
    ):
        assert one.add(str(renewed), deadline_ns=deadline_in(1.0)) == OK_ABSENT
        left_until = deadline_in(3.0)
        assert two.add(str(left), deadline_ns=left_until) == OK_ABSENT
        removed_until = deadline_in(3.0)
        assert three.add(str(removed), deadline_ns=removed_until) == OK_ABSENT
        began = boottime()
        with routing_lock_held():
            asked = [
                (three, three.send("remove", address=str(removed))),
                (two, two.send("add", **add(str(added), deadline_ns=deadline_in(3.0)))),
            ]
            three_renews = three.send("renew", deadline_ns=deadline_in(30.0))
            replies = []
            renew_until(one, began + 0.8)
            assert not is_readable(two.socket)
            renew_until(one, began + 2.0)
            for who, number in asked:
                replies.append(who.receive(number))
            assert three.receive(three_renews)["result"] == "ok"
            until = renew_until(one, began + 10.0)
            assert boottime() < until
            # As it is if the helper dies just then.
            assert {str(left), str(removed)} <= set(on_interface(network))
        assert [each["result"] for each in replies] == ["failed"] * 2
        until = renew_until(one, boottime() + 1.0)
        assert str(renewed) in on_interface(network)
        wait_for(lambda: on_interface(network) == [str(renewed)], "the others are removed")
        time.sleep(0.2)
    assert pings.longest_silence_s(renewed, began, until - 1.0) < GAP_S
    assert pings.last(left) < left_until / 1e9 + GRACE_S
    assert pings.last(removed) < removed_until / 1e9 + GRACE_S
    assert pings.last(added) == 0.0
    assert pings.last(left) > left_until / 1e9 - GAP_S


@pytest.mark.alone
def test_what_waits_for_the_routing_lock_is_done_afterwards(
    network: Namespace, helper: Helper, client: wire.Client
) -> None:
    with helper.greeted() as asks:
        assert asks.add(str(V4), deadline_ns=deadline_in(20.0)) == OK_ABSENT
        with routing_lock_held():
            asked = [
                asks.send("add", **add(str(V6), deadline_ns=deadline_in(20.0))),
                asks.send("remove", address=str(V4)),
            ]
            began = boottime()
            assert [asks.receive(each)["result"] for each in asked] == ["failed"] * 2
            assert 0.8 < boottime() - began < 1.5
        wait_for(lambda: on_interface(network) == [str(V6)], "both are done")
        assert client.is_answered_by(V6, 2.0) == ANSWERS
        assert asks.add(str(V6), deadline_ns=deadline_in(20.0)) == OK_PRESENT
        assert asks.remove(str(V4)) == OK_ABSENT
    outcomes = {e["op"]: e["outcome"] for e in helper.records() if e["type"] == "result"}
    assert (outcomes["add"], outcomes["remove"]) == ("ok", "ok")


def on_interface(network: Namespace) -> list[str]:
    """The addresses of the pool, as the kernel tells without its routing lock."""
    v4 = network.run("cat", "/proc/net/fib_trie").splitlines()
    found = {a.split()[-1] for a, what in pairwise(v4) if "/32 host LOCAL" in what}
    for line in network.run("cat", "/proc/net/if_inet6").splitlines():
        found.add(str(IPv6Address(int(line.split()[0], 16))))
    pool = [*(V4 + n for n in range(10)), *(V6 + n for n in range(10))]
    return [str(each) for each in pool if str(each) in found]


# --- several helpers ---------------------------------------------------------------------------


def test_helpers_that_start_at_the_same_time_on_one_host_all_have_a_fence(
    network: Namespace, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        helpers = []
        for number in range(6):
            directory = tmp_path / str(number)
            directory.mkdir()
            config = policy(directory / "audit", fence="auto")
            helpers.append(stack.enter_context(started(network, directory, config=config)))
        for each in helpers:
            wait_until_ready(each)
            with each.connect() as asks:
                assert asks.hello()["fence"] == {"in_force": True, "reason": ""}


def test_a_helper_that_starts_does_not_touch_what_another_one_keeps(
    network: Namespace, tmp_path: Path, client: wire.Client
) -> None:
    configs = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        configs.append(policy(tmp_path / name / "audit", fence="auto"))
    with (
        running(network, tmp_path / "one", config=configs[0]) as one,
        one.greeted() as asks,
        pinging(network, V4) as pings,
    ):
        assert asks.add(str(V4), deadline_ns=deadline_in(2.0)) == OK_ABSENT
        since = boottime()
        with (
            running(network, tmp_path / "other", config=configs[1]) as other,
            other.greeted() as others,
        ):
            assert others.add(str(V6), deadline_ns=deadline_in(20.0)) == OK_ABSENT
            until = renew_until(asks, boottime() + 3.0, 2.0)
            assert pings.longest_silence_s(V4, since, boottime()) < GAP_S
            with one.stopped():
                time.sleep(max(0.0, until + GRACE_S - boottime()))
                # The other one looks at what is over.
                assert client.heard((V4,), boottime() + 3.0) == set()
            assert client.is_answered_by(V6) == ANSWERS
            assert others.remove(str(V6)) == OK_PRESENT
        wait_for(lambda: not on_interface(network), "both are removed")


# --- restarts ----------------------------------------------------------------------------------


def test_what_the_next_life_takes_over_answers_all_the_time(
    network: Namespace, tmp_path: Path, client: wire.Client
) -> None:
    config = policy(tmp_path / "audit", fence="auto")
    with pinging(network, V4, V6) as pings:
        with running(network, tmp_path, config=config) as first, first.greeted() as asks:
            for each in (V4, V6):
                assert asks.add(str(each), deadline_ns=deadline_in(6.0)) == OK_ABSENT
            since = boottime()
            first.end(signal.SIGKILL)
        with running(network, tmp_path, config=config) as second, second.greeted() as asks:
            for each in (V4, V6):
                assert asks.add(str(each), deadline_ns=deadline_in(6.0)) == OK_PRESENT
            renew_until(asks, boottime() + 1.0)
            until = boottime()
            assert asks.renew(deadline_in(2.0))["result"] == "ok"
    silences = [pings.longest_silence_s(each, since, until) for each in (V4, V6)]
    assert max(silences) < GAP_S


def test_what_nobody_takes_over_is_over_at_its_deadline_and_then_removed(
    network: Namespace, tmp_path: Path, client: wire.Client
) -> None:
    config = policy(tmp_path / "audit", fence="auto")
    with running(network, tmp_path, config=config) as first, first.greeted() as asks:
        until = deadline_in(3.0)
        for each in (V4, V6):
            assert asks.add(str(each), deadline_ns=until) == OK_ABSENT
        first.end(signal.SIGKILL)
    with (
        running(network, tmp_path, config=config) as second,
        second.greeted() as asks,
        pinging(network, V4, V6) as pings,
    ):
        time.sleep(max(0.0, until / 1e9 - 0.3 - boottime()))
        assert asks.renew(deadline_in(20.0)) == {"result": "ok", "missing": []}
        wait_for(lambda: not on_interface(network), "they are removed")
        wait_for(lambda: "yaim" not in tables(network), "their tables are, too")
        assert second.process.poll() is None
    for each in (V4, V6):
        assert until / 1e9 - GAP_S < pings.last(each) < until / 1e9 + GRACE_S


@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "too late"])
def test_what_is_held_from_before_the_fence_was_switched_off_or_on(
    network: Namespace, tmp_path: Path, client: wire.Client, is_late: bool
) -> None:
    """A life with a fence, one without, and one with it again."""
    fenced, plain = (policy(tmp_path / "audit", fence=each) for each in ("auto", "off"))
    lasts_s = 3.6 if is_late else 8.0
    with pinging(network, V4, V6) as pings:
        for config in (fenced, plain, fenced):
            with running(network, tmp_path, config=config) as helper, helper.greeted() as asks:
                until = deadline_in(lasts_s)
                for each in (V4, V6):
                    assert asks.add(str(each), deadline_ns=until)["result"] == "ok"
                    wait_for(lambda e=each: client.is_answered_by(e) == ANSWERS, "it answers")  # type: ignore[misc]
                helper.end(signal.SIGKILL)
            if is_late:
                time.sleep(max(0.0, until / 1e9 + 0.25 - boottime()))
                quiet_since = boottime()
                assert client.heard((V4, V6), boottime() + 0.2) == set()
                with running(network, tmp_path, config=fenced) as helper:
                    assert client.heard((V4, V6), boottime() + 0.5) == set()
                    helper.end(signal.SIGKILL)
                assert max(map(pings.last, (V4, V6))) < quiet_since
        with running(network, tmp_path, config=plain) as helper, helper.greeted() as asks:
            for each in (V4, V6):
                assert asks.remove(str(each))["result"] == "ok"
            wait_for(lambda: "yaim" not in tables(network), "no table is left")


# --- others who change the ruleset -------------------------------------------------------------

CHANGES = (
    "flush ruleset",
    "delete table inet {0}",
    "delete table arp {0}",
    "delete element inet {0} held4 {{ 192.0.2.10 }}",
    "delete element arp {0} held {{ 192.0.2.10 }}",
    "flush set inet {0} held6",
    "flush set inet {0} chosen1",
    "flush chain inet {0} in",
    "flush table arp {0}",
    "insert rule inet {0} in accept",
    "add element inet {0} muted6 {{ 2001:db8::10 }}",
)


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_changes_in_the_fence_is_made_as_it_was(
    network: Namespace, helper: Helper, client: wire.Client, change: str
) -> None:
    with helper.greeted() as asks:
        until = deadline_in(3.0)
        for each in (V4, V6):
            assert asks.add(str(each), deadline_ns=until) == OK_ABSENT
        before = tables(network)
        (name,) = set(re.findall(r"yaim-\d+", before))
        network.run("nft", change.format(name))
        told = wait_for(lambda: made_anew(helper), "it is made anew and on record")
        assert told[0]["cluster"] == "test"
        assert without_times(tables(network)) == without_times(before)
        assert client.is_answered_by(V4) == client.is_answered_by(V6) == ANSWERS
        assert "flushed the ruleset" in helper.log.read_text()
        os.kill(helper.pid, signal.SIGSTOP)
        time.sleep(max(0.0, until / 1e9 + GRACE_S - boottime()))
        assert client.heard((V4, V6), boottime() + 0.2) == set()
        os.kill(helper.pid, signal.SIGCONT)


def made_anew(helper: Helper) -> list[Message]:
    return [
        each
        for each in read_records(helper.audit_log)
        if each["type"] == "fence" and each["outcome"] == "made"
    ]


def without_times(ruleset: str) -> list[str]:
    """A ruleset's lines, whichever `live` is in force and for how long."""
    text = re.sub(r"\tset (live|chosen)[12] \{.*?\n\t\}\n", "", ruleset, flags=re.DOTALL)
    return sorted(text.replace(" \t", "\t").splitlines())


def test_a_flushed_fence_is_there_again_in_some_milliseconds(
    network: Namespace, helper: Helper
) -> None:
    with network.entered():
        ruleset = Ruleset()
    took_ms = []
    with helper.greeted() as asks:
        assert asks.add(str(V4)) == OK_ABSENT
        for _ in range(21):
            (name,) = ruleset.tables()
            unmake(ruleset, name)
            began = time.monotonic()
            while not ruleset.is_live(name):
                pass
            took_ms.append((time.monotonic() - began) * 1000)
            time.sleep(0.05)
    ruleset.close()
    assert statistics.median(took_ms) < 100


def test_who_flushes_the_ruleset_all_the_time_does_not_keep_the_helper_from_its_work(
    network: Namespace, helper: Helper, client: wire.Client
) -> None:
    with network.entered():
        ruleset = Ruleset()
    asked = 0
    with helper.greeted() as asks:
        assert asks.add(str(V4), deadline_ns=deadline_in(5.0)) == OK_ABSENT
        (name,) = ruleset.tables()
        is_over = threading.Event()

        def flush() -> None:
            while not is_over.wait(0.01):
                unmake(ruleset, name)

        flushing = threading.Thread(target=flush)
        flushing.start()
        began = boottime()
        while boottime() < began + 3.0:
            for reply in (
                asks.renew(deadline_in(5.0)),
                asks.add(str(V6), deadline_ns=deadline_in(5.0)),
                asks.remove(str(V6)),
            ):
                # In a moment between two flushes it may not be there for the third time.
                assert reply["result"] in ("ok", "failed"), reply
                asked += 1
        is_over.set()
        flushing.join()
        assert asked > 30
        assert asks.renew(deadline_in(5.0)) == {"result": "ok", "missing": []}
        wait_for(lambda: client.is_answered_by(V4) == ANSWERS, "it answers")
        until = deadline_in(1.0)
        assert asks.renew(until)["result"] == "ok"
        os.kill(helper.pid, signal.SIGSTOP)
        time.sleep(max(0.0, until / 1e9 + GRACE_S - boottime()))
        assert client.heard((V4,), boottime() + 0.2) == set()
        os.kill(helper.pid, signal.SIGCONT)
    ruleset.close()


OTHERS = """
table inet filter {
    set some { type ipv4_addr; flags timeout; }
    chain input {
        type filter hook input priority filter; policy accept;
        ip saddr 203.0.113.7 drop
    }
}
table arp other {
    chain in {
        type filter hook input priority filter; policy accept;
    }
}
table ip yaim {
    chain in {
        type filter hook input priority filter; policy accept;
    }
}
"""


def test_no_other_table_is_touched_and_no_connection_is_tracked(
    network: Namespace, tmp_path: Path, client: wire.Client
) -> None:
    rules = tmp_path / "others.nft"
    rules.write_text(OTHERS)
    network.run("nft", "-f", str(rules))
    before = tables(network)
    config = policy(tmp_path / "audit", fence="auto")
    for its_tables in (2, 4):
        with running(network, tmp_path, config=config) as helper, helper.greeted() as asks:
            for each in (V4, V6):
                assert asks.add(str(each), deadline_ns=deadline_in(5.0))["result"] == "ok"
                assert client.is_answered_by(each) == ANSWERS
            found = re.findall(r"^table \w+ yaim-\d+", tables(network), re.MULTILINE)
            assert len(found) == its_tables
            helper.end(signal.SIGKILL)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as asks:
        for each in (V4, V6):
            assert asks.add(str(each)) == OK_PRESENT
            assert asks.remove(str(each)) == OK_PRESENT
        wait_for(lambda: "yaim-" not in tables(network), "the last of its tables goes")
        assert tables(network) == before
    assert "nf_conntrack" not in network.run("sh", "-c", "cat /proc/net/nf_conntrack* || true")


# --- interfaces --------------------------------------------------------------------------------


def with_rule(audit_log: Path, interface: str, prefixes: list[int]) -> str:
    config = json.loads(policy(audit_log, fence="auto"))
    config["rules"] = [
        {"interface": interface, "networks": list(NETWORK), "prefix-lengths": prefixes}
    ]
    return json.dumps(config)


BRIDGE = """
ip link add br0 address 02:00:00:00:00:01 type bridge
ip link set br0 up
ip address delete 192.0.2.9/24 dev veth0
ip link set veth0 master br0
ip address add 192.0.2.9/24 dev br0
ip address add 2001:db8::9/64 dev br0 nodad
ip neighbour replace 192.0.2.1 lladdr 02:00:5e:00:00:01 dev br0
ip neighbour replace 2001:db8::1 lladdr 02:00:5e:00:00:01 dev br0
ip address delete 2001:db8::9/64 dev veth0
"""


@pytest.mark.parametrize(
    ("interface", "prefix", "before", "addresses"),
    [
        ("lo", 32, "", (V4, V6)),
        ("veth0", 24, "", (V4, V6)),
        ("br0", 32, BRIDGE, (V4, V6)),
    ],
    ids=["loopback", "prefix", "bridge"],
)
def test_wherever_an_address_is_it_answers_until_its_deadline(
    network: Namespace,
    tmp_path: Path,
    client: wire.Client,
    interface: str,
    prefix: int,
    before: str,
    addresses: tuple[Address, ...],
) -> None:
    network.run("sh", "-ec", before)
    config = with_rule(tmp_path / "audit", interface, [prefix, 128])
    with running(network, tmp_path, config=config) as helper, helper.greeted() as asks:
        until = deadline_in(3.0)
        for each in addresses:
            length = prefix if each.version == 4 else 128
            place = {"interface": interface, "prefix": length, "deadline_ns": until}
            assert asks.add(str(each), **place) == OK_ABSENT
            # On another interface's address no IPv6 host answers a solicitation.
            kinds = [False, True] if (interface, each.version) == ("lo", 6) else ANSWERS
            wait_for(lambda e=each, k=kinds: client.is_answered_by(e) == k, "it answers")  # type: ignore[misc]
        os.kill(helper.pid, signal.SIGSTOP)
        time.sleep(max(0.0, until / 1e9 + GRACE_S - boottime()))
        assert client.heard(addresses, boottime() + 0.2) == set()
        assert len(on_interface(network)) == len(addresses)
        os.kill(helper.pid, signal.SIGCONT)
        wait_for(lambda: not on_interface(network), "they are removed")


def test_an_interface_may_be_renamed_while_it_has_an_address(
    network: Namespace, helper: Helper, client: wire.Client
) -> None:
    with helper.greeted() as asks:
        for each in (V4, V6):
            assert asks.add(str(each), deadline_ns=deadline_in(10.0)) == OK_ABSENT
        network.run("ip", "link", "set", "veth0", "name", "renamed0")
        until = 0
        for _ in range(5):
            until = deadline_in(3.0)
            assert asks.renew(until) == {"result": "ok", "missing": []}
            assert client.is_answered_by(V4) == client.is_answered_by(V6) == ANSWERS
            time.sleep(0.1)
        with helper.stopped():
            time.sleep(max(0.0, until / 1e9 + GRACE_S - boottime()))
            assert client.heard((V4, V6), boottime() + 0.2) == set()
        wait_for(lambda: not on_interface(network), "they are removed")
        assert helper.process.poll() is None
