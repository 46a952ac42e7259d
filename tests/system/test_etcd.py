"""What nodes, their addresses and a client see of a real etcd of three members when that is killed,
frozen, cut, slow, full, wiped, restarted, and when its users and certificates change.

TLS and users everywhere, ttl 5000. etcd elects faster than by default, so that what nobody may
notice does not depend on chance (docs/etcd.md, choosing a ttl); `make bench` measures both.

Tests share a lab as long as they leave it as it was. What is expected to be logged here is what
docs/etcd.md says.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.system.conftest import is_answered
from tests.system.watch import Watch
from yaim.dcs.etcd.access import EtcdError
from yaim.lab.cluster import Lab
from yaim.lab.etcd import CHANGE_PASSWORD, EtcdMember, EtcdPlan, put_in_place
from yaim.lab.namespaces import LabError
from yaim.lab.node import USER
from yaim.lab.plan import LabPlan, pool_of
from yaim.lab.wait import wait_until

FAST_ELECTIONS = ("--heartbeat-interval=50", "--election-timeout=500", "--pre-vote")
CHEAP_LOGINS = "--bcrypt-cost=4"
"""Each takes 0.1 s of a processor, which a busy machine has not got."""
ETCD = EtcdPlan(
    members=3,
    is_secured=True,
    options=(*FAST_ELECTIONS, CHEAP_LOGINS, "--quota-backend-bytes=16777216"),
)
SECURED = LabPlan(ttl_ms=5000, pool=pool_of(6), others=pool_of(7)[6:], etcd=ETCD)
RELAYED = replace(SECURED, etcd=replace(ETCD, has_relays=True))
LONG = replace(SECURED, ttl_ms=10_000)
"""Long enough for no lease to expire while a process is started on a busy machine: in a full etcd
there is no new one."""
SHORT_TOKENS = replace(SECURED, etcd=replace(ETCD, token_life_s=2))
SPREAD = [2, 2, 2]
NO_SPACE = "etcdserver: mvcc: database space exceeded: etcd is full (`etcdctl alarm list`): "
REVOKED_OVERLAP_S = 1.0
"""The overlap in all where etcd ends a lease before its time (docs/reliability.md): it lasts until
the watch tells."""
NEW_ACCESS = "a new access to etcd is used: endpoints, password or certificates have changed"


class Labs:
    """One at a time."""

    def __init__(self) -> None:
        self._lab: Lab | None = None

    def get(self, plan: LabPlan) -> Lab:
        """The one before, if it is like that and well; a new one if not."""
        if self._lab is not None and (self._lab.plan != plan or not _is_well(self._lab)):
            self.close()
        if self._lab is None:
            self._lab = Lab(plan).__enter__()
            for node in self._lab.nodes.values():
                node.start()
            _wait_until_well(self._lab)
        return self._lab

    def close(self) -> None:
        if self._lab is not None:
            self._lab.__exit__()
            self._lab = None


def _is_well(lab: Lab) -> bool:
    try:
        _wait_until_well(lab)
    except LabError:
        return False
    return True


def _wait_until_well(lab: Lab) -> None:
    lab.wait_until_held(counts=SPREAD)
    wait_until(lab.etcd_cluster.is_well, 20.0, "etcd to be well")
    wait_until(lambda: is_answered(lab), 20.0, "all addresses to answer")


@pytest.fixture(scope="module")
def labs() -> Iterator[Labs]:
    labs = Labs()
    yield labs
    labs.close()


@pytest.fixture
def lab(labs: Labs) -> Lab:
    return labs.get(SECURED)


@pytest.fixture
def relayed(labs: Labs) -> Lab:
    return labs.get(RELAYED)


def settled(lab: Lab, watch: Watch, seconds: float = 2.0) -> None:
    """Waits until etcd is as before, and some time longer."""
    wait_until(lab.etcd_cluster.is_well, 20.0, "etcd to be well", lab.etcd_cluster.logs)
    watch.look_on(seconds)


def shell(lab: Lab, command: str, at: EtcdMember | None = None) -> str:
    return lab.etcd_cluster.shell(command, at=at)


# --- members ---------------------------------------------------------------------------------


def test_nobody_notices_that_a_member_is_killed_with_9_whichever_it_is(lab: Lab) -> None:
    watch = Watch(lab)
    for member in (*lab.etcd_cluster.followers(), lab.etcd_cluster.leader()):
        member.kill()
        watch.look_on(3.5)
        member.start()
        settled(lab, watch, 1.5)
    assert watch.is_unnoticed(), watch.told()
    watch.wait_until_said("leaves etcd endpoint https://")


def test_nobody_notices_that_all_members_are_restarted_one_after_the_other(lab: Lab) -> None:
    """An upgrade of etcd does that; each member forgets its users' tokens."""
    watch = Watch(lab)
    lab.etcd_cluster.restart_one_by_one()
    watch.look_on(3.0)
    assert watch.is_unnoticed(), watch.told()


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_nobody_notices_that_a_member_is_frozen(lab: Lab, which: str) -> None:
    """It is frozen for less than the ttl."""

    def freeze(watch: Watch) -> EtcdMember:
        member = pick(lab, which)
        member.freeze()
        watch.look_on(3.5)
        member.thaw()
        return member

    watch = try_undisturbed(lab, freeze)
    assert watch.is_unnoticed(), watch.told()


def test_a_leader_that_goes_on_after_more_than_the_ttl_does_no_harm_but_may_end_leases(
    lab: Lab,
) -> None:
    """The leases end as if revoked by hand: etcd before 3.4.31 and 3.5.13 (etcd issue 15247) takes
    all leases for expired before it knows of the new leader."""
    leader = lab.etcd_cluster.leader()
    watch = Watch(lab)
    leader.freeze()
    watch.look_on(7.0)
    assert watch.is_unnoticed(), watch.told()
    leader.thaw()
    settled(lab, watch, 8.0)
    lab.wait_until_held(counts=SPREAD)
    assert watch.overlap_s < REVOKED_OVERLAP_S, watch.told()


def pick(lab: Lab, which: str) -> EtcdMember:
    cluster = lab.etcd_cluster
    return cluster.leader() if which == "leader" else cluster.followers()[0]


TRIES = 3
"""The most tries of what a machine without a free processor may disturb."""


def try_undisturbed(lab: Lab, trouble: Callable[[Watch], EtcdMember]) -> Watch:
    """What was seen of the trouble that one member is in; tried again where the other two elected a
    leader without need, or more than once: with one member missing they lose it when either of
    them gets no processor for half a second."""
    for _ in range(TRIES):
        watch = Watch(lab)
        was_led_by, before = lab.etcd_cluster.leader().name, elections(lab)
        troubled = trouble(watch)
        settled(lab, watch)
        needed = 1 if troubled.name == was_led_by else 0
        others = elections(lab).keys() - {troubled.name}
        if all(elections(lab)[each] - before[each] <= needed for each in others):
            break
        lab.wait_until_held(counts=SPREAD)
    return watch


def elections(lab: Lab) -> dict[str, float]:
    """How many changes of the leader each member has seen."""
    name = "etcd_server_leader_changes_seen_total"
    return {member.name: member.metrics()[name] for member in lab.members}


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_a_member_without_a_leader_is_left_for_another(lab: Lab, which: str) -> None:
    """It is up and answers, but is cut off from its peers."""

    def cut(watch: Watch) -> EtcdMember:
        member = pick(lab, which)
        member.cut_from_peers()
        watch.look_on(7.0)
        member.connect()
        return member

    watch = try_undisturbed(lab, cut)
    assert watch.is_unnoticed(), watch.told()


def test_nobody_notices_that_the_quorum_is_lost_for_half_a_second(lab: Lab) -> None:
    watch = Watch(lab)
    members = lab.etcd_cluster.followers()
    for member in members:
        member.freeze()
    watch.look_on(0.5)
    for member in members:
        member.thaw()
    settled(lab, watch, 3.0)
    assert watch.is_unnoticed(), watch.told()


def test_a_lost_quorum_costs_the_addresses_in_time_and_they_come_back_as_they_were(
    lab: Lab,
) -> None:
    """A new leader of etcd gives every lease its full TTL."""
    before = lab.holders()
    watch = Watch(lab)
    members = lab.members[:2]
    for member in members:
        member.kill()
    all_are_given_up(lab, watch)
    for member in members:
        member.start()
    lab.wait_until_held(counts=SPREAD)
    watch.wait_until_said("our lease is kept again")
    settled(lab, watch)
    assert (lab.holders(), watch.moves, watch.overlap_s) == (before, 6, 0.0), watch.told()


def test_an_etcd_that_is_frozen_costs_the_addresses_in_time_and_all_are_held_again(
    lab: Lab,
) -> None:
    """Leases end while it is frozen: who comes first when it goes on takes what is free."""
    watch = Watch(lab)
    for member in lab.members:
        member.freeze()
    all_are_given_up(lab, watch)
    watch.look_on(4.0)
    watch.wait_until_said("cannot read etcd: ")
    for member in lab.members:
        member.thaw()
    lab.wait_until_held(counts=SPREAD)
    watch.wait_until_said("etcd can be read again")
    ended = "etcd has lost our lease: giving up all addresses"
    assert any(ended in watch.said(node) for node in lab.nodes.values()), watch.told()
    settled(lab, watch)
    assert watch.overlap_s == 0.0, watch.told()


def all_are_given_up(lab: Lab, watch: Watch) -> None:
    wait_until(lambda: not lab.holders(), 20.0, "all addresses to be given up", watch.told)
    watch.wait_until_said("our lease is not kept: ")


def test_addresses_are_where_they_were_after_all_members_were_killed_at_once(lab: Lab) -> None:
    before = lab.holders()
    watch = Watch(lab)
    for member in lab.members:
        member.kill()
    for member in lab.members:
        member.start()
    settled(lab, watch, 3.0)
    lab.wait_until_held(counts=SPREAD)
    assert (lab.holders(), watch.overlap_s) == (before, 0.0), watch.told()


# --- its keys and its leases -----------------------------------------------------------------


def test_after_all_leases_were_revoked_the_same_nodes_hold_the_same_addresses(lab: Lab) -> None:
    """All are revoked at once: the nodes stand still meanwhile, or the first to lose its lease is
    dead for the others."""
    before = lab.holders()
    watch = Watch(lab)
    for node in lab.nodes.values():
        node.signal(signal.SIGSTOP, "coordinator")
    shell(lab, "etcdctl lease list | tail -n +2 | xargs -n 1 -P 8 etcdctl lease revoke")
    for node in lab.nodes.values():
        node.signal(signal.SIGCONT, "coordinator")
    watch.wait_until_said("etcd has lost our lease although it was kept in time")
    lab.wait_until_held(counts=SPREAD)
    watch.look_on(7.0)
    assert (lab.holders(), watch.moves, watch.overlap_s) == (before, 6, 0.0), watch.told()


@pytest.mark.parametrize("token", [None, "another"], ids=["data wiped", "another cluster"])
def test_an_etcd_that_was_founded_anew_is_taken_up(lab: Lab, token: str | None) -> None:
    watch = Watch(lab)
    lab.found_etcd_anew(token)
    watch.wait_until_said("etcd has lost our lease")
    if token is not None:
        watch.wait_until_said("etcd is another cluster (")
    lab.wait_until_held(counts=SPREAD, within_s=20.0)
    settled(lab, watch, 3.0)
    lab.wait_until_held(counts=SPREAD)
    assert watch.overlap_s == 0.0, watch.told()


def test_nobody_notices_compaction_and_defragmentation(lab: Lab) -> None:
    watch = Watch(lab)
    _, revision = lab.etcd.read_all(*lab.keys.all())
    shell(lab, f"etcdctl compact --physical {revision}")
    watch.look_on(1.0)
    for member in (lab.etcd_cluster.leader(), *lab.etcd_cluster.followers()):
        shell(lab, "etcdctl defrag", at=member)
    watch.look_on(6.0)
    assert watch.is_unnoticed(), watch.told()


def test_in_an_etcd_that_is_full_a_failed_check_hands_over_and_nobody_joins(labs: Labs) -> None:
    """What is written in a nested transaction, as advertisements and marks are, etcd counts for
    nothing: others can take what is given up."""
    lab = labs.get(LONG)
    n1, n2, _ = lab.nodes.values()
    fill(lab)
    watch = Watch(lab)
    watch.look_on(12.0)
    assert watch.is_unnoticed(), watch.told()
    n1.break_service()
    lab.wait_until_held(by=["n2", "n3"])
    watch.wait_until_said("advertised as unhealthy", by=[n1])
    n1.mend_service()
    n2.signal(signal.SIGKILL, "coordinator")
    watch.wait_until_said("adopts lease", by=[n2])
    lab.wait_until_held(counts=SPREAD)
    n1.kill()
    n2.stop()
    lab.wait_until_held(by=["n3"])
    n1.start()
    n2.start()
    watch.wait_until_said(NO_SPACE, by=[n1, n2])
    assert lab.is_held(lab.plan.pool, by=["n3"]), watch.told()
    make_room(lab)
    lab.wait_until_held(counts=SPREAD)
    assert watch.overlap_s == 0.0, watch.told()


def fill(lab: Lab) -> None:
    """Fills etcd until it takes no more: alarm NOSPACE."""
    with pytest.raises(EtcdError, match="database space exceeded"):
        for number in range(40):
            lab.etcd.put(f"/filler/{number}".encode(), bytes(1_000_000))
    assert "alarm:NOSPACE" in shell(lab, "etcdctl alarm list")


def make_room(lab: Lab) -> None:
    """Makes room as docs/etcd.md says."""
    shell(lab, "etcdctl del --prefix /filler/")
    _, revision = lab.etcd.read_all(*lab.keys.all())
    shell(lab, f"etcdctl compact --physical {revision}")
    for member in lab.members:
        shell(lab, "etcdctl defrag", at=member)
    shell(lab, "etcdctl alarm disarm")


# --- users and certificates ------------------------------------------------------------------


def test_nobody_notices_that_the_password_is_changed_in_the_file_and_then_in_etcd(
    lab: Lab,
) -> None:
    cluster = lab.etcd_cluster
    watch = Watch(lab)
    cluster.set_password("etcd", "another-password")
    for node in lab.nodes.values():
        put_in_place(node.directory / "etcd-password", "another-password\n", USER)
    shell(lab, CHANGE_PASSWORD)
    watch.look_on(6.0)
    assert watch.is_unnoticed(), watch.told()
    watch.wait_until_said(NEW_ACCESS)
    for node in lab.nodes.values():
        assert "authentication failed" not in watch.said(node)


def test_a_permission_that_is_missing_is_told_with_its_key_and_used_when_it_is_there(
    lab: Lab,
) -> None:
    watch = Watch(lab)
    shell(lab, "etcdctl role revoke-permission yaim --prefix=true /service/yaim/")
    watch.wait_until_said("permission denied")
    for node in lab.nodes.values():
        (line,) = [each for each in watch.said(node).splitlines() if "cannot read etcd" in each]
        assert line.endswith(
            "etcdserver: permission denied (reading /service/yaim/control/ to"
            " /service/yaim/control0): the role of etcd-user needs readwrite for all keys of the"
            " cluster"
        )
    shell(lab, "etcdctl role grant-permission yaim --prefix=true readwrite /service/yaim/")
    watch.wait_until_said("etcd can be read again")
    watch.look_on(2.0)
    assert watch.is_unnoticed(), watch.told()


def test_nobody_notices_that_the_ca_and_all_certificates_are_replaced(lab: Lab) -> None:
    """They are replaced as docs/etcd.md says: first all trust both CAs, then all show a new
    certificate, then nobody trusts the old CA. Only etcd is restarted."""
    cluster = lab.etcd_cluster
    watch = Watch(lab)
    old = cluster.authority
    new = cluster.new_authority(f"{old.cert.stem}-2")
    for trusted, used in (((old, new), old), ((old, new), new), ((new,), new)):
        cluster.trust(*trusted)
        cluster.certify_by(used)
        for node in lab.nodes.values():
            node.equip()
        cluster.restart_one_by_one()
        watch.look_on(2.0)
    assert watch.is_unnoticed(), watch.told()
    watch.wait_until_said(NEW_ACCESS)


def test_nobody_notices_that_tokens_live_for_two_seconds(labs: Labs) -> None:
    lab = labs.get(SHORT_TOKENS)
    watch = Watch(lab)
    watch.look_on(15.0)
    assert watch.is_unnoticed(), watch.told()
    for node in lab.nodes.values():
        assert "token" not in watch.said(node)


# --- the way there ---------------------------------------------------------------------------


def test_nobody_notices_that_etcd_takes_a_second_to_answer(relayed: Lab) -> None:
    watch = Watch(relayed)
    for relay in relayed.etcd_cluster.relays:
        relay.delay(0.5, 0.5)
    watch.look_on(10.0)
    for relay in relayed.etcd_cluster.relays:
        relay.restore()
    watch.look_on(3.0)
    assert watch.is_unnoticed(), watch.told()


def test_nobody_notices_that_a_member_stays_connected_and_answers_nothing(relayed: Lab) -> None:
    watch = Watch(relayed)
    for relay in relayed.etcd_cluster.relays:
        relay.swallow()
        watch.look_on(4.0)
        relay.restore()
        watch.look_on(1.0)
    assert watch.is_unnoticed(), watch.told()


def test_a_watch_that_tells_nothing_any_more_is_made_anew(relayed: Lab) -> None:
    (joins,) = relayed.plan.others
    watch = Watch(relayed)
    wanted = (*relayed.plan.pool, joins)
    for relay in relayed.etcd_cluster.relays:
        relay.swallow(["back"])
        relayed.put(joins)
        relayed.wait_until_held(wanted)
        relayed.delete(joins)
        relayed.wait_until_held()
        relay.restore()
    watch.look_on(1.0)
    assert watch.overlap_s == 0.0, watch.told()
    assert watch.gap_s() == 0.0, watch.told()
