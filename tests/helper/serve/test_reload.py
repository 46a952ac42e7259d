"""SIGHUP: the helper reads its policy anew. Real processes, kernels and sockets."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.helper.network import INTERFACE, boottime, present, wait_for
from tests.helper.process import (
    OK_ABSENT,
    OK_PRESENT,
    Client,
    Helper,
    Message,
    deadline_in,
    policy,
    refused,
    running,
    started,
)
from yaim.lab.namespaces import Namespace

V4, OTHER, V6 = "192.0.2.10", "198.51.100.10", "2001:db8::10"
WIDER = ("192.0.2.0/24", "198.51.100.0/24", "2001:db8::/64")
NOBODY = 65534


def config_file(helper: Helper) -> Path:
    return helper.socket.parent / "helper.yml"


def reloads(helper: Helper) -> list[Message]:
    return [each for each in helper.records() if each["type"] == "policy"]


def reload(helper: Helper, text: str | None = None) -> Message:
    """Has the file read again, with a new text if there is one; returns the record of it."""
    if text is not None:
        config_file(helper).write_text(text)
    before = len(reloads(helper))
    os.kill(helper.pid, signal.SIGHUP)
    wait_for(lambda: len(reloads(helper)) > before, "the policy is read")
    return reloads(helper)[-1]


def outcome(record: Message) -> tuple[str, str | None]:
    return record["outcome"], record["reason"]


OK = ("ok", None)


def hang_ups(helper: Helper) -> list[str]:
    return [each["reason"] for each in helper.records() if each["type"] == "hung-up"]


def own(helper: Helper) -> list[tuple[str, str, str]]:
    """What it did of itself."""
    return [
        (each["op"], each["address"], each["outcome"])
        for each in helper.records()
        if each["type"] == "own"
    ]


WITHOUT_A_FENCE = "yaim-helper: without a fence: helper.yml says fence: off"
"""What a helper says when it starts, with the policy of these tests."""


def told(helper: Helper) -> list[str]:
    """What it says besides."""
    lines = helper.log.read_text().splitlines()
    return [each for each in lines if each != WITHOUT_A_FENCE]


@contextlib.contextmanager
def greeted_as(uid: int, helper: Helper, cluster: str = "test") -> Iterator[Client]:
    """Connects from within a directory which that user could not get to."""
    helper.socket.chmod(0o666)
    helper.socket.parent.chmod(0o755)
    with contextlib.chdir(helper.socket.parent):
        os.seteuid(uid)
        try:
            client = Client(Path(helper.socket.name))
        finally:
            os.seteuid(0)
    with client:
        assert client.hello(cluster)["result"] == "ok"
        yield client


# --- a good file ---------------------------------------------------------------------------------


def test_the_same_file_changes_nothing(helper: Helper, client: Client) -> None:
    client.add(V4)
    assert outcome(reload(helper)) == OK
    assert client.remove(V4) == OK_PRESENT
    assert told(helper) == [f"yaim-helper: {config_file(helper)}: read again"]


def test_new_rules_end_connections_and_hello_tells_them(
    network: Namespace, helper: Helper, client: Client
) -> None:
    client.add(V4)
    assert refused(client.add(OTHER)) == "not-allowed"
    assert outcome(reload(helper, policy(helper.audit_log, networks=WIDER))) == OK
    assert client.is_hung_up()
    assert hang_ups(helper)[-1] == "the rules have changed"
    with helper.connect() as again:
        (rule,) = again.hello()["rules"]
        assert rule["networks"] == list(WIDER)
        assert [each["address"] for each in again.list()["addresses"]] == [V4]
        assert again.add(OTHER) == OK_ABSENT
    assert present(network) == [f"{INTERFACE} {V4}/32", f"{INTERFACE} {OTHER}/32"]
    assert own(helper) == []


def test_from_then_on_the_records_name_the_new_policy(helper: Helper, client: Client) -> None:
    old = sha256(config_file(helper).read_bytes()).hexdigest()
    text = policy(helper.audit_log, rate=999)
    new = sha256(text.encode()).hexdigest()
    client.add(V4)
    assert reload(helper, text)["policy"] == new
    client.remove(V4)
    records = helper.records()
    at = [each["type"] for each in records].index("policy")
    assert {each["policy"] for each in records[:at]} == {old}
    assert {each["policy"] for each in records[at:]} == {new}


@pytest.mark.parametrize("fence", ["off", "auto"])
def test_what_no_rule_allows_any_more_is_removed_at_once(
    network: Namespace, tmp_path: Path, fence: str
) -> None:
    wide = policy(tmp_path / "audit", networks=WIDER, fence=fence)
    narrow = policy(tmp_path / "audit", networks=WIDER[:1], fence=fence)
    with running(network, tmp_path, config=wide) as helper:
        with helper.greeted() as client:
            for address in (V4, OTHER, V6):
                assert client.add(address, deadline_ns=deadline_in(600)) == OK_ABSENT
            assert outcome(reload(helper, narrow)) == OK
            assert client.is_hung_up()
        left = [f"{INTERFACE} {V4}/32"]
        wait_for(lambda: present(network) == left, "the others are removed", 1.0)
        why = "no rule allows it any more: removing"
        assert own(helper) == [
            ("expire", OTHER, why),
            ("expire", V6, why),
            ("expire", OTHER, "removed"),
            ("expire", V6, "removed"),
        ]
        with helper.greeted() as client:
            assert [each["address"] for each in client.list()["addresses"]] == [V4]
            assert refused(client.add(OTHER)) == "not-allowed"
            assert client.renew(deadline_in(600)) == {"result": "ok", "missing": []}


def test_an_address_whose_prefix_length_is_not_allowed_any_more_is_removed(
    network: Namespace, tmp_path: Path
) -> None:
    network.run("sysctl", "-qw", f"net.ipv4.conf.{INTERFACE}.promote_secondaries=1")
    config = policy(tmp_path / "audit", prefixes=(24, 32))
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        assert client.add(V4, prefix=24) == OK_ABSENT
        assert client.add("192.0.2.11") == OK_ABSENT
        reload(helper, policy(tmp_path / "audit"))
        assert client.is_hung_up()
        assert present(network) == [f"{INTERFACE} 192.0.2.11/32"]


def test_a_user_who_is_no_longer_in_it_is_hung_up_on_and_loses_its_addresses(
    network: Namespace, tmp_path: Path
) -> None:
    both = policy(tmp_path / "audit", users=[0, NOBODY])
    one = policy(tmp_path / "audit", users=[0])
    with (
        running(network, tmp_path, config=both) as helper,
        helper.greeted() as client,
        greeted_as(NOBODY, helper) as other,
    ):
        client.add(V4)
        other.add(V6)
        assert outcome(reload(helper, one)) == OK
        assert other.is_hung_up()
        assert client.remove(V4) == OK_PRESENT
        assert present(network) == []
        assert hang_ups(helper) == ["its user is not in the policy any more"]
        assert own(helper) == [
            ("expire", V6, "its user is not in the policy any more: removing"),
            ("expire", V6, "removed"),
        ]


def test_a_user_who_is_new_in_it_may_connect(network: Namespace, tmp_path: Path) -> None:
    one = policy(tmp_path / "audit", users=[0])
    both = policy(tmp_path / "audit", users=[0, NOBODY])
    with running(network, tmp_path, config=one) as helper, helper.greeted() as client:
        reload(helper, both)
        with greeted_as(NOBODY, helper) as other:
            assert other.add(V4) == OK_ABSENT
        assert client.add(V6) == OK_ABSENT


def test_another_limit_removes_nothing_counts_for_further_ones_and_is_told(
    network: Namespace, helper: Helper, client: Client
) -> None:
    addresses = ["192.0.2.10", "192.0.2.11", "192.0.2.12"]
    for each in addresses[:2]:
        client.add(each)
    reload(helper, policy(helper.audit_log, limit=1))
    assert client.is_hung_up()
    with helper.connect() as again:
        assert again.hello()["capacity"] == 1
        assert refused(again.add(addresses[2])) == "limit"
        assert len(present(network)) == 2
        reload(helper, policy(helper.audit_log, limit=3))
        assert again.is_hung_up()
    with helper.connect() as again:
        assert again.hello()["capacity"] == 3
        assert again.add(addresses[2]) == OK_ABSENT
    assert hang_ups(helper) == ["max-addresses has changed"] * 2


def test_another_number_of_commands_a_second_counts_at_once(
    network: Namespace, tmp_path: Path
) -> None:
    """At one a second these would take longer than any test."""
    slow, fast = (policy(tmp_path / "audit", rate=rate) for rate in (1, 1000))
    with running(network, tmp_path, config=slow) as helper, helper.greeted() as client:
        reload(helper, fast)
        asked = [client.send("announce", address=V4) for _ in range(150)]
        assert {client.receive(each)["code"] for each in asked} == {"foreign"}


def test_reading_it_again_brings_no_new_allowance(network: Namespace, tmp_path: Path) -> None:
    rate = 5
    config = policy(tmp_path / "audit", rate=rate)
    with running(network, tmp_path, config=config) as helper, helper.greeted() as client:
        began = boottime()
        codes = []
        for _ in range(20):
            codes.append(client.ask("announce", address=V4)["code"])
            reload(helper)
        most = rate * (1 + boottime() - began)
    assert codes.count("foreign") <= most


def test_warnings_are_told_at_the_start_and_after_a_reload(
    network: Namespace, tmp_path: Path
) -> None:
    def config(limit: int) -> str:
        return policy(tmp_path / "audit", limit=limit, rate=2)

    file = tmp_path / "helper.yml"
    with running(network, tmp_path, config=config(3)) as helper:
        (warning,) = told(helper)
        assert warning.startswith(
            f"yaim-helper: {file}:19: commands-per-second: 2 commands a second, but 3 addresses"
        )
        reload(helper, config(4))
        expected = [
            warning.replace("but 3", "but 4").replace("second 3", "second 4"),
            f"yaim-helper: {file}: read again",
        ]
        wait_for(lambda: told(helper)[1:] == expected, "it tells")


# --- a wrong file --------------------------------------------------------------------------------


def test_a_wrong_file_leaves_the_old_policy_in_force_and_is_on_record(
    network: Namespace, helper: Helper, client: Client
) -> None:
    client.add(V4)
    file = config_file(helper)
    old = sha256(file.read_bytes()).hexdigest()
    record = reload(helper, "users: [0]\nrules: 7\nmax-addresses: 0\n")
    errors = [
        f"{file}:2: rules: expected a list",
        f"{file}:3: max-addresses: got '0', expected a number from 1 to 2000",
    ]
    assert outcome(record) == ("refused", "; ".join(errors))
    assert record["policy"] == old
    expected = [f"yaim-helper: {each}" for each in (*errors, "the policy stays as it was")]
    wait_for(lambda: told(helper) == expected, "it tells")
    assert client.remove(V4) == OK_PRESENT
    assert client.add(V6) == OK_ABSENT
    assert hang_ups(helper) == []


def test_what_is_wrong_is_shortened_in_the_record_and_told_in_full(helper: Helper) -> None:
    record = reload(helper, "users: [0]\nrules: [" + "7," * 100 + "]\n")
    assert len(record["reason"]) == 1000
    wait_for(lambda: len(told(helper)) == 201, "all is told")


def test_the_record_cannot_be_moved_by_a_reload(
    tmp_path: Path, helper: Helper, client: Client
) -> None:
    elsewhere = tmp_path / "elsewhere"
    record = reload(helper, policy(elsewhere, networks=WIDER))
    assert outcome(record) == (
        "refused",
        f"{config_file(helper)}: audit-log: is {helper.audit_log} until the helper is started"
        " anew; restart it, or put that back",
    )
    assert not elsewhere.exists()
    assert refused(client.add(OTHER)) == "not-allowed"


@pytest.mark.parametrize(
    ("before", "after"), [("auto", False), ("auto", "off"), ("off", "auto"), (False, "auto")]
)
def test_the_fence_is_not_put_up_or_taken_down_by_a_reload(
    network: Namespace, tmp_path: Path, before: str | bool, after: str | bool
) -> None:
    def text(fence: str | bool, *networks: str) -> str:
        keys = json.loads(policy(tmp_path / "audit", networks=networks))
        return json.dumps(keys | {"fence": fence})

    with running(network, tmp_path, config=text(before, *WIDER[:1])) as helper:
        record = reload(helper, text(after, *WIDER))
        assert outcome(record) == (
            "refused",
            f"{config_file(helper)}: fence: is {before or 'off'} until the helper is started"
            " anew; restart it, or put that back",
        )
        with helper.greeted() as client:
            assert refused(client.add(OTHER)) == "not-allowed"
        assert outcome(reload(helper, text(before, *WIDER))) == OK
        with helper.greeted() as client:
            assert client.add(OTHER) == OK_ABSENT


def test_a_fence_that_is_written_in_another_way_is_the_same(
    network: Namespace, tmp_path: Path
) -> None:
    keys = json.loads(policy(tmp_path / "audit"))
    with running(network, tmp_path, config=json.dumps(keys | {"fence": "off"})) as helper:
        assert outcome(reload(helper, json.dumps(keys | {"fence": False}))) == OK
    del keys["fence"]
    with running(network, tmp_path, config=json.dumps(keys)) as helper:
        assert outcome(reload(helper, json.dumps(keys | {"fence": "auto"}))) == OK


@pytest.mark.parametrize("mode", [0o666, None])
def test_a_file_that_others_can_write_or_that_is_gone_is_not_read(
    helper: Helper, client: Client, mode: int | None
) -> None:
    config_file(helper).write_text(policy(helper.audit_log, networks=WIDER))
    if mode is None:
        config_file(helper).unlink()
    else:
        config_file(helper).chmod(mode)
    assert outcome(reload(helper))[0] == "refused"
    assert refused(client.add(OTHER)) == "not-allowed"
    assert client.add(V4) == OK_ABSENT


def test_a_mended_file_counts_after_a_wrong_one(helper: Helper) -> None:
    assert outcome(reload(helper, "nonsense"))[0] == "refused"
    assert outcome(reload(helper, policy(helper.audit_log, networks=WIDER))) == OK
    with helper.greeted() as client:
        assert client.add(OTHER) == OK_ABSENT


# --- what clients are told of the file ------------------------------------------------------------


def differs(client: Client, *, expected: bool) -> str | None:
    """What replies tell of the file, once the helper has looked at it."""
    wait_for(lambda: ("rules_differ" in client.list()) is expected, "it has looked")
    told = client.list(), client.renew(deadline_in(30))
    assert len({each.get("rules_differ") for each in told}) == 1
    return told[0].get("rules_differ")


def test_a_file_that_could_not_be_used_is_told_until_it_is_mended(
    helper: Helper, client: Client
) -> None:
    file, good = config_file(helper), config_file(helper).read_text()
    reload(helper, "nonsense")
    assert differs(client, expected=True) == (
        f"{file} could not be used when it was read again: correct it (yaim-helper policy check),"
        " then systemctl reload yaim-helper"
    )
    reload(helper, good)
    assert differs(client, expected=False) is None


def test_a_file_that_has_gone_is_told(helper: Helper, client: Client) -> None:
    config_file(helper).unlink()
    reload(helper)
    told = differs(client, expected=True)
    assert told == f"{config_file(helper)}: cannot be read: No such file or directory"


# --- at any time ---------------------------------------------------------------------------------


def test_sighup_disturbs_no_work(network: Namespace, helper: Helper, client: Client) -> None:
    addresses = [f"192.0.2.{number}" for number in range(10, 60)]
    for address in addresses:
        request = client.send(
            "add",
            interface=INTERFACE,
            address=address,
            prefix=32,
            label="",
            deadline_ns=deadline_in(30),
        )
        os.kill(helper.pid, signal.SIGHUP)
        assert client.receive(request) == OK_ABSENT
    assert len(present(network)) == len(addresses)
    assert {outcome(each) for each in reloads(helper)} == {OK}
    assert hang_ups(helper) == []


def test_sighup_to_a_helper_that_is_just_starting_waits_until_it_can(
    network: Namespace, tmp_path: Path
) -> None:
    """Whoever starts it blocks the signal, as the supervisor does."""
    with started(network, tmp_path, around=("env", "--block-signal=HUP")) as helper:
        status = Path(f"/proc/{helper.pid}/status")
        wait_for(lambda: "SigBlk:\t0000000000000001" in status.read_text(), "it is blocked")
        os.kill(helper.pid, signal.SIGHUP)
        wait_for(lambda: helper.audit_log.exists() and reloads(helper), "the policy is read")
        with helper.greeted() as client:
            assert client.add(V4) == OK_ABSENT


def test_a_log_that_cannot_be_written_does_no_harm(network: Namespace, tmp_path: Path) -> None:
    around = ("sh", "-c", 'exec "$0" "$@" 2>/dev/full')
    with running(network, tmp_path, around=around) as helper, helper.greeted() as client:
        assert outcome(reload(helper)) == OK
        assert outcome(reload(helper, "nonsense"))[0] == "refused"
        assert client.add(V4) == OK_ABSENT
