"""A process of the host that keeps its socket locked keeps whoever ends that waiting in the kernel,
uninterruptibly, and a killed helper from ending as a whole: what becomes of the next one?"""

import mmap
import signal
import threading
from pathlib import Path

import pytest

from tests.helper.kernel.test_connections import libc, page_that_nobody_gives, waiting
from tests.helper.network import wait_for
from tests.helper.process import OK_PRESENT, running
from tests.helper.serve.test_resets import OTHER, V4, Hosts, config, fence, hosts

__all__ = ["fence", "hosts"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_helper_is_started_anew_while_a_socket_is_locked(
    hosts: Hosts, how: signal.Signals, tmp_path: Path, fence: str
) -> None:
    """It found the record locked, and all addresses of the host ended at their deadlines."""
    _, server = hosts.pair(hosts.listener(), V4)
    with page_that_nobody_gives() as at:
        sender = threading.Thread(target=libc.send, args=(server.fileno(), at, mmap.PAGESIZE, 0))
        sender.start()
        wait_for(lambda: "handle_userfault" in waiting(sender), "it waits for its page")
        removed = hosts.asks.remove_with_reset(str(V4))
        assert (removed["reset"], removed["left"]) == (0, 1)
        hosts.helper.process.send_signal(how)
        with (
            running(hosts.server, tmp_path, config=config(tmp_path, fence)) as again,
            again.greeted() as client,
        ):
            assert client.add(str(OTHER)) == OK_PRESENT
    sender.join()
    hosts.helper.process.wait(20)
