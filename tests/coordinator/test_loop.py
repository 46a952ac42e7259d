"""The loop with parts that only write down what is asked of them: no etcd, no helper.

Each runs in a process of its own, because the loop takes its signals.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading
from yaim.config.load import load
from yaim.coordinator.loop import Coordinator
from yaim.coordinator.parts import Parts
from yaim.core.events import ClusterReadFailed, LeaseFailed

keys = {"dcs-clustername": "c", "interface": "lo", "checker-type": "tcp", "tcp-address": "[::1]:1"}
before, after = load(keys, {}, None), load({**keys, "label": "other"}, {}, None)
asked = []

def start_parts(config, post):
    def ask_store(action):
        asked.append(type(action).__name__)
        if asked == ["ReadCluster"]:
            os.kill(os.getpid(), signal.SIGHUP)

    def apply(config):
        asked.append(config.label)
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))

    return Parts(ask_store, lambda actions: None, lambda: None, apply)

status = Coordinator(before, start_parts, lambda: after, lambda now: sys.argv[2:]).run()
print(asked[:2], status, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    "ending", [("SIGTERM",), ("SIGINT",), ("SIGUSR1",), ("SIGUSR1", "nodename")]
)
def test_it_reads_the_cluster_applies_a_reload_and_ends_when_it_is_told_to(
    ending: tuple[str, ...],
) -> None:
    command = (sys.executable, "-c", PROGRAM, *ending)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "['ReadCluster', 'other'] 0\n", done.stderr


WINDOW = """
import logging, os, signal, sys, time
from yaim.config.load import load
from yaim.coordinator.loop import Coordinator
from yaim.coordinator.parts import Parts

def around(minutes):
    ends = (time.localtime(time.time() + 60 * (minutes + each)) for each in (-60, 60))
    return "-".join(time.strftime("%H:%M", each) for each in ends)

keys = {"dcs-clustername": "c", "interface": "lo", "checker-type": "tcp", "tcp-address": "[::1]:1"}
before, after = (load({**keys, "rebalance": around(each)}, {}, None) for each in (0, 720))
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

def start_parts(config, post):
    def ask_store(action):
        os.kill(os.getpid(), signal.SIGHUP)

    def apply(config):
        os.kill(os.getpid(), signal.SIGTERM)

    return Parts(ask_store, lambda actions: None, lambda: None, apply)

Coordinator(before, start_parts, lambda: after, lambda now: []).run()
sys.stdout.flush()
os._exit(0)
"""


def test_the_core_is_told_of_the_window_at_the_start_and_when_it_is_another() -> None:
    """This hour's, and that of twelve hours later."""
    command = (sys.executable, "-c", WINDOW)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    told = [line for line in done.stdout.splitlines() if "window" in line]
    assert told == [f"the window of rebalance is {word}" for word in ("open", "closed")], done
