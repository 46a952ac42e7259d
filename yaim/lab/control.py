"""A lab to play with by hand: `yaim lab up` leaves it running in the background, the other commands
talk to it over a Unix socket, and it is gone when its process is.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from yaim.lab.cluster import Lab
from yaim.lab.directory import sweep
from yaim.lab.namespaces import LabError
from yaim.lab.node import PROGRAMS
from yaim.lab.plan import LabPlan, even_counts, pool_of
from yaim.lab.table import lines

SOCKET = Path("/run/yaim-lab.sock")
LOG = Path("/run/yaim-lab.log")
UP_WITHIN_S = 60.0
ANSWER_WITHIN_S = 60.0


def up(nodes: int, addresses: int) -> str:
    """Starts the lab's process and waits until it answers. Returns what to show. Raises
    LabError."""
    if is_up():
        raise LabError("a lab is up already: `yaim lab down` ends it")
    read_end, write_end = os.pipe()
    with LOG.open("w+") as log, os.fdopen(read_end) as ready:
        keeper = subprocess.Popen(
            (
                sys.executable,
                "-P",
                "-m",
                "yaim",
                "lab",
                "keep",
                f"--nodes={nodes}",
                f"--addresses={addresses}",
                f"--ready-fd={write_end}",
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write_end,),
            start_new_session=True,
        )
        os.close(write_end)
        try:
            is_ready = bool(ready.read())
        except BaseException:
            keeper.terminate()
            keeper.wait()
            LOG.unlink(missing_ok=True)
            raise
        if not is_ready:
            keeper.wait()
            LOG.unlink(missing_ok=True)
            log.seek(0)
            raise LabError(f"the lab does not start:\n{log.read()}")
    return f"{ask('status')}\nEach node's yaim.yml and log: {ask('directory')}/n1 and so on"


def is_up() -> bool:
    try:
        ask("status")
    except LabError:
        return False
    return True


def ask(what: str, node: str = "") -> str:
    """The running lab's answer. Raises LabError if there is none, or it says no."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(ANSWER_WITHIN_S)
        try:
            connection.connect(str(SOCKET))
        except OSError as error:
            # There may be something left of one that was killed.
            SOCKET.unlink(missing_ok=True)
            LOG.unlink(missing_ok=True)
            sweep()
            raise LabError("no lab is up: `yaim lab up` starts one") from error
        connection.send(json.dumps({"do": what, "node": node}).encode())
        answer = json.loads(connection.recv(65536) or b'{"error": "the lab has ended"}')
    if "error" in answer:
        raise LabError(answer["error"])
    return str(answer["text"])


def keep(nodes: int, addresses: int, ready_fd: int) -> None:
    """Is the lab's process, until it is told `down` or gets a signal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        SOCKET.unlink(missing_ok=True)
        before = os.umask(0o177)
        listener.bind(str(SOCKET))
        os.umask(before)
        try:
            listener.listen(8)
            with Lab(LabPlan(nodes=nodes, pool=pool_of(addresses))) as lab:
                for node in lab.nodes.values():
                    node.start()
                counts = even_counts(addresses, nodes, nodes)
                lab.wait_until_held(counts=counts, within_s=UP_WITHIN_S)
                os.write(ready_fd, b"ready")
                os.close(ready_fd)
                last = _answer_until_down(lab, listener)
        finally:
            SOCKET.unlink(missing_ok=True)
            LOG.unlink(missing_ok=True)
        with last:
            _answer(last, {"text": "the lab is down"})


def _answer_until_down(lab: Lab, listener: socket.socket) -> socket.socket:
    """Answers requests until one is `down`. Returns the connection that is to be told when it
    is."""
    while True:
        connection, _ = listener.accept()
        connection.settimeout(ANSWER_WITHIN_S)
        try:
            request = json.loads(connection.recv(65536) or b"{}")
            if request.get("do") == "down":
                return connection
            _answer(connection, {"text": _do(lab, request.get("do", ""), request.get("node", ""))})
        except LabError as error:
            _answer(connection, {"error": str(error)})
        except OSError:
            pass
        connection.close()


def _answer(connection: socket.socket, answer: dict[str, str]) -> None:
    try:
        connection.send(json.dumps(answer).encode())
    except OSError:
        # It has not waited for it.
        pass


def _do(lab: Lab, what: str, name: str) -> str:
    if what == "status":
        return "\n".join(lines(lab))
    if what == "directory":
        return str(lab.directory)
    node = lab.nodes.get(name)
    if node is None:
        raise LabError(f"there is no node {name!r}: there are {', '.join(lab.nodes)}")
    if what == "exec":
        return f"{node.supervisor()} {node.directory}"

    def heal() -> None:
        node.mend_service()
        node.connect()
        if not node.is_running:
            node.start()

    def start() -> None:
        if not node.is_running:
            node.start()

    acts: dict[str, tuple[Callable[[], None], str]] = {
        "fail": (node.break_service, "its service answers 503"),
        "heal": (heal, "its service answers, it is connected and running"),
        "stop": (node.stop, "it is stopped, its addresses are handed over"),
        "start": (start, "it is running"),
        "kill": (node.kill, "all its processes are killed with -9"),
        "cut": (node.cut, "it is cut off from etcd, the other nodes and the client"),
    }
    act, text = acts[what]
    act()
    return f"{name}: {text}"


def command_in(name: str, command: list[str]) -> list[str]:
    """How to run a command as if on a node: `yaim` is this program there, and reads the node's
    yaim.yml."""
    pid, _, directory = ask("exec", name).partition(" ")
    search = f"{directory}/{PROGRAMS}:{os.environ.get('PATH', os.defpath)}"
    settings = [f"PATH={search}", f"YAIM_CONFIG={directory}/yaim.yml"]
    return ["nsenter", f"--target={pid}", "--all", "--", "env", *settings, *command]
