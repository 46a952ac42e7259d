"""What a node with several checks, or a late one, says and does."""

from dataclasses import replace

from tests.core.play import (
    LEASE,
    ME,
    A,
    B,
    advertised,
    holding,
    mark,
    requests,
    settings,
    several,
    started,
    view,
)
from yaim.core.actions import (
    AdvertiseNode,
    ClaimMarks,
    Level,
    RemoveAddress,
)
from yaim.core.events import (
    ClusterChanged,
    NodeAdvertised,
    SettingsChanged,
)
from yaim.core.model import (
    Node,
    Revision,
)
from yaim.core.settings import CheckSettings


def test_a_check_that_does_not_answer_in_time_counts_as_unhealthy() -> None:
    play = holding(A)
    play.tell(play.healthy(for_s=0.5))
    assert requests(play.after(0.6)) == [RemoveAddress]


def test_with_several_checks_nothing_is_taken_or_given_up_until_they_have_answered() -> None:
    play = holding(A)
    several(play, "database", "web")
    assert not advertised(play).takes
    me = (Node(ME, advertised(play), LEASE, Revision(5)),)
    assert play.tell(ClusterChanged(view(5, (A, B), me, (mark(A, 4),)))) == []
    assert play.tell(play.answer("database", True)) == []
    assert play.state.held == (A,)
    (write,) = play.tell(play.answer("web", True))
    assert isinstance(write, AdvertiseNode)
    assert (write.advertisement.is_healthy, write.advertisement.reason) == (True, "database, web")
    assert write.advertisement.takes
    told = Node(ME, write.advertisement, LEASE, Revision(6))
    assert requests(play.tell(NodeAdvertised(write.request, told))) == [ClaimMarks]


def test_a_sighup_that_changes_the_checks_costs_no_address() -> None:
    play = holding(A)
    several(play, "service", "web")
    assert play.tell() == []
    several(play, "database")
    assert play.tell() == []
    assert play.tell(play.unhealthy()) == []
    assert play.state.held == (A,)
    accepts = play.answer("database", True, "accepts connections")
    assert requests(play.tell(accepts)) == [AdvertiseNode]
    assert play.state.held == (A,)


def test_all_that_fails_is_told_as_the_reason_also_when_that_changes() -> None:
    play = started()
    several(play, "database", "web", "proxy")
    refused = play.answer("database", False, "connection refused")
    (write,) = play.tell(refused, play.answer("proxy", False, "HTTP 503, expected 200"))
    assert isinstance(write, AdvertiseNode)
    reason = "database: connection refused; proxy: HTTP 503, expected 200"
    assert write.advertisement.reason == reason
    assert play.said(Level.WARNING) == [
        "check database: unhealthy: connection refused",
        "check proxy: unhealthy: HTTP 503, expected 200",
        "unhealthy: database, proxy",
    ]
    told = Node(ME, write.advertisement, LEASE, Revision(5))
    play.tell(NodeAdvertised(write.request, told))
    assert play.tell(refused, play.answer("web", True)) == []
    (write,) = play.tell(play.answer("database", True))
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement.reason == "proxy: HTTP 503, expected 200"
    assert len(play.said(Level.WARNING)) == 3


def test_the_reason_of_a_healthy_node_follows_its_checks() -> None:
    play = started()
    several(play, "database", "web", is_any_enough=True)
    (write,) = play.tell(play.answer("database", True), play.answer("web", True))
    assert isinstance(write, AdvertiseNode)
    assert play.said(Level.INFO)[-1] == "healthy: database, web"
    told = Node(ME, write.advertisement, LEASE, Revision(5))
    play.tell(NodeAdvertised(write.request, told))
    assert play.tell(play.answer("database", True), play.answer("web", True)) == []
    (write,) = play.tell(play.answer("web", False, "HTTP 503"))
    assert isinstance(write, AdvertiseNode)
    assert write.advertisement.reason == "database; failing: web: HTTP 503"


def test_an_only_check_is_told_once() -> None:
    play = holding(A)
    play.tell(play.unhealthy(), play.healthy(), play.unhealthy())
    play.tell(play.unhealthy())
    assert play.said(Level.WARNING) == ["unhealthy: HTTP 503"]


def test_the_check_that_has_not_answered_in_time_is_named() -> None:
    play = holding(A)
    several(play, "database", "web")
    play.tell(play.answer("database", True), play.answer("web", True, for_s=0.5))
    silent_from = play.now + 0.5
    play.after(0.4, play.answer("database", True))
    assert play.wake_at == silent_from
    assert requests(play.after(0.1)) == [RemoveAddress]
    assert play.said(Level.WARNING) == [
        "check web: unhealthy: has not answered in time",
        "unhealthy: web",
    ]


def test_a_new_check_that_never_answers_counts_as_failed_in_its_time() -> None:
    play = holding(A)
    checks = (CheckSettings("service"), CheckSettings("web", answers_within_s=0.5))
    play.tell(SettingsChanged(replace(settings(), checks=checks)))
    play.tell(play.healthy())
    silent_until = play.now + 0.5
    assert play.after(0.4) == []
    assert play.wake_at == silent_until
    assert requests(play.after(0.1)) == [RemoveAddress]
    assert play.said(Level.WARNING)[-1] == "unhealthy: web"


def test_a_sighup_leaves_a_check_time_for_the_attempt_under_way_and_the_next() -> None:
    """A changed check throws away what the attempt under way finds."""
    play = holding(A)
    old, new = (CheckSettings("service", answers_within_s=s) for s in (0.2, 0.3))
    play.tell(SettingsChanged(replace(settings(), checks=(old,))))
    play.tell(play.healthy(for_s=0.1))
    play.tell(SettingsChanged(replace(settings(), checks=(new,))))
    assert play.after(0.4) == []
    assert requests(play.after(0.2)) == [RemoveAddress]


def test_a_sighup_leaves_that_time_also_to_a_check_that_has_not_answered_yet() -> None:
    play = holding(A)
    old, new = (CheckSettings("web", answers_within_s=s) for s in (0.2, 0.3))
    play.tell(SettingsChanged(replace(settings(), checks=(old,))))
    play.tell(SettingsChanged(replace(settings(), checks=(new,))))
    assert play.after(0.4) == []
    assert requests(play.after(0.2)) == [RemoveAddress]


def test_an_answer_that_comes_late_with_a_step_that_comes_late_counts() -> None:
    play = holding(A)
    play.tell(play.healthy(for_s=0.5))
    play.now += 0.6
    assert play.tell(play.healthy()) == []
