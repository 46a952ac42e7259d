"""What `yaim doctor` finds of the kernel's fence: on real kernels and sockets, and in the files of
hosts that this one is not."""

import json
import os
import platform
import pwd
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from yaim.core.model import Fence
from yaim.doctor import fence, helper
from yaim.doctor.fence import NfTables, look_at_fence, nf_tables_of, tables
from yaim.doctor.finding import Finding, Verdict, needs_root, ok, problem, warning
from yaim.doctor.helper import fence_of
from yaim.lab.namespaces import Namespace

NOBODY = pwd.getpwnam("nobody")
RELEASE = platform.release()
IN_FORCE = Fence(True, "")
RESTART = "systemctl restart yaim-helper"
DEP = "kernel/net/netfilter/nf_tables.ko{}: kernel/net/netfilter/nfnetlink.ko{}\n"
DEP += "kernel/net/bridge/netfilter/nft_meta_bridge.ko{}: kernel/net/netfilter/nf_tables.ko{}\n"


@pytest.fixture
def directory() -> Iterator[Path]:
    """That others can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


def a_host(
    root: Path, *, loaded: str = "", builtin: str = "", dep: str = "", disabled: str | None = None
) -> Path:
    """The files of a host whose kernel has modules."""
    modules = root / "lib/modules" / RELEASE
    modules.mkdir(parents=True)
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/modules").write_text(loaded)
    (modules / "modules.builtin").write_text(builtin)
    (modules / "modules.dep").write_text(dep)
    if disabled is not None:
        (root / "proc/sys/kernel/modules_disabled").write_text(f"{disabled}\n")
    return root


def looked(
    root: Path,
    told: Fence | str | None,
    *,
    is_wanted: bool = True,
    held: int = 0,
) -> Finding:
    (found,) = look_at_fence(root, told, is_wanted, held, RESTART)
    return found


# --- whether the kernel has nf_tables -------------------------------------------------------------

LOADED = "nf_tables 372736 0 - Live 0x0000000000000000\nnfnetlink 20480 1 nf_tables, Live 0x0\n"


def test_a_module_that_is_loaded_or_built_in_is_there(tmp_path: Path) -> None:
    assert nf_tables_of(a_host(tmp_path / "1", loaded=LOADED), RELEASE) is NfTables.THERE
    builtin = "kernel/net/netfilter/nf_tables.ko\n"
    assert nf_tables_of(a_host(tmp_path / "2", builtin=builtin), RELEASE) is NfTables.THERE


@pytest.mark.parametrize("suffix", ["", ".xz", ".zst"])
def test_a_module_that_is_on_the_disk_can_be_loaded(tmp_path: Path, suffix: str) -> None:
    dep = DEP.replace("{}", suffix)
    assert nf_tables_of(a_host(tmp_path, dep=dep, disabled="0"), RELEASE) is NfTables.LOADABLE


def test_a_module_of_a_similar_name_is_another_one(tmp_path: Path) -> None:
    loaded = "nf_tables_set 1 0 - Live 0x0\nnfnetlink 1 1 nf_tables, Live 0x0\n"
    dep = "kernel/net/other_nf_tables.ko: kernel/net/netfilter/nf_tables.ko\n"
    root = a_host(tmp_path, loaded=loaded, dep=dep)
    assert nf_tables_of(root, RELEASE) is NfTables.MISSING


def test_a_kernel_that_loads_no_more_modules_does_not_load_it(tmp_path: Path) -> None:
    root = a_host(tmp_path, dep=DEP.replace("{}", ""), disabled="1")
    assert nf_tables_of(root, RELEASE) is NfTables.LOCKED


def test_without_the_modules_of_this_kernel_it_is_missing(tmp_path: Path) -> None:
    """A container, or a kernel that was upgraded and not yet booted."""
    root = a_host(tmp_path, dep=DEP.replace("{}", ""))
    assert nf_tables_of(root, "6.1.0-99-amd64") is NfTables.MISSING


def test_of_a_kernel_without_modules_no_file_tells_it(tmp_path: Path) -> None:
    assert nf_tables_of(tmp_path, RELEASE) is NfTables.UNKNOWN


# --- its tables -----------------------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[Namespace]:
    made = Namespace.new()
    with made.entered():
        yield made
    made.close()


def nft(*commands: str) -> None:
    subprocess.run(("nft", "; ".join(commands)), check=True)


def test_a_fence_is_a_table_of_one_name_in_both_families(network: Namespace) -> None:
    assert tables() == frozenset()
    nft("add table inet yaim-1", "add table arp yaim-1", "add table inet yaim-12")
    nft("add table ip yaim-3", "add table arp yaim-3", "add table inet x", "add table arp x")
    assert tables() == {"yaim-1"}
    nft("add table arp yaim-12")
    assert tables() == {"yaim-1", "yaim-12"}


def test_nf_tables_that_do_not_answer_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another transaction may hold their lock."""
    monkeypatch.setattr(fence, "_WITHIN_S", 0.05)
    is_free = Event()

    def answer_late() -> frozenset[str]:
        is_free.wait(60.0)
        return frozenset()

    assert fence._asked.wait("tables", answer_late, 0.01) is None
    with pytest.raises(TimeoutError, match=r"nf_tables do not answer within 0.05 s"):
        tables()
    is_free.set()


def test_a_fence_in_force_is_told_with_its_tables(network: Namespace, tmp_path: Path) -> None:
    assert looked(tmp_path, IN_FORCE) == ok("fence", "in force as soon as something is held")
    found = looked(tmp_path, IN_FORCE, held=2)
    assert found == problem(
        "fence",
        "the helper says it is in force, but 2 addresses are here and no table yaim-N",
        f"journalctl -u yaim-helper -n 50; {RESTART}",
    )
    nft("add table inet yaim-2", "add table arp yaim-2", "add table inet yaim-1")
    nft("add table arp yaim-1")
    told = "in force: table yaim-1, yaim-2 (nft list ruleset)"
    assert looked(tmp_path, IN_FORCE, held=2) == ok("fence", told)


def test_a_kernel_without_modules_is_asked(network: Namespace, tmp_path: Path) -> None:
    """Not told by any file below this root. The kernel that runs has nf_tables, as other tests
    need them."""
    found = looked(tmp_path, "the helper hangs up")
    assert found == ok(
        "fence",
        "the kernel has nf_tables; whether it is in force is not known: the helper hangs up",
    )


def test_whoever_may_not_look_at_tables_is_told_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY.pw_uid)
    assert looked(tmp_path, IN_FORCE, held=2) == ok("fence", "in force")
    what = "ask a kernel without modules whether it has nf_tables"
    assert looked(tmp_path, None) == needs_root("fence", what)


# --- what is said, and what to do -----------------------------------------------------------------


def test_a_fence_that_is_off_is_no_fault(tmp_path: Path) -> None:
    told = "off in helper.yml: an address ends by its lifetime in the kernel"
    for each in (None, "no helper", Fence(False, "off in helper.yml")):
        assert looked(tmp_path, each, is_wanted=False) == ok("fence", told)
    found = looked(tmp_path, IN_FORCE, is_wanted=False)
    assert found == warning("fence", "in force until the helper is started anew", RESTART)


def test_a_module_that_is_not_loaded_is_told_with_the_command_that_loads_it(tmp_path: Path) -> None:
    root = a_host(tmp_path, dep=DEP.replace("{}", ".xz"))
    assert looked(root, "no helper") == warning(
        "fence", "nf_tables are not loaded", "modprobe nf_tables"
    )
    assert looked(root, Fence(False, "no nf_tables: Protocol not supported")) == warning(
        "fence",
        "not in force (no nf_tables: Protocol not supported): nf_tables are not loaded",
        f"modprobe nf_tables && {RESTART}",
    )


def test_a_module_that_cannot_be_loaded_is_told_with_what_helps(tmp_path: Path) -> None:
    locked = looked(a_host(tmp_path / "1", dep=DEP.replace("{}", ""), disabled="1"), "no helper")
    assert locked == warning(
        "fence",
        "nf_tables are not loaded, and kernel.modules_disabled keeps them out",
        "echo nf_tables > /etc/modules-load.d/yaim.conf && systemctl reboot",
    )
    missing = looked(a_host(tmp_path / "2"), "no helper")
    assert missing == warning(
        "fence",
        f"nf_tables are not loaded, and not in /lib/modules/{RELEASE}",
        "modprobe nf_tables, on the host of a container; else boot a kernel that has them",
    )


def test_a_helper_without_a_fence_on_a_kernel_that_could_have_one_is_told(tmp_path: Path) -> None:
    root = a_host(tmp_path, loaded=LOADED)
    found = looked(root, Fence(False, "nf_tables: Operation not permitted"))
    assert found == warning(
        "fence",
        "not in force: nf_tables: Operation not permitted",
        f"mend that; then {RESTART}",
    )
    assert looked(root, None) == warning(
        "fence", "not in force: the helper that runs is older than its program", RESTART
    )


# --- what the helper says -------------------------------------------------------------------------


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[list[tuple[int, dict[str, object]]]]:
    """Answers one client. Yields who asks, and what."""
    asked: list[tuple[int, dict[str, object]]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                uid = int.from_bytes(peer[4:8], "little")
                asked.append((uid, json.loads(connection.recv(1024))))
                if answer:
                    connection.send(answer)

        thread = Thread(target=serve)
        thread.start()
        yield asked
        thread.join()


def said(directory: Path, answer: object) -> Fence | str | None:
    path = directory / "helper.sock"
    with answering(path, json.dumps(answer).encode() if answer else b""):
        found = fence_of(path, NOBODY)
    path.unlink()
    return found


def test_a_helper_says_whether_its_fence_is_in_force(directory: Path) -> None:
    for fence_told in (Fence(True, ""), Fence(False, "no nf_tables: Operation not permitted")):
        told = {"in_force": fence_told.is_in_force, "reason": fence_told.reason}
        assert said(directory, {"id": 1, "result": "ok", "fence": told}) == fence_told
    assert said(directory, {"id": 1, "result": "ok", "version": 1}) is None


def test_root_asks_as_the_coordinators_user_and_for_no_nodes_cluster(directory: Path) -> None:
    path = directory / "helper.sock"
    with answering(path, b'{"id": 1, "result": "ok"}') as asked:
        fence_of(path, NOBODY)
    ((uid, hello),) = asked
    assert (uid, hello["op"], hello["version"]) == (NOBODY.pw_uid, "hello", 1)
    assert str(hello["cluster"]) == "yaim-doctor"
    assert os.geteuid() == 0


def test_why_a_helper_does_not_say_it_is_told(directory: Path) -> None:
    path = directory / "helper.sock"
    missing = "the helper does not answer: No such file or directory"
    assert fence_of(path, NOBODY) == missing
    assert fence_of(path, None) == "the coordinator's user is not there"
    assert said(directory, None) == "the helper hangs up"
    refused = {"id": 1, "result": "refused", "code": "busy", "reason": "connected already"}
    assert said(directory, refused) == "the helper refuses to say so: connected already"
    with answering(path, b"\xff"):
        assert fence_of(path, NOBODY) == "the helper does not answer in its protocol"


def test_a_helper_that_is_silent_is_not_waited_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper, "ANSWER_WITHIN_S", 0.05)
    path = directory / "helper.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        listener.listen(1)
        assert fence_of(path, NOBODY) == "the helper does not answer: timed out"


@pytest.mark.parametrize(
    ("line", "is_wanted"),
    [("", True), ("fence: auto\n", True), ("fence: off\n", False), ('fence: "off"\n', False)],
)
def test_what_helper_yml_says_of_the_fence_is_read(
    directory: Path, line: str, is_wanted: bool
) -> None:
    file = directory / "helper.yml"
    rules = "rules:\n  - interface: lo\n    networks: [192.0.2.0/28]\n"
    file.write_text(f"users: [nobody]\n{rules}{line}")
    allowlist, found = helper.look_at_allowlist(file, "lo", NOBODY, None)
    assert [each.verdict for each in found] == [Verdict.OK]
    assert allowlist is not None
    assert allowlist.is_fence_wanted is is_wanted
