"""What earlier lives have left: their fences, and what these still keep from answering."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from yaim_helper.held.earlier import LOOK_EVERY_S, LOST, OVER, EarlierFences
from yaim_helper.held.fencing import FenceTables, begin
from yaim_helper.held.holdings import FLUSHED, Holdings
from yaim_helper.held.leftovers import LeftOvers
from yaim_helper.kernel.addresses import Kernel
from yaim_helper.kernel.fence import Fence, Ruleset
from yaim_helper.policy.read import read_policy
from yaim_helper.protocol import Add, Ok
from yaim_helper.record.log import AuditLog
from yaim_helper.record.recorder import Recorder

from tests.helper.holdings import OWNER, fail, holdings_in, on_interface, record_of
from tests.helper.network import INTERFACE, boottime, present, wait_for
from tests.helper.process import deadline_in, leave, policy
from yaim.lab.namespaces import Namespace

V4, OTHER = "192.0.2.10", "192.0.2.11"
TABLE = "yaim-7"
"""The one that an earlier life has left, with V4 and OTHER."""


@pytest.fixture
def ruleset(network: Namespace) -> Iterator[Ruleset]:
    with network.entered():
        ruleset = Ruleset()
    yield ruleset
    ruleset.close()


def left(ruleset: Ruleset, network: Namespace, directory: Path, *, live_s: float) -> None:
    """V4 and OTHER are on the interface, on record, and in an earlier life's fence."""
    leave(network, directory, f"{V4}/32", f"{OTHER}/32")
    fence = Fence(ruleset, TABLE)
    fence.make([ip_address(V4), ip_address(OTHER)], ())
    fence.renew(boottime() + live_s)


@contextmanager
def after(
    ruleset: Ruleset,
    network: Namespace,
    directory: Path,
    *,
    live_s: float = 60.0,
    is_fenced: bool = True,
) -> Iterator[Holdings]:
    """The life that comes behind it."""
    left(ruleset, network, directory, live_s=live_s)
    with holdings_in(network, directory, is_fenced=is_fenced) as holdings:
        assert holdings.fencing.earlier == [TABLE]
        yield holdings


def hold(holdings: Holdings, text: str) -> None:
    address = ip_address(text)
    batch = holdings.batch({address})
    add = Add(1, INTERFACE, address, 32, "", deadline_in(30))
    assert batch.add(OWNER, add) == Ok({"was": "present"})
    assert batch.settle() == {}


def earlier(holdings: Holdings) -> EarlierFences:
    assert holdings._earlier is not None
    return holdings._earlier


def test_it_is_removed_when_its_fence_is_over_and_not_before(
    ruleset: Ruleset, network: Namespace, tmp_path: Path
) -> None:
    with after(ruleset, network, tmp_path, live_s=1.0) as holdings:
        holdings.do_what_is_due()
        assert present(network) == on_interface(V4, OTHER)
        assert holdings.next_at() <= boottime() + LOOK_EVERY_S
        wait_for(lambda: not ruleset.is_live(TABLE), "its fence is over")
        earlier(holdings).do_what_is_due(holdings.next_at())
        assert present(network) == []
        assert record_of(holdings, tmp_path) == [
            (V4, f"{OVER}: removing"),
            (V4, "removed"),
            (OTHER, f"{OVER}: removing"),
            (OTHER, "removed"),
        ]
        assert holdings.fencing.earlier == ruleset.tables() == []
        earlier(holdings).do_what_is_due(holdings.next_at())
        assert earlier(holdings).next_at() == math.inf


def test_what_was_taken_over_before_stays(
    ruleset: Ruleset, network: Namespace, tmp_path: Path
) -> None:
    with after(ruleset, network, tmp_path, live_s=1.0) as holdings:
        hold(holdings, V4)
        assert ruleset.held(TABLE) == {ip_address(OTHER)}
        wait_for(lambda: not ruleset.is_live(TABLE), "its fence is over")
        earlier(holdings).do_what_is_due(boottime() + LOOK_EVERY_S)
        assert present(network) == on_interface(V4)


def test_a_table_stays_while_something_of_it_is_on_an_interface(
    ruleset: Ruleset, network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record tells that it is the helper's, so it stays, and is silent."""
    with after(ruleset, network, tmp_path, live_s=0.0) as holdings:
        monkeypatch.setattr(LeftOvers, "remove_all", lambda *_: [])
        now = boottime()
        earlier(holdings).do_what_is_due(now)
        assert holdings.fencing.earlier == ruleset.tables() == [TABLE]
        network.run("ip", "address", "flush", "dev", INTERFACE)
        earlier(holdings).do_what_is_due(now + LOOK_EVERY_S)
        assert holdings.fencing.earlier == ruleset.tables() == []


def test_a_fence_that_somebody_keeps_alive_stays(
    ruleset: Ruleset, network: Namespace, tmp_path: Path
) -> None:
    """It is another helper's."""
    with after(ruleset, network, tmp_path) as holdings:
        earlier(holdings).do_what_is_due(boottime() + LOOK_EVERY_S)
        assert ruleset.tables() == holdings.fencing.earlier == [TABLE]
        assert present(network) == on_interface(V4, OTHER)


def test_without_earlier_fences_there_is_nothing_to_do(
    network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holdings_in(network, tmp_path, is_fenced=True) as holdings:
        monkeypatch.setattr(Ruleset, "is_live", fail)
        earlier(holdings).do_what_is_due(boottime() + LOOK_EVERY_S)
        earlier(holdings).see_changed(None, FLUSHED)
        assert earlier(holdings).next_at() == math.inf


def test_a_fence_that_is_flushed_while_the_kernel_is_asked_about_it_is_over(
    ruleset: Ruleset, network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with after(ruleset, network, tmp_path, live_s=0.0) as holdings:
        hold(holdings, V4)
        real = Kernel.addresses

        def addresses(*given: Any) -> Any:
            # A renewal comes before the kernel's news that the tables have gone.
            network.run("nft", "flush", "ruleset")
            assert isinstance(holdings.renew(OWNER, boottime() + 60, holdings.batch(())), Ok)
            return real(*given)

        monkeypatch.setattr(Kernel, "addresses", addresses)
        earlier(holdings).do_what_is_due(boottime() + LOOK_EVERY_S)
        assert holdings.fencing.earlier == []
        assert present(network) == on_interface(V4)


def test_what_was_taken_over_is_known_without_asking_the_kernel(
    ruleset: Ruleset, network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with after(ruleset, network, tmp_path) as holdings:
        hold(holdings, V4)
        assert holdings.has_left_overs
        hold(holdings, OTHER)
        assert not holdings.has_left_overs
        monkeypatch.setattr(Kernel, "addresses", fail)
        (told,) = holdings.describe()
        assert [row[0] for row in told["addresses"]] == [V4, OTHER]
        page = holdings.batch(()).page(OWNER, None)
        assert isinstance(page, Ok)
        assert [each["address"] for each in page.fields["addresses"]] == [V4, OTHER]


@pytest.mark.parametrize("fails", ["is_live", "change"])
def test_what_the_kernel_does_not_do_is_tried_again(
    ruleset: Ruleset,
    network: Namespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    with after(ruleset, network, tmp_path, live_s=0.0) as holdings:
        now = boottime() + LOOK_EVERY_S
        with monkeypatch.context() as patched:
            patched.setattr(Ruleset, fails, fail)
            earlier(holdings).do_what_is_due(now)
        assert ruleset.tables() == holdings.fencing.earlier == [TABLE]
        assert earlier(holdings).next_at() == now + LOOK_EVERY_S
        earlier(holdings).do_what_is_due(now + LOOK_EVERY_S)
        assert holdings.fencing.earlier == ruleset.tables() == []


def test_what_cannot_be_swept_is_tried_again_and_once_at_a_time(
    ruleset: Ruleset, network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with after(ruleset, network, tmp_path, live_s=0.0) as holdings:
        jobs: list[Callable[[], None]] = []
        it = earlier(holdings)
        it._start = jobs.append
        now = boottime()
        for number in range(3):
            it.do_what_is_due(now + number * LOOK_EVERY_S)
        (first,) = jobs
        with monkeypatch.context() as patched:
            patched.setattr(Kernel, "addresses", fail)
            first()
        assert present(network) == on_interface(V4, OTHER)
        it.do_what_is_due(now + 3 * LOOK_EVERY_S)
        _, second = jobs
        second()
        assert present(network) == []


# --- a ruleset that somebody flushes -----------------------------------------------------------


@pytest.mark.parametrize("is_told", [True, False])
def test_what_it_kept_from_answering_goes_at_once_when_somebody_flushes_it(
    ruleset: Ruleset,
    network: Namespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_told: bool,
) -> None:
    with after(ruleset, network, tmp_path) as holdings:
        hold(holdings, V4)
        network.run("nft", "flush", "ruleset")
        if not is_told:
            monkeypatch.setattr("yaim_helper.kernel.fence.ForeignChanges.tables", lambda _: None)
        holdings.see_tables()
        assert present(network) == on_interface(V4)
        assert record_of(holdings, tmp_path) == [
            (OTHER, f"{FLUSHED}: removing"),
            (OTHER, "removed"),
        ]
        (own,) = ruleset.tables()
        assert ruleset.held(own) == {ip_address(V4)}
        assert ruleset.is_live(own)


def test_another_table_that_is_changed_sweeps_nothing(
    ruleset: Ruleset, network: Namespace, tmp_path: Path
) -> None:
    with after(ruleset, network, tmp_path) as holdings:
        network.run("nft", "add", "table", "inet", "yaim-8")
        holdings.see_tables()
        assert present(network) == on_interface(V4, OTHER)


# --- a life without a fence --------------------------------------------------------------------


def test_it_goes_also_if_a_renewal_comes_before_the_news_that_its_fence_was_flushed(
    ruleset: Ruleset, network: Namespace, tmp_path: Path
) -> None:
    with after(ruleset, network, tmp_path) as holdings:
        hold(holdings, V4)
        network.run("nft", "flush", "ruleset")
        assert isinstance(holdings.renew(OWNER, boottime() + 60, holdings.batch(())), Ok)
        holdings.see_tables()
        assert present(network) == on_interface(V4)


def test_what_another_helper_changes_in_its_own_table_sweeps_nothing(
    ruleset: Ruleset, network: Namespace, tmp_path: Path
) -> None:
    """It was there before: so its table seems to be of an earlier life."""
    another = Fence(ruleset, "yaim-8")
    another.make([ip_address("192.0.2.12")], ())
    left(ruleset, network, tmp_path, live_s=60.0)
    with holdings_in(network, tmp_path, is_fenced=True) as holdings:
        assert holdings.fencing.earlier == [TABLE, "yaim-8"]
        another.renew(boottime() + 60)
        holdings.see_tables()
        assert present(network) == on_interface(V4, OTHER)
        network.run("nft", f"delete table inet {TABLE}")
        holdings.see_tables()
        assert present(network) == []


def test_who_has_no_fence_takes_what_it_adds_out_of_earlier_ones(
    ruleset: Ruleset, network: Namespace, tmp_path: Path
) -> None:
    """It would be silent."""
    with after(ruleset, network, tmp_path, is_fenced=False) as holdings:
        hold(holdings, V4)
        assert ruleset.held(TABLE) == {ip_address(OTHER)}


def test_who_could_not_begin_a_fence_takes_what_it_adds_out_of_earlier_ones_too(
    ruleset: Ruleset, network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program was busy with the ruleset all the time, say."""
    left(ruleset, network, tmp_path, live_s=60.0)
    file = tmp_path / "helper.yml"
    file.write_text(policy(tmp_path / "audit", fence="auto"))
    read = read_policy(file)
    monkeypatch.setattr("yaim_helper.held.fencing.probe", fail)
    with network.entered():
        recorder = Recorder(AuditLog(read.audit_log, read.sha256), read.sha256)
        fencing = begin(is_wanted=True)
        assert fencing.fences is None
        holdings = Holdings(read, recorder, lambda: None, fencing)
        hold(holdings, V4)
        assert ruleset.held(TABLE) == {ip_address(OTHER)}
        recorder.close()


def test_an_address_that_cannot_be_taken_out_is_added_all_the_same(
    ruleset: Ruleset, network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with after(ruleset, network, tmp_path, is_fenced=False) as holdings:
        monkeypatch.setattr(Ruleset, "change", fail)
        hold(holdings, V4)
    assert ip_address(V4) in ruleset.held(TABLE)


# --- what no table keeps -----------------------------------------------------------------------


def leave_fenced(network: Namespace, directory: Path, is_fenced: bool) -> None:
    """V4 and OTHER are there and on record, with a fence or without, and in no table."""
    leave(network, directory, f"{V4}/32", f"{OTHER}/32", fence=[is_fenced] * 2)


def test_what_was_fenced_and_is_in_no_table_any_more_goes_at_the_start(
    network: Namespace, tmp_path: Path
) -> None:
    """Somebody has flushed the ruleset while no helper was there."""
    leave_fenced(network, tmp_path, True)
    with holdings_in(network, tmp_path, is_fenced=True) as holdings:
        assert present(network) == []
        assert record_of(holdings, tmp_path)[-4:] == [
            (V4, f"{LOST}: removing"),
            (V4, "removed"),
            (OTHER, f"{LOST}: removing"),
            (OTHER, "removed"),
        ]


def test_what_was_never_fenced_stays_for_whom_it_was_left(
    network: Namespace, tmp_path: Path
) -> None:
    leave_fenced(network, tmp_path, False)
    with holdings_in(network, tmp_path, is_fenced=True) as holdings:
        hold(holdings, V4)
        assert present(network) == on_interface(V4, OTHER)


def test_it_removes_what_is_over_too(ruleset: Ruleset, network: Namespace, tmp_path: Path) -> None:
    with after(ruleset, network, tmp_path, live_s=0.0, is_fenced=False) as holdings:
        earlier(holdings).do_what_is_due(boottime())
        assert (present(network), ruleset.tables()) == ([], [])


@pytest.mark.parametrize("is_fenced", [True, False])
def test_what_no_table_keeps_goes_and_what_one_keeps_stays(
    ruleset: Ruleset, network: Namespace, tmp_path: Path, is_fenced: bool
) -> None:
    with after(ruleset, network, tmp_path, is_fenced=is_fenced) as holdings:
        earlier(holdings).sweep_unfenced()
        assert present(network) == on_interface(V4, OTHER)
        Fence(ruleset, TABLE).dismiss([ip_address(OTHER)])
        earlier(holdings).sweep_unfenced()
        assert present(network) == on_interface(V4)


def test_what_is_not_known_of_a_table_at_the_start_may_be_all_of_what_is_left(
    ruleset: Ruleset, network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(FenceTables, "held", fail)
        with after(ruleset, network, tmp_path) as holdings:
            earlier(holdings).see_changed({TABLE}, FLUSHED)
            assert present(network) == []


def test_a_table_with_nothing_in_it_has_nothing_swept(
    ruleset: Ruleset, network: Namespace, tmp_path: Path
) -> None:
    Fence(ruleset, "yaim-8").make((), ())
    left(ruleset, network, tmp_path, live_s=60.0)
    with holdings_in(network, tmp_path, is_fenced=True) as holdings:
        earlier(holdings).see_changed({"yaim-8"}, FLUSHED)
        assert present(network) == on_interface(V4, OTHER)
