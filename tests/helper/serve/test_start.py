"""A helper that is started where it cannot serve."""

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from yaim_helper.policy.read import read_policy
from yaim_helper.serve.start import _bound, _give, serve

from tests.helper.network import boottime, wait_for
from tests.helper.process import ANSWER_WITHIN_S, deadline_in, policy, running, started
from yaim import __version__
from yaim.lab.namespaces import DIES_WITH_US, Namespace

pytestmark = pytest.mark.every_set


def refusal(namespace: Namespace, directory: Path) -> str:
    """What a helper says that does not start."""
    with started(namespace, directory) as helper:
        assert helper.process.wait(ANSWER_WITHIN_S) == 1
        return helper.log.read_text()


def test_a_file_where_the_socket_should_be_stays(network: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "helper.sock"
    path.write_text("mine")
    assert refusal(network, tmp_path) == (
        f"yaim-helper: --socket {path}: is there already, and is not a socket: move it away\n"
    )
    assert path.read_text() == "mine"


SWAP = """
import os, sys
path, target = sys.argv[1:]
link = path + ".link"
print(flush=True)
while True:
    os.symlink(target, link)
    while not os.path.lexists(path):
        pass
    try:
        os.rename(link, path)
    except OSError:
        os.unlink(link)
    while os.path.lexists(path):
        pass
"""


def test_what_is_put_in_the_sockets_place_is_not_given_away(tmp_path: Path) -> None:
    """Whoever can write the directory: root changes nothing but its own socket."""
    read = policy(tmp_path / "audit", users=(65534,))
    (tmp_path / "helper.yml").write_text(read)
    path, target = tmp_path / "own.sock", tmp_path / "roots"
    target.touch(mode=0o600)
    before = target.stat()
    command = (sys.executable, "-I", "-S", "-c", SWAP, str(path), str(target))
    with subprocess.Popen((*DIES_WITH_US, *command), stdout=subprocess.PIPE) as swapping:
        try:
            assert swapping.stdout is not None
            assert swapping.stdout.readline()
            until = boottime() + 1.5
            while boottime() < until and target.stat().st_mode == before.st_mode:
                with suppress(OSError), _bound(path, read_policy(tmp_path / "helper.yml")):
                    assert path.lstat().st_mode & 0o777 in (0o660, 0o777)
                path.unlink(missing_ok=True)
        finally:
            swapping.kill()
    after = target.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, 0, 0)


def test_only_a_socket_is_given_away(tmp_path: Path) -> None:
    path, link = tmp_path / "roots", tmp_path / "link"
    path.touch(mode=0o600)
    link.symlink_to(path)
    for each in (path, link):
        with pytest.raises(OSError, match="is not a socket any more"):
            _give(each, 65534)
    assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (0, 0o600)


def test_the_socket_is_for_root_and_the_group_of_the_first_user(tmp_path: Path) -> None:
    for uid, owners in ((65534, (0, pwd.getpwuid(65534).pw_gid)), (4_000_000, (4_000_000, 0))):
        (tmp_path / "helper.yml").write_text(policy(tmp_path / "audit", users=(uid,)))
        path = tmp_path / f"{uid}.sock"
        with _bound(path, read_policy(tmp_path / "helper.yml")):
            found = path.stat()
            assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (*owners, 0o660)


def test_a_socket_where_somebody_listens_stays(network: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "helper.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(path))
        other.listen()
        assert refusal(network, tmp_path) == (
            f"yaim-helper: --socket {path}: somebody listens there already\n"
        )
    assert path.is_socket()


@pytest.mark.parametrize("is_there", [True, False])
def test_no_socket_is_made_in_a_directory_that_others_can_change(
    network: Namespace, tmp_path: Path, is_there: bool
) -> None:
    """They could put a link in its place, and be given what that leads to."""
    config, log, theirs = (tmp_path / each for each in ("helper.yml", "log", "theirs"))
    config.write_text(policy(tmp_path / "audit"))
    theirs.mkdir()
    os.chown(theirs, 65534, -1)
    path = theirs / "helper.sock" if is_there else theirs / "new" / "helper.sock"
    files = (f"--config={config}", f"--socket={path}", "--user=root")
    with log.open("wb") as output:
        process = network.start((sys.executable, "-I", "-m", "yaim_helper", *files), output)
        try:
            assert process.wait(ANSWER_WITHIN_S) == 1
        finally:
            process.kill()
            process.wait()
    told = f"{theirs}: belongs to uid 65534, expected root (chown root)"
    assert log.read_text() == f"yaim-helper: --socket {path}: {told}\n"
    assert list(theirs.iterdir()) == []


LOOK = """
import os, runpy, stat, sys
seen = open(sys.argv.pop(1), "w")
def look(event, arguments):
    if event in ("os.chown", "os.chmod") and os.path.realpath(arguments[0]).endswith("helper.sock"):
        print(event, oct(stat.S_IMODE(os.stat(arguments[0]).st_mode)), file=seen, flush=True)
sys.addaudithook(look)
runpy.run_module("yaim_helper", run_name="__main__")
"""


def test_its_socket_is_not_open_to_all_for_a_moment(network: Namespace, tmp_path: Path) -> None:
    """Whatever the umask: as it is bound, before its group is set."""
    seen = tmp_path / "seen"
    around = ("bash", "-c", 'umask 0; exec "$2" -I -c "$0" "$1" "${@:6}"', LOOK, str(seen))
    with running(network, tmp_path, around=around) as helper:
        assert seen.read_text() == "os.chown 0o660\n"
        status = helper.socket.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o660, 0)


LOADED = """
import atexit, runpy, sys
seen = open(sys.argv.pop(1), "w")
atexit.register(lambda: print(*sys.modules, sep="\\n", file=seen, flush=True))
runpy.run_module("yaim_helper", run_name="__main__")
"""


def test_a_helper_at_work_has_loaded_nothing_of_its_tools(
    network: Namespace, tmp_path: Path
) -> None:
    """Whatever it was asked, and when it has read its file again and ends."""
    seen = tmp_path / "seen"
    around = ("bash", "-c", 'exec "$2" -I -c "$0" "$1" "${@:6}"', LOADED, str(seen))
    with running(network, tmp_path, around=around) as helper:
        with helper.greeted() as client:
            assert client.add("192.0.2.10")["result"] == "ok"
            assert client.ask("announce", address="192.0.2.10")["result"] == "ok"
            assert client.renew(deadline_in(60))["result"] == "ok"
            assert client.list()["result"] == "ok"
            assert client.remove("192.0.2.10")["result"] == "ok"
        os.kill(helper.pid, signal.SIGHUP)
        wait_for(lambda: "read again" in helper.log.read_text(), "it has read its file again")
        assert helper.end() == 0
    loaded = seen.read_text().split()
    assert "yaim_helper.serve.server" in loaded
    assert [each for each in loaded if each.startswith("yaim_helper.tools")] == []


def test_its_version_is_yaims(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        serve(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"yaim-helper {__version__}\n")
