"""What most of the helper's tests need: a network, a helper in it, a connection to that."""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from signal import ITIMER_REAL
from types import SimpleNamespace

import pytest

from tests.helper.network import new_network
from tests.helper.process import Client, Helper, policy, started, wait_until_ready
from yaim.lab.namespaces import Namespace

SPARES = 4
"""Helpers that are started ahead: a test need not wait for the third of a second that takes."""


class Nursery:
    """Helpers that no test has used yet, each in a network of its own."""

    def __init__(self, directories: pytest.TempPathFactory) -> None:
        self._directories = directories
        self._young: dict[str, deque[tuple[ExitStack, Namespace, Helper]]] = {}

    def take(self, fence: str) -> tuple[ExitStack, Namespace, Helper]:
        """One of them; it is gone when the stack is closed."""
        young = self._young.setdefault(fence, deque())
        while len(young) < SPARES:
            stack = ExitStack()
            network = stack.enter_context(new_network())
            directory = self._directories.mktemp("helper")
            config = policy(directory / "audit", fence=fence)
            helper = stack.enter_context(started(network, directory, config=config))
            young.append((stack, network, helper))
        return young.popleft()

    def close(self) -> None:
        for young in self._young.values():
            for stack, _, _ in young:
                stack.close()


@pytest.fixture(autouse=True)
def no_alarm() -> Iterator[None]:
    """Some tests run the helper's code in their own process. The helper's alarm (act_within) must
    not end a slow test, nor replace pytest's alarm, which ends a test that hangs."""
    never = SimpleNamespace(ITIMER_REAL=ITIMER_REAL, setitimer=lambda *_: None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("yaim_helper.kernel.alarm.signal", never)
        yield


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory)
    yield nursery
    nursery.close()


@pytest.fixture
def fence() -> str:
    """What the helper's policy says of it. A file whose tests are to pass with a fence and without
    has this otherwise."""
    return "off"


@pytest.fixture
def network_and_helper(nursery: Nursery, fence: str) -> Iterator[tuple[Namespace, Helper]]:
    stack, network, helper = nursery.take(fence)
    with stack:
        wait_until_ready(helper)
        yield network, helper


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """The one of the helper, if the test has one."""
    if "helper" in request.fixturenames:
        network, _ = request.getfixturevalue("network_and_helper")
        yield network
    else:
        with new_network() as network:
            yield network


@pytest.fixture
def helper(network_and_helper: tuple[Namespace, Helper]) -> Helper:
    return network_and_helper[1]


@pytest.fixture
def client(helper: Helper) -> Iterator[Client]:
    with helper.greeted() as client:
        yield client
