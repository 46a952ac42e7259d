"""What operators do, in a real etcd."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.dcs.etcd.conftest import PATIENT_S, EtcdServer
from yaim.core.model import (
    ClusterView,
    Control,
    LeaseId,
    Move,
    NodeName,
    Order,
    Pin,
    PoolEntry,
    Weight,
    frozen_mapping,
)
from yaim.dcs.etcd.access import EtcdAccess
from yaim.dcs.etcd.client import EtcdClient
from yaim.dcs.etcd.keys import Keys
from yaim.dcs.etcd.operate import MOST_PARTS, EtcdOperations
from yaim.dcs.operate import (
    Change,
    Conflict,
    Done,
    ForgetMember,
    HistoryEvent,
    RemoveDrain,
    RemoveMove,
    RemovePause,
    RemovePin,
    RemovePoolEntry,
    RemoveWeight,
    SetDrain,
    SetMove,
    SetPause,
    SetPin,
    SetPoolEntry,
    SetWeight,
)
from yaim.dcs.store import NotPermitted, StoreError, StoreFull, Unreachable

ROOT = Path(__file__).parents[3]
A, B = ip_address("192.0.2.10"), ip_address("192.0.2.11")
N1, N2 = NodeName("n1"), NodeName("n2")
ME = "root@db1"
NOW = datetime(2026, 12, 1, 9, 30, 0, 0, UTC)
AT, IN_AN_HOUR = "2026-12-01T09:30:00Z", "2026-12-01T10:30:00Z"


@pytest.fixture
def make(etcd: EtcdServer, keys: Keys) -> Iterator[Callable[..., EtcdOperations]]:
    made: list[EtcdOperations] = []

    def one(user: str | None = None) -> EtcdOperations:
        access = EtcdAccess((etcd.url,), user=user, password="secret" if user else None)
        made.append(EtcdOperations(lambda: EtcdClient(access, PATIENT_S), keys))
        return made[-1]

    yield one
    for each in made:
        each.close()


@pytest.fixture
def operations(make: Callable[..., EtcdOperations]) -> EtcdOperations:
    return make()


def commit(operations: EtcdOperations, change: Change, by: str = ME) -> Done:
    done = operations.commit(change, operations.look(), by, NOW)
    assert isinstance(done, Done), done
    return done


def events(operations: EtcdOperations) -> list[HistoryEvent]:
    return operations.history(None, None, 1000)


def test_all_that_can_be_asked_for_is_asked_for_and_taken_back(operations: EtcdOperations) -> None:
    done = commit(
        operations,
        Change(
            "drain",
            (
                SetDrain(N1, "a disk"),
                SetPause("a party"),
                SetPin(A, N2, "near"),
                SetWeight(N2, 3, "strong"),
                SetMove(B, N2, "try"),
                SetPoolEntry(A),
                SetPoolEntry(B, frozen_mapping({"prefix": 24, "exclude": ["n3"], "prefer": None})),
            ),
        ),
    )

    def order(reason: str, until: str = "") -> Order:
        return Order(ME, reason, AT, until, done.revision)

    view = operations.look()
    assert view.control == Control(
        revision=done.revision,
        drains=frozen_mapping({N1: order("a disk")}),
        pause=order("a party"),
        pins=frozen_mapping({A: Pin(N2, order("near"))}),
        moves=frozen_mapping({B: Move(N2, order("try", "2026-12-01T09:31:00Z"))}),
        weights=frozen_mapping({N2: Weight(3, order("strong"))}),
    )
    entry = PoolEntry(B, prefix_length=24, exclude=frozenset({NodeName("n3")}))
    assert view.pool == {A: PoolEntry(A), B: entry}
    back = commit(
        operations,
        Change(
            "undrain",
            deletes=(
                RemoveDrain(N1),
                RemovePause(),
                RemovePin(A),
                RemoveWeight(N2),
                RemoveMove(B),
                RemovePoolEntry(A),
                RemovePoolEntry(B),
            ),
        ),
    )
    assert back.revision > done.revision
    after = operations.look()
    assert after.control == Control(revision=back.revision) and not after.pool


def test_of_two_operators_who_have_seen_the_same_the_second_one_is_told_who_was_first(
    make: Callable[..., EtcdOperations],
) -> None:
    first, second = make(), make()
    seen = first.look(), second.look()
    assert isinstance(first.commit(Change("drain", (SetDrain(N1),)), seen[0], ME, NOW), Done)
    refused = second.commit(Change("pause", (SetPause(),)), seen[1], "joe@db2", NOW)
    assert refused == Conflict(f"{ME} has given the command drain at {AT}")
    view = second.look()
    assert (set(view.control.drains), view.control.pause) == ({N1}, None)
    assert isinstance(second.commit(Change("pause", (SetPause(),)), view, "joe@db2", NOW), Done)


def test_of_many_operators_at_once_one_is_first(make: Callable[..., EtcdOperations]) -> None:
    operators = [make() for _ in range(5)]
    seen = operators[0].look()
    answers: SimpleQueue[Done | Conflict] = SimpleQueue()
    threads = [
        threading.Thread(
            target=lambda each=each, n=number: answers.put(
                each.commit(Change("drain", (SetDrain(NodeName(f"n{n}")),)), seen, ME, NOW)
            )
        )
        for number, each in enumerate(operators)
    ]
    for thread in threads:
        thread.start()
    told = [answers.get(timeout=2 * PATIENT_S) for _ in threads]
    assert sum(isinstance(each, Done) for each in told) == 1
    assert len(operators[0].look().control.drains) == 1
    for thread in threads:
        thread.join()


def test_a_change_that_was_refused_leaves_nothing_behind(
    make: Callable[..., EtcdOperations], etcd: EtcdServer
) -> None:
    operations = make()
    seen = operations.look()
    commit(operations, Change("drain", (SetDrain(N1),)))
    before = etcd.ctl("lease", "list")
    change = Change("drain", (SetDrain(N2), SetMove(A, N2)), for_s=3600)
    assert isinstance(operations.commit(change, seen, ME, NOW), Conflict)
    assert etcd.ctl("lease", "list") == before


@pytest.mark.parametrize("what", ["added", "changed", "removed"])
def test_an_entry_of_the_pool_that_etcdctl_has_touched_meanwhile_is_left_as_it_is(
    operations: EtcdOperations, etcd: EtcdServer, what: str
) -> None:
    key = "/service/yaim/ips/192.0.2.10"
    if what != "added":
        etcd.ctl("put", key, "")
    seen = operations.look()
    if what == "removed":
        etcd.ctl("del", key)
    else:
        etcd.ctl("put", key, '{"prefix": 25}')
    changes = [Change("pool set", (SetPoolEntry(A, {"prefix": 24}),))]
    if what != "added":
        changes.append(Change("pool remove", deletes=(RemovePoolEntry(A),)))
    for change in changes:
        told = operations.commit(change, seen, ME, NOW)
        assert isinstance(told, Conflict) and "the pool was changed" in told.reason
    view = operations.look()
    there = {} if what == "removed" else {A: PoolEntry(A, prefix_length=25)}
    assert view.pool == there and view.control.revision == 0


def test_two_hundred_addresses_are_added_and_removed(operations: EtcdOperations) -> None:
    """More than etcd takes in one transaction (128 operations)."""
    pool = [ip_address(f"198.51.100.{n}") for n in range(256)]
    done = commit(operations, Change("pool add", tuple(SetPoolEntry(each) for each in pool)))
    view = operations.look()
    assert set(view.pool) == set(pool) and view.control.revision == done.revision
    told = events(operations)
    assert [len(each.addresses) for each in told] == [MOST_PARTS, MOST_PARTS, 256 - 2 * MOST_PARTS]
    commit(operations, Change("pool remove", deletes=tuple(map(RemovePoolEntry, pool))))
    assert not operations.look().pool


def test_many_nodes_are_drained_in_one_transaction(operations: EtcdOperations) -> None:
    nodes = [NodeName(f"n{number}") for number in range(MOST_PARTS)]
    done = commit(operations, Change("drain", tuple(map(SetDrain, nodes))))
    drains = operations.look().control.drains
    assert set(drains) == set(nodes)
    assert {order.revision for order in drains.values()} == {done.revision}


def test_what_is_for_a_time_stands_under_a_lease_of_that_time_and_says_until_when(
    operations: EtcdOperations, etcd: EtcdServer, client: EtcdClient, keys: Keys
) -> None:
    change = Change("drain", (SetDrain(N1), SetMove(A, N2), SetPoolEntry(A)), for_s=3600)
    commit(operations, change)
    assert operations.look().control.drains[N1].until == IN_AN_HOUR
    pairs, _ = client.read_all(*keys.all())
    leases = {key: pair.lease for key, pair in pairs.items()}
    drain, move = leases[keys.control("drain", N1)], leases[keys.move(A)]
    assert "granted with TTL(3600s)" in etcd.ctl("lease", "timetolive", f"{drain:x}")
    assert "granted with TTL(60s)" in etcd.ctl("lease", "timetolive", f"{move:x}")
    assert leases[keys.pool_entry(A)] == leases[keys.guard()] == 0
    client.revoke(drain)
    assert not operations.look().control.drains


def test_a_member_is_forgotten_with_its_drain_and_weight(
    operations: EtcdOperations, client: EtcdClient, keys: Keys
) -> None:
    client.put(keys.member(N1), b'{"version": 1, "stopped": true}')
    commit(operations, Change("drain", (SetDrain(N1), SetWeight(N1, 2), SetDrain(N2))))
    commit(operations, Change("node forget", deletes=(ForgetMember(N1),)))
    control = operations.look().control
    assert (set(control.drains), control.weights, control.members) == ({N2}, {}, {})


def test_a_member_that_is_there_again_is_not_forgotten(
    operations: EtcdOperations, client: EtcdClient, keys: Keys
) -> None:
    client.put(keys.member(N1), b'{"version": 1, "stopped": true}')
    seen = operations.look()
    client.put(keys.node(N1), b"{}", LeaseId(client.grant(60).id))
    told = operations.commit(Change("node forget", deletes=(ForgetMember(N1),)), seen, ME, NOW)
    assert isinstance(told, Conflict) and "is there again" in told.reason
    assert set(operations.look().control.members) == {N1}


def test_keys_below_the_prefix_that_are_nobodys_are_told(
    operations: EtcdOperations, client: EtcdClient, keys: Keys
) -> None:
    commit(operations, Change("drain", (SetDrain(N1),)))
    assert operations.look().control.wrong == ()
    for name in ("pool/192.0.2.10", "ips", "nodez/n1", "zone", "a", *(f"x/{n}" for n in range(99))):
        client.put(keys.prefix.encode() + name.encode(), b"")
    client.put(keys.control("drian", N1), b"")
    wrong = operations.look().control.wrong
    names = [each.name for each in wrong]
    assert names == ["a", "control/drian/n1", "ips", "nodez/n1", "pool/192.0.2.10"] + [
        f"x/{n}" for n in (0, 1, 10, 11)
    ]
    assert wrong[0].reason == "yaim has no such key; expected ips/<address>"


# --- the history ---------------------------------------------------------------------------------


def test_a_change_is_told_in_the_history(operations: EtcdOperations) -> None:
    change = Change("move", (SetMove(B, N1, "try"), SetMove(A, N2, "try")))
    done = commit(operations, change)
    assert events(operations) == [
        HistoryEvent(
            at=NOW,
            kind="move",
            nodes=(N1, N2),
            addresses=(A, B),
            by_node=frozen_mapping({A: N2, B: N1}),
            reason="try",
            by=ME,
            revision=done.revision,
        )
    ]


def test_why_something_was_taken_back_is_in_the_history_only(operations: EtcdOperations) -> None:
    commit(operations, Change("drain", (SetDrain(N1, "a disk"),)))
    commit(operations, Change("undrain", deletes=(RemoveDrain(N1),), reason="it is new"))
    assert [event.reason for event in events(operations)] == ["a disk", "it is new"]


def test_the_last_events_of_a_time_are_told_oldest_first(operations: EtcdOperations) -> None:
    for minute in range(6):
        at = NOW + timedelta(minutes=minute)
        change = Change(f"c{minute}", (SetDrain(N1),))
        assert isinstance(operations.commit(change, operations.look(), ME, at), Done)

    def kinds(since: int | None, until: int | None, limit: int) -> list[str]:
        times = [
            NOW + timedelta(minutes=each) if each is not None else None for each in (since, until)
        ]
        return [event.kind for event in operations.history(times[0], times[1], limit)]

    assert kinds(None, None, 10) == ["c0", "c1", "c2", "c3", "c4", "c5"]
    assert kinds(None, None, 2) == ["c4", "c5"]
    assert kinds(2, 4, 10) == ["c2", "c3", "c4"]
    assert kinds(2, 4, 1) == ["c4"]
    assert kinds(9, None, 10) == kinds(None, None, 0) == []


def test_the_history_is_not_read_with_the_cluster(
    operations: EtcdOperations, client: EtcdClient, keys: Keys
) -> None:
    commit(operations, Change("drain", (SetDrain(N1),)))
    pairs, _ = client.read_ranges(*keys.ranges())
    assert set(pairs) == {keys.guard(), keys.control("drain", N1)}


def test_what_is_no_event_is_passed_over(
    operations: EtcdOperations, client: EtcdClient, keys: Keys
) -> None:
    for number, value in enumerate((b"", b"[]", b'{"version": 2}', b"x" * 200_000)):
        client.put(keys.event(1, f"{number}"), value)
    commit(operations, Change("pause", (SetPause(),)))
    assert [event.kind for event in events(operations)] == ["pause"]


# --- the watch -----------------------------------------------------------------------------------


def test_a_watch_yields_at_once_and_after_each_change(
    operations: EtcdOperations, client: EtcdClient, keys: Keys
) -> None:
    client.put(keys.pool_entry(A), b"")
    watch = operations.watch()
    next(watch)
    assert set(operations.look().pool) == {A}
    for address in (B, ip_address("192.0.2.12")):
        client.put(keys.pool_entry(address), b"")
        while address not in operations.look().pool:
            next(watch)
    next(watch)
    watch.close()


def test_many_changes_are_few_yields(
    operations: EtcdOperations, client: EtcdClient, keys: Keys
) -> None:
    watch = operations.watch()
    next(watch)
    for number in range(200):
        client.put(keys.prefix.encode() + b"control/x", str(number).encode())
    yields = 0
    while not (operations.look().revision >= 201 and yields):
        next(watch)
        yields += 1
    assert yields < 50
    watch.close()


def test_a_watch_breaks_when_etcd_ends(operations: EtcdOperations, etcd: EtcdServer) -> None:
    watch = operations.watch()
    next(watch)
    etcd.stop()
    with pytest.raises(StoreError):
        for _ in watch:
            pass
    with pytest.raises(Unreachable):
        next(operations.watch())


# --- what is refused -----------------------------------------------------------------------------


def test_without_etcd_it_is_unreachable(operations: EtcdOperations, etcd: EtcdServer) -> None:
    seen = operations.look()
    etcd.stop()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:2379"):
        operations.look()
    with pytest.raises(Unreachable):
        operations.commit(Change("pause", (SetPause(),)), seen, ME, NOW)
    with pytest.raises(Unreachable):
        operations.history(None, None, 10)


def test_in_a_full_etcd_what_is_there_can_be_deleted_and_nothing_put(
    operations: EtcdOperations, etcd: EtcdServer
) -> None:
    pool = Change("pool add", (SetPoolEntry(A),))
    commit(operations, pool)
    commit(operations, Change("drain", (SetDrain(N1), SetPause(), SetPin(A, N2), SetWeight(N2, 2))))
    etcd.stop()
    etcd.add_options("--quota-backend-bytes=1")
    etcd.start()
    for change in (
        Change("pause", (SetPause(),)),
        Change("pause", (SetPause(),), for_s=3600),
        Change("move", (SetMove(A, N2),)),
        Change("pool add", (SetPoolEntry(B),)),
        Change("swap", (SetPause(),), (RemoveDrain(N1),)),
    ):
        with pytest.raises(StoreFull, match=r"can be deleted .* and nothing put"):
            operations.commit(change, operations.look(), ME, NOW)
    deletes = (RemoveDrain(N1), RemovePause(), RemovePin(A), RemoveWeight(N2), RemovePoolEntry(A))
    for each in deletes:
        commit(operations, Change("back", deletes=(each,)))
    view = operations.look()
    assert view.control == Control(revision=view.control.revision) and not view.pool
    assert [event.kind for event in events(operations)] == ["pool add", "drain"]


def documented_roles() -> Iterator[list[str]]:
    """The lines of docs/etcd.md about the roles of people, without `etcdctl`."""
    page = (ROOT / "docs" / "etcd.md").read_text()
    section = page.partition("### Who may do what\n")[2].partition("\n#")[0]
    for line in section.splitlines():
        if line.startswith("    etcdctl role "):
            yield line.split()[1:]


@pytest.fixture
def secured(etcd: EtcdServer) -> EtcdServer:
    """With users: operator and viewer, as documented, and stranger, who may do nothing."""
    etcd.ctl("user", "add", "root:r")
    etcd.ctl("user", "grant-role", "root", "root")
    for line in documented_roles():
        etcd.ctl(*line)
    etcd.ctl("role", "add", "yaim-stranger")
    for user in ("operator", "viewer", "stranger"):
        etcd.ctl("user", "add", f"{user}:secret")
        etcd.ctl("user", "grant-role", user, f"yaim-{user}")
    etcd.ctl("auth", "enable")
    return etcd


def grant(etcd: EtcdServer, user: str, right: str, where: str) -> None:
    what = ("role", "grant-permission", f"yaim-{user}", "--prefix=true", right)
    etcd.ctl(*what, f"/service/yaim/{where}", user="root:r")


def test_an_operator_may_do_all_of_it(
    secured: EtcdServer, make: Callable[..., EtcdOperations]
) -> None:
    operations = make("operator")
    watch = operations.watch()
    next(watch)
    commit(operations, Change("drain", (SetDrain(N1), SetMove(A, N2), SetPoolEntry(A)), for_s=3600))
    commit(operations, Change("node forget", deletes=(ForgetMember(N1), RemovePoolEntry(A))))
    assert [event.kind for event in events(operations)] == ["drain", "node forget"]
    next(watch)
    watch.close()


def test_a_viewer_may_look_and_nothing_else_and_is_told_which_right_is_missing(
    secured: EtcdServer, make: Callable[..., EtcdOperations]
) -> None:
    operations = make("viewer")
    seen = operations.look()
    assert events(operations) == []
    watch = operations.watch()
    next(watch)
    watch.close()
    with pytest.raises(NotPermitted) as raised:
        operations.commit(Change("drain", (SetDrain(N1),), for_s=60), seen, ME, NOW)
    line = "etcdctl role grant-permission yaim-viewer --prefix=true readwrite /service/yaim"
    assert str(raised.value) == (
        "etcd user viewer may not change /service/yaim/control/ and /service/yaim/timeline/."
        f" As etcd's root: {line}/control/; {line}/timeline/ (docs/etcd.md, Who may do what)"
    )
    with pytest.raises(NotPermitted, match=r"may not change .*/ips/"):
        operations.commit(Change("pool add", (SetPoolEntry(A),)), seen, ME, NOW)
    for room in ("control/", "timeline/"):
        grant(secured, "viewer", "readwrite", room)
    commit(operations, Change("drain", (SetDrain(N1),)))


def test_a_user_without_rights_is_told_which_it_needs_to_look(
    secured: EtcdServer, make: Callable[..., EtcdOperations]
) -> None:
    operations = make("stranger")
    line = "etcdctl role grant-permission yaim-stranger --prefix=true read /service/yaim/"
    for ask in (operations.look, lambda: events(operations), lambda: next(operations.watch())):
        with pytest.raises(NotPermitted) as raised:
            ask()
        assert str(raised.value) == (
            f"etcd user stranger may not read /service/yaim/. As etcd's root: {line}"
            " (docs/etcd.md, Who may do what)"
        )
    grant(secured, "stranger", "read", "")
    assert isinstance(operations.look(), ClusterView)


def test_who_has_no_user_in_an_etcd_that_wants_one_is_not_permitted(
    secured: EtcdServer, make: Callable[..., EtcdOperations]
) -> None:
    with pytest.raises(NotPermitted, match="set etcd-user and etcd-password"):
        make().look()
