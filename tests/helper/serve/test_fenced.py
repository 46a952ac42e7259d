"""A helper with a fence: what is answered on the wire is the judge."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from yaim_helper.protocol import Address

from tests.helper import client as wire
from tests.helper.client import V4, V6, neighbour
from tests.helper.network import boottime, present, wait_for
from tests.helper.process import (
    OK_ABSENT,
    OK_PRESENT,
    Helper,
    Message,
    deadline_in,
    policy,
    running,
)
from tests.routing_lock import routing_lock_held
from yaim.lab.namespaces import Namespace

MUTED = [False, False]
ANSWERS = [True, True]


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


def wire_add(address: Address) -> dict[str, object]:
    return {
        "interface": "veth0",
        "address": str(address),
        "prefix": address.max_prefixlen,
        "label": "",
        "deadline_ns": deadline_in(20.0),
    }
