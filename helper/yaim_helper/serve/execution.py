"""What happens between a request and its reply: the intents come on record, what may be done is
done together, and the results come on record.

Nothing that needs an intent has an effect before that was handed to the record, and an add none
before its intent is on the disk (asked.py). Reads and sends nothing itself.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import assert_never

from yaim_helper.clock import boottime
from yaim_helper.held.batch import Batch
from yaim_helper.held.holdings import Holdings
from yaim_helper.jobs import Jobs
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.protocol import (
    Add,
    Failed,
    Hello,
    List,
    Ok,
    Refused,
    Remove,
    Renew,
    Reply,
    Request,
)
from yaim_helper.record.entries import Entry, intent, result
from yaim_helper.record.recorder import Recorder
from yaim_helper.serve.asked import (
    DISK_HANGS,
    HUNG_UP,
    KERNEL_WAITS,
    Asked,
    overtaken,
    ready,
)
from yaim_helper.serve.connections import Connection
from yaim_helper.serve.floods import Floods
from yaim_helper.serve.requests import ADD, CLEAR, HELLO, Requests, address_of, operation_of

MAX_BEGUN = 256
"""The most requests of a user that wait for the kernel: further ones fail at once."""


class Execution:
    def __init__(
        self,
        requests: Requests,
        holdings: Holdings,
        recorder: Recorder,
        floods: Floods,
        jobs: Jobs,
        spend: Callable[[int, float, int], None] = lambda _uid, _took_s, _count: None,
    ) -> None:
        """`spend` is told how much processor time a user's requests took in a job, and how many
        they were."""
        self._requests = requests
        self._holdings = holdings
        self._recorder = recorder
        self._floods = floods
        self._jobs = jobs
        self._spend = spend
        self._begun: dict[Asked, int] = {}
        """What may wait for the kernel, and whose it is."""

    # --- intents -------------------------------------------------------------------------------

    def take_in(self, connection: Connection, requests: Sequence[Request]) -> None:
        """Notes what has come, and hands over the intents. A request that is refused whatever is on
        the host has no effect, and so no intent."""
        now = boottime()
        does_hang = self._recorder.does_disk_hang(now)
        asked = [Asked(each, now, self._known(each, does_hang)) for each in requests]
        self._hand_over_intents(
            connection,
            [each for each in asked if each.known is None and each.operation.needs_intent],
        )
        owner = connection.owner
        for each in asked:
            if isinstance(each.request, Remove) and owner is not None:
                if self._holdings.expect_removal(owner, each.request):
                    each.expected_for = owner
            elif isinstance(each.request, Renew) and owner is not None:
                each.waits_for_resets_until = self._holdings.waits_for_resets_until(owner, now)
        connection.asked.extend(asked)

    def hand_over_deferred(self, connection: Connection) -> None:
        """Hands over the intents that were put off, if the record takes them now."""
        deferred = [each for each in connection.asked if each.is_deferred and not each.reply]
        self._hand_over_intents(connection, deferred)

    def _known(self, request: Request, does_hang: bool) -> Reply | None:
        """Returns the reply to a request that can be told before it is done."""
        refusal = self._holdings.refusal(request) if isinstance(request, Add) else None
        if refusal is None and does_hang and operation_of(request).waits_for_disk:
            return DISK_HANGS
        return refusal

    def _hand_over_intents(self, connection: Connection, asked: Iterable[Asked]) -> None:
        """Hands over the intents, together. Those of adds are put off while the record has to tell
        what is held: it cannot as long as an add is under way, and one always could be."""
        has_to_tell = self._recorder.has_to_tell_held
        intended = []
        for each in asked:
            each.is_deferred = has_to_tell and each.operation is ADD
            if not each.is_deferred:
                intended.append(each)
        if intended:
            peer, cluster = connection.peer, connection.cluster
            handed = self._recorder.ask(
                [
                    intent(peer, cluster, each.request, self._rule_for(each.request))
                    for each in intended
                ]
            )
            for each in intended:
                each.intent = handed

    def _rule_for(self, request: Request) -> int | None:
        """Returns the number of the rule that allows an add."""
        rule = self._holdings.policy.rule_for(request) if isinstance(request, Add) else None
        return rule.number if rule is not None else None

    # --- effects -------------------------------------------------------------------------------

    def do_what_may_be_done(self, connection: Connection) -> int:
        """Does together what may be done of what was asked, and returns how many requests that
        were. Each has its reply then."""
        now = boottime()
        self._give_up(connection, now)
        doing, connection.look_at = ready(connection.asked, now)
        if not self._holdings.waits_for_kernel:
            self._do_together(connection, doing)
            return len(doing)
        waiting = [each for each in doing if self._may_wait(each, doing)]
        uid = connection.peer.uid
        if sum(its == uid for its in self._begun.values()) + len(waiting) > MAX_BEGUN:
            for each in waiting:
                each.known = KERNEL_WAITS
            waiting = []
        for each in waiting:
            each.begun_at = now
            self._begun[each] = uid
            connection.look_at = min(connection.look_at, each.given_up_at)
        if waiting:
            self._jobs.start(partial(self._do_as_job, connection, waiting))
        self._do_together(connection, [each for each in doing if each.begun_at is None])
        return len(doing)

    def _may_wait(self, it: Asked, doing: Sequence[Asked]) -> bool:
        """Whether a request may wait for the kernel, or has to come behind one that may."""
        if it.known is not None:
            return False
        match it.request:
            case Hello() | Renew():
                return False
            case List():
                return self._holdings.has_left_overs or it is not doing[0]
            case _:
                return True

    def _give_up(self, connection: Connection, now: float) -> None:
        """What has waited too long for the kernel has failed for the coordinator. It goes on: what
        comes of it is on record then."""
        for each in connection.asked:
            if each.reply is None and now >= each.given_up_at:
                each.reply = KERNEL_WAITS

    def _do_as_job(self, connection: Connection, doing: Sequence[Asked]) -> None:
        began = time.thread_time()
        self._do_together(connection, doing)
        for each in doing:
            del self._begun[each]
        self._spend(connection.peer.uid, time.thread_time() - began, len(doing))

    def _do_together(self, connection: Connection, doing: Sequence[Asked]) -> None:
        """Does these requests, in order. Each has its reply then."""
        if not doing:
            return
        addresses = {a for each in doing if (a := address_of(each.request)) is not None}
        batch = self._holdings.batch(addresses)
        over: list[Asked] = []
        for at, each in enumerate(doing):
            if isinstance(each.request, Remove):
                if not at or not isinstance(doing[at - 1].request, Remove):
                    self._reset_together(connection, doing[at:], batch)
                each.fenced_until = self._fenced_until(connection, each.request)
            each.outcome = (
                each.known or each.obstacle(boottime()) or self._do(connection, each.request, batch)
            )
            if isinstance(each.request, Remove) and isinstance(each.outcome, Failed):
                # What is to go is never renewed again, though it could not be removed.
                self._holdings.leave(connection.owner, each.request.address)
            self._end_removal(each)
            if isinstance(each.outcome, Ok):
                over += overtaken(connection.asked, each)
        went_wrong = batch.settle()
        for each in doing:
            if (error := went_wrong.get(each.request.id)) is not None:
                each.outcome = Failed(error.errno, error.reason)
            if isinstance(each.request, Add):
                each.fenced_until = self._fenced_until(connection, each.request)
        self._spend(connection.peer.uid, self._holdings.resets.take_s(), 0)
        self._note_results(connection, [*over, *doing])
        for each in doing:
            each.reply = each.reply or each.outcome

    def _reset_together(self, connection: Connection, doing: Iterable[Asked], batch: Batch) -> None:
        """Resets the connections of the removals that come next. If the kernel does not let it, the
        addresses go all the same."""
        removals = [
            each.request
            for each in takewhile(lambda each: isinstance(each.request, Remove), doing)
            if isinstance(each.request, Remove) and each.known is None
        ]
        if connection.owner is not None:
            with suppress(KernelError):
                batch.reset_together(connection.owner, removals)

    def _fenced_until(
        self, connection: Connection, request: Add | Remove
    ) -> tuple[bool, float] | None:
        return self._holdings.fenced_until(connection.owner, request.address)

    def _do(self, connection: Connection, request: Request, batch: Batch) -> Reply:
        reply = self._requests.do(connection, request, batch)
        if operation_of(request) is HELLO and not isinstance(reply, Ok):
            connection.refuse_hello()
        return reply

    # --- results -------------------------------------------------------------------------------

    def end(self, connection: Connection) -> None:
        """Tells the record what becomes of what is not done when the connection ends. What was
        begun goes on, and tells it itself."""
        left = [e for e in connection.asked if e.reply is None and e.begun_at is None]
        for each in left:
            self._end_removal(each)
        self._note_results(connection, [each for each in left if each.intent])

    def begin_no_more_adds(self) -> None:
        """Adds that wait for the kernel are not done: their deadlines do not count any more."""
        for each in self._begun:
            if isinstance(each.request, Add):
                each.known = HUNG_UP

    def _end_removal(self, it: Asked) -> None:
        """A removal that was asked for is done, or will not be."""
        if it.expected_for is not None and isinstance(it.request, Remove):
            self._holdings.end_removal(it.expected_for, it.request)
            it.expected_for = None

    def _note_results(self, connection: Connection, over: Sequence[Asked]) -> None:
        peer, cluster = connection.peer, connection.cluster
        self._recorder.note(
            result(peer, cluster, each.request, each.on_record, *each.fence_on_record)
            for each in over
            if each.intent or self._is_told(peer.uid, each.request, each.on_record)
        )

    def _is_told(self, uid: int, request: Request, reply: Reply) -> bool:
        """Whether the record tells the result of a request that needed no intent."""
        match reply:
            case Ok(fields):
                if operation_of(request) is CLEAR:
                    return bool(fields["cleared"] or fields["left"])
                return operation_of(request) is HELLO and self._floods.takes(uid, "hello")
            case Refused():
                return self._floods.takes(uid, "refused")
            case Failed():
                return self._floods.takes(uid, "failed")
            case _:
                assert_never(reply)

    # --- what is held, for the record ----------------------------------------------------------

    def describe(self, connections: Iterable[Connection]) -> list[Entry] | None:
        """Returns what is held; None: the kernel does not tell, or an add may come behind that
        whose intent comes before it."""
        asked = {
            each for connection in connections for each in connection.asked
        } | self._begun.keys()
        adds = [each for each in asked if each.intent and each.operation is ADD]
        is_add_under_way = any(
            each.outcome is None and (each.reply is None or each in self._begun) for each in adds
        )
        if is_add_under_way or not self._jobs.may_ask_kernel:
            return None
        try:
            return self._holdings.describe()
        except KernelError:
            return None
