"""Nobody gets at what another holds: neither another cluster of the same user, nor another user's
cluster of the same name."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from yaim_helper.owners import Owner
from yaim_helper.record.chain import canonical
from yaim_helper.record.entries import latest, renewals
from yaim_helper.serve.requests import MAX_CLUSTERS, MAX_CLUSTERS_OF_USER
from yaim_helper.tools.records import MAX_LINE_BYTES, open_chain
from yaim_helper.tools.verify import Finding, Verification

from tests.helper.network import INTERFACE, capturing, present
from tests.helper.process import (
    OK_ABSENT,
    OK_PRESENT,
    Client,
    deadline_in,
    policy,
    refused,
    running,
)
from yaim.lab.namespaces import Namespace

NOBODY = 65534
ONES, TWOS = ("192.0.2.10", "2001:db8::10"), ("192.0.2.20", "2001:db8::20")


@contextlib.contextmanager
def connected(path: Path, uid: int, cluster: str) -> Iterator[Client]:
    """Connects as this user, in a directory which that user could not get to."""
    with contextlib.chdir(path.parent):
        os.seteuid(uid)
        try:
            client = Client(Path(path.name))
        finally:
            os.seteuid(0)
    with client:
        assert client.hello(cluster)["result"] == "ok"
        yield client


@pytest.fixture(params=[((0, "one"), (0, "two")), ((0, "same"), (NOBODY, "same"))])
def owners(
    request: pytest.FixtureRequest, network: Namespace, tmp_path: Path
) -> Iterator[tuple[Client, Client]]:
    tmp_path.chmod(0o755)
    config = policy(tmp_path / "audit", users=(0, NOBODY))
    with running(network, tmp_path, config=config) as helper:
        helper.socket.chmod(0o666)
        one, two = request.param
        with connected(helper.socket, *one) as first, connected(helper.socket, *two) as second:
            yield first, second


def listed(client: Client) -> dict[str, int]:
    return {each["address"]: each["deadline_ns"] for each in client.list()["addresses"]}


def on_interface(*addresses: str) -> list[str]:
    return sorted(f"{INTERFACE} {each}/{128 if ':' in each else 32}" for each in addresses)


def test_an_owner_cannot_add_what_another_holds(
    network: Namespace, owners: tuple[Client, Client]
) -> None:
    one, two = owners
    deadline_ns = deadline_in(30)
    assert [one.add(each, deadline_ns=deadline_ns) for each in ONES] == [OK_ABSENT] * 2
    assert [refused(two.add(each, deadline_ns=deadline_in(60))) for each in ONES] == ["foreign"] * 2
    assert listed(one) == dict.fromkeys(ONES, deadline_ns)
    assert present(network) == on_interface(*ONES)


def test_an_owner_cannot_remove_what_another_holds(
    network: Namespace, owners: tuple[Client, Client]
) -> None:
    one, two = owners
    for each in ONES:
        one.add(each)
    assert [two.remove(each) for each in ONES] == [OK_ABSENT] * 2
    assert present(network) == on_interface(*ONES)
    assert [one.remove(each) for each in ONES] == [OK_PRESENT] * 2


def test_an_owner_renews_and_is_told_only_what_it_holds(owners: tuple[Client, Client]) -> None:
    one, two = owners
    first, second = deadline_in(30), deadline_in(40)
    for each in ONES:
        one.add(each, deadline_ns=first)
    for each in TWOS:
        two.add(each, deadline_ns=first)
    assert two.renew(second) == {"result": "ok", "missing": []}
    assert (listed(one), listed(two)) == (dict.fromkeys(ONES, first), dict.fromkeys(TWOS, second))


def test_an_owner_is_not_told_what_is_missing_of_another(
    network: Namespace, owners: tuple[Client, Client]
) -> None:
    one, two = owners
    for each in ONES:
        one.add(each)
    network.run("ip", "link", "delete", INTERFACE)
    assert two.renew(deadline_in(60)) == {"result": "ok", "missing": []}
    assert one.renew(deadline_in(60)) == {"result": "ok", "missing": list(ONES)}


def test_an_owner_cannot_announce_what_another_holds(
    network: Namespace, owners: tuple[Client, Client]
) -> None:
    one, two = owners
    with capturing(network) as capture:
        for each in ONES:
            one.add(each)
        capture.announced()
        assert [refused(two.ask("announce", address=each)) for each in ONES] == ["foreign"] * 2
        assert [one.ask("announce", address=each)["result"] for each in ONES] == ["ok"] * 2


def test_a_user_cannot_have_so_many_clusters_that_the_record_cannot_be_read(
    network: Namespace, tmp_path: Path
) -> None:
    """Each name is in every line of renewals and in the marker, and takes twice its room there."""
    config = policy(tmp_path / "audit", users=(0, NOBODY), limit=200)
    tmp_path.chmod(0o755)
    with running(network, tmp_path, config=config) as helper:
        helper.socket.chmod(0o666)
        for number in range(1, MAX_CLUSTERS_OF_USER + 4):
            with helper.connect() as client:
                reply = client.hello(f"{number:03}".ljust(255, '"'))
                if reply["result"] != "ok":
                    break
                assert client.add(f"192.0.2.{number}") == OK_ABSENT
                client.renew(deadline_in(60))
        assert number == MAX_CLUSTERS_OF_USER + 1
        assert (
            reply["reason"] == f"{MAX_CLUSTERS_OF_USER} clusters of its user hold addresses already"
        )
        assert refused(reply) == "limit"
        with helper.greeted("001".ljust(255, '"')), connected(helper.socket, NOBODY, "another"):
            pass
        assert helper.end() == 0
        (told,) = [each for each in helper.records() if each["type"] == "renewals"]
        assert len(told["owners"]) == MAX_CLUSTERS_OF_USER
        assert verified(helper.audit_log) == []


def test_the_longest_line_of_the_record_can_be_read() -> None:
    owners = [Owner(2**32 - 1 - n, f"{n:04}".ljust(255, '"')) for n in range(MAX_CLUSTERS)]
    deadlines = dict.fromkeys(owners, 9e9)
    line = renewals(dict.fromkeys(owners, 10**9), deadlines)
    marker = {"earlier": {"owners": latest(deadlines)}}
    assert all(len(canonical(each)) < MAX_LINE_BYTES * 0.7 for each in (line, marker))


def verified(audit_log: Path) -> list[Finding]:
    findings: list[Finding] = []
    for _ in Verification(open_chain(audit_log), findings.append).records():
        pass
    return findings


def test_what_an_owner_has_given_up_another_may_have(
    network: Namespace, owners: tuple[Client, Client]
) -> None:
    one, two = owners
    for each in ONES:
        one.add(each)
        one.remove(each)
    assert [two.add(each) for each in ONES] == [OK_ABSENT] * 2
    assert present(network) == on_interface(*ONES)
    assert (listed(one), sorted(listed(two))) == ({}, sorted(ONES))
