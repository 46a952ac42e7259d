"""`yaim supervise` as users run it, on a "host" with a real etcd.

Unlike on a node of the lab, its first process is another, as on a real host: supervisors can end,
be killed, be daemons and be started again.
"""

import pwd
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.helper.process import read_records
from tests.lab.machine import Machine, machine_in
from tests.system.conftest import Build
from yaim.lab.cluster import Lab
from yaim.lab.host import HELPER_USER
from yaim.lab.node import HELPER, USER
from yaim.lab.plan import LabPlan, pool_of
from yaim.lab.wait import wait_until

PID_FILE, LOG_FILE = "run/yaim.pid", "run/yaim.log"
FILES = (("config", "yaim.yml"), ("helper-config", "helper.yml"))
USERS = (f"--user={USER}", f"--helper-user={HELPER_USER}")
SUPERVISE = (sys.executable, "-P", "-m", "yaim", "supervise", *USERS)
DAEMON = ("--daemon", f"--pid-file=/{PID_FILE}", f"--log-file=/{LOG_FILE}")
SOCKET = "run/yaim-helper/helper.sock"
WITHIN_S = 30.0
EX_CANNOT_START = 1
EX_CONFIG = 78


class Host:
    """The only node of a lab; nothing of yaim runs there until it is started."""

    def __init__(self, lab: Lab, machine: Machine) -> None:
        self.lab = lab
        self.node = lab.nodes["n1"]
        self.machine = machine
        self._log = self.node.directory / "log"
        # As the lab sets up a node, service included; but what comes last, supervise, gets a user
        # that it declines.
        module = ("-P", "-m", "yaim.lab.host", "n1", str(self.node.directory), "no-such-user")
        set_up = self._start(sys.executable, *module)
        assert set_up.wait(WITHIN_S) == EX_CANNOT_START, self.text()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self.machine.command(*command), stdout=log, stderr=log)

    def supervise(self, *options: str) -> tuple[str, ...]:
        files = (f"--{key}={self.node.directory / name}" for key, name in FILES)
        return (*SUPERVISE, *files, *options)

    def start(self, *around: str) -> subprocess.Popen[bytes]:
        """Starts it in the foreground; the process ends as the supervisor does. `around`: a command
        in front of it."""
        started = self._start(*around, *self.supervise())
        self.wait_until_held()
        return started

    def start_daemon(self) -> None:
        done = self.machine.run(*self.supervise(*DAEMON))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        self.wait_until_held()

    def kill(self, role: str, number: signal.Signals) -> None:
        self.machine.kill(number, self.pid(role))

    def of_yaim(self) -> dict[str, str]:
        """The processes that supervise has to account for, itself included: id to title."""
        ours = ("yaim: ", f"{sys.executable} -P -m yaim ", f"{sys.executable} -I -m yaim_helper ")
        return {p: title for p, title in self.machine.processes().items() if title.startswith(ours)}

    def pid(self, role: str) -> str:
        """Empty if there is none."""
        return self.machine.pid(HELPER if role == "helper" else f"yaim: {role}") or ""

    def status(self, role: str) -> dict[str, str]:
        """proc_pid_status(5)"""
        lines = (self.machine.root / "proc" / self.pid(role) / "status").read_text().splitlines()
        return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}

    def nice(self, role: str) -> int:
        """proc_pid_stat(5)"""
        stat = (self.machine.root / "proc" / self.pid(role) / "stat").read_text()
        return int(stat.rpartition(")")[2].split()[16])

    def text(self) -> str:
        return self._log.read_text()

    def keys(self) -> list[bytes]:
        """Returns the keys in etcd, but for the pool itself."""
        keys = self.lab.etcd.read_all(*self.lab.keys.all())[0]
        return [key for key in keys if b"/marked" in key or b"/nodes/" in key]

    def held(self) -> tuple[object, ...]:
        """Differs from what it was before if an address has left its interface for an instant, or
        a mark was deleted and made anew."""
        self.lab.record.update()
        return list(self.lab.record.changes), dict(self.lab.view().marks)

    def running(self) -> tuple[object, ...]:
        """Differs also if a process was started anew."""
        return sorted(self.of_yaim()), *self.held()

    def wait_until(self, is_so: Callable[[], object], what: str) -> None:
        wait_until(lambda: bool(is_so()), WITHIN_S, what, lambda: f"{self.of_yaim()}{self.text()}")

    def wait_for_text(self, text: str) -> None:
        self.wait_until(lambda: text in self.text(), f"{text!r} in the log")

    def wait_until_held(self) -> None:
        """Both addresses are there, and the coordinator knows it."""
        self.lab.wait_until_held(within_s=WITHIN_S)
        self.wait_until(lambda: self.pid("coordinator n1 healthy 2/2"), "the coordinator")

    def wait_until_nothing_is_left(self) -> None:
        """No process, no socket, no address, no key in etcd."""
        self.wait_until(lambda: not self.of_yaim(), "yaim to be gone")
        assert not (self.machine.root / SOCKET).exists()
        self.wait_until(lambda: not self.lab.holders(), "the addresses to be gone")
        self.wait_until(lambda: not self.keys(), "the keys to be gone")


@pytest.fixture
def ttl_ms() -> int:
    """Long enough for no address to expire while something is started on a busy machine."""
    return 20_000


@pytest.fixture
def host(build: Build, ttl_ms: int) -> Iterator[Host]:
    lab = build(LabPlan(nodes=1, pool=pool_of(2), ttl_ms=ttl_ms))
    with machine_in(lab.nodes["n1"].namespace) as machine:
        yield Host(lab, machine)


def test_both_run_and_only_the_helper_has_privileges(host: Host) -> None:
    host.start()
    supervisor, coordinator, helper = map(host.status, ("supervisor", "coordinator", "helper"))
    assert helper["PPid"] == coordinator["PPid"] == supervisor["Pid"]
    assert supervisor["Uid"].split() == ["0"] * 4
    uid = str(pwd.getpwnam(HELPER_USER).pw_uid)
    assert helper["Uid"].split() == [uid] * 4
    assert {int(helper[f"Cap{each}"], 16) for each in ("Prm", "Eff")} == {1 << 12 | 1 << 13}
    assert {int(helper[f"Cap{each}"], 16) for each in ("Inh", "Bnd", "Amb")} == {0}
    assert coordinator["Uid"].split() == coordinator["Gid"].split() == ["65534"] * 4
    assert coordinator["Groups"].split() in ([], ["65534"])
    assert {int(coordinator[f"Cap{each}"], 16) for each in ("Inh", "Prm", "Eff", "Amb")} == {0}


def test_the_helper_goes_before_other_processes(host: Host) -> None:
    """Its unit has it so; it counts also where processors are shared out between sessions."""
    host.start()
    of_each = {role: host.nice(role) for role in ("supervisor", "coordinator", "helper")}
    assert of_each == {"supervisor": 0, "coordinator": 0, "helper": -10}
    session = host.machine.root / "proc" / host.pid("helper") / "autogroup"
    if Path("/proc/sys/kernel/sched_autogroup_enabled").exists():
        assert session.read_text().endswith(" nice -10\n")


def test_a_process_killed_with_9_is_started_again_and_adopts_the_addresses(host: Host) -> None:
    supervisor = host.start()
    held = host.held()
    for role in ("coordinator", "helper"):
        host.kill(role, signal.SIGKILL)
        host.wait_for_text(f"the {role} has ended (SIGKILL); starting it again in")
        host.wait_until_held()
    assert host.held() == held
    host.kill("supervisor", signal.SIGTERM)
    assert supervisor.wait(WITHIN_S) == 0
    host.wait_until_nothing_is_left()


def replace_text(file: Path, text: str) -> None:
    """Whoever reads it meanwhile gets the old or the new one as a whole."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.chmod(stat.S_IMODE(file.stat().st_mode))
    new.rename(file)


def test_a_process_that_ends_at_once_is_started_again_after_growing_pauses(host: Host) -> None:
    """And carries on when what it needs is there again."""
    host.start()
    config = host.node.directory / "helper.yml"
    good = config.read_text()
    wrong = {**yaml.safe_load(good), "audit-log": str(config)}
    replace_text(config, yaml.safe_dump(wrong))
    host.kill("helper", signal.SIGKILL)
    told = r"the helper has ended \((.*)\); starting it again in (.*) s"
    host.wait_until(lambda: len(re.findall(told, host.text())) >= 4, "4 ends")
    replace_text(config, good)
    causes, pauses = zip(*re.findall(told, host.text())[:4], strict=True)
    assert causes == ("SIGKILL", *["status 1"] * 3)
    first, second, third, fourth = map(float, pauses)
    assert 0 == first < second <= 0.25 < third <= 0.5 < fourth <= 1.0
    host.wait_until_held()


def test_sighup_makes_the_coordinator_reload_without_dropping_an_address(host: Host) -> None:
    host.start()
    before = host.running()
    host.node.write_config({**host.node.read_config(), "interval": 700})
    host.kill("supervisor", signal.SIGHUP)
    host.wait_for_text("the configuration is reloaded")
    assert "interval has changed" in host.text()
    host.wait_until_held()
    assert host.running() == before


def test_sighup_to_a_coordinator_that_is_just_starting_waits_until_it_can(host: Host) -> None:
    """Found by chaos: it ended it."""
    host.start()
    host.kill("coordinator", signal.SIGKILL)
    host.wait_for_text("starting it again")
    for _ in range(5):
        host.kill("supervisor", signal.SIGHUP)
    host.wait_for_text("the configuration is reloaded")
    host.wait_until_held()
    assert host.text().count("starting it again") == 1


def test_sigusr1_starts_both_anew_without_dropping_an_address(host: Host) -> None:
    host.start()
    before, held = set(host.of_yaim()), host.held()
    host.kill("supervisor", signal.SIGUSR1)
    host.wait_until(lambda: len(set(host.of_yaim()) & before) == 1, "both to have ended")
    host.wait_until_held()
    assert host.held() == held
    assert set(host.of_yaim()) & before == {host.pid("supervisor")}
    assert "lease and addresses stay" in host.text()


@pytest.mark.parametrize("role", ["coordinator", "helper"])
def test_sigusr1_starts_nothing_anew_that_could_not_use_its_configuration(
    host: Host, role: str
) -> None:
    host.start()
    before = host.running()
    file = dict(zip(("coordinator", "helper"), (name for _, name in FILES), strict=True))[role]
    (host.node.directory / file).write_text("nonsense: true\n")
    host.kill("supervisor", signal.SIGUSR1)
    host.wait_for_text(f"the {role} could not be started again: both go on as they are")
    assert "nonsense" in host.text()
    assert host.running() == before


def test_sigusr1_ends_also_a_coordinator_that_hangs(host: Host) -> None:
    host.start()
    coordinator = host.pid("coordinator")
    host.kill("coordinator", signal.SIGSTOP)
    host.kill("supervisor", signal.SIGUSR1)
    host.wait_for_text("the coordinator does not end: killing it")
    host.wait_until(lambda: host.pid("coordinator") not in ("", coordinator), "another one")
    host.lab.wait_until_held(within_s=WITHIN_S)


def test_a_second_supervisor_is_refused_and_harms_nothing(host: Host) -> None:
    host.start()
    before = host.running()
    second = host.machine.run(*host.supervise())
    assert second.returncode == EX_CANNOT_START
    assert f"another process listens at /{SOCKET}: is yaim running already?" in second.stderr
    assert host.running() == before
    assert (host.machine.root / SOCKET).is_socket()


def test_it_works_also_where_sigchld_was_ignored(host: Host) -> None:
    """Which is inherited."""
    host.start("env", "--ignore-signal=CHLD")
    host.kill("coordinator", signal.SIGKILL)
    host.wait_for_text("the coordinator has ended (SIGKILL)")


def test_the_coordinator_ends_first_and_releases_everything(host: Host) -> None:
    supervisor = host.start()
    host.kill("supervisor", signal.SIGTERM)
    assert supervisor.wait(WITHIN_S) == 0
    assert not host.keys()
    last = read_records(host.node.directory / "audit")[-1]
    assert (last["type"], last["addresses"]) == ("stop", 0)
    host.wait_until_nothing_is_left()


def test_further_signals_while_it_ends_do_no_harm(host: Host) -> None:
    supervisor = host.start()
    host.kill("helper", signal.SIGSTOP)
    host.kill("supervisor", signal.SIGINT)
    host.wait_for_text("supervisor: got SIGINT")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        host.kill("supervisor", number)
        host.wait_until(lambda: not int(host.status("supervisor")["ShdPnd"], 16), "it to see it")
    assert supervisor.poll() is None
    host.kill("helper", signal.SIGCONT)
    assert supervisor.wait(WITHIN_S) == 0
    assert "Traceback" not in host.text()
    host.wait_until_nothing_is_left()


@pytest.mark.parametrize("ttl_ms", [3000])
def test_a_helper_that_hangs_does_not_keep_it_from_ending(host: Host) -> None:
    """The kernel removes the addresses."""
    supervisor = host.start()
    host.kill("helper", signal.SIGSTOP)
    host.kill("supervisor", signal.SIGTERM)
    assert supervisor.wait(WITHIN_S) == 0
    assert "the helper does not end: killing it" in host.text()
    host.wait_until_nothing_is_left()


@pytest.mark.parametrize("ttl_ms", [3000])
@pytest.mark.parametrize(("role", "file"), [("coordinator", "yaim.yml"), ("helper", "helper.yml")])
def test_all_end_when_one_cannot_use_its_configuration(host: Host, role: str, file: str) -> None:
    """Starting it again would not help."""
    supervisor = host.start()
    (host.node.directory / file).write_text("colour: green\n")
    host.kill(role, signal.SIGKILL)
    assert supervisor.wait(WITHIN_S) == EX_CONFIG
    assert f"the {role} cannot use its configuration: ending" in host.text()
    assert "colour" in host.text()
    host.wait_until_nothing_is_left()


def test_a_daemon_runs_in_the_background_until_it_gets_sigterm(host: Host) -> None:
    host.start_daemon()
    before = host.running()
    supervisor = host.status("supervisor")
    assert (host.machine.root / PID_FILE).read_text() == f"{supervisor['Pid']}\n"
    assert supervisor["PPid"] == "1"
    second = host.machine.run(*host.supervise(*DAEMON))
    message = f"yaim: another process listens at /{SOCKET}: is yaim running already?\n"
    assert (second.returncode, second.stdout, second.stderr) == (EX_CANNOT_START, "", message)
    elsewhere = f"--helper-socket=/{SOCKET}.other"
    third = host.machine.run(*host.supervise(*DAEMON, elsewhere))
    message = f"yaim: /{PID_FILE}: process {supervisor['Pid']} is running already\n"
    assert (third.returncode, third.stdout, third.stderr) == (EX_CANNOT_START, "", message)
    assert host.running() == before
    assert host.machine.run("sh", "-c", f"kill $(cat /{PID_FILE})").returncode == 0
    host.wait_until_nothing_is_left()
    assert not (host.machine.root / PID_FILE).exists()
    log = (host.machine.root / LOG_FILE).read_text()
    assert "INFO holds 192.0.2.11" in log
    assert "INFO supervisor: got SIGTERM" in log
    assert "Traceback" not in log


HOSTILE = (
    *("sh", "-c", 'umask 0; ulimit -S -c unlimited; cd /tmp; exec "$@" <&- >&- 2>&-', "sh"),
    *("env", "--ignore-signal=TERM,INT,HUP,USR1,USR2,CHLD,PIPE,ALRM", "--block-signal"),
    *("PATH=.:/nonexistent", "PYTHONINSPECT=1", "PYTHONSTARTUP=/nonexistent", "LD_PRELOAD="),
    *("PYTHONWARNINGS=error", "LANG=tr_TR.UTF-8", "NOTIFY_SOCKET=/nonexistent", "LISTEN_FDS=7"),
)


def test_a_daemon_does_not_depend_on_what_it_was_started_from(host: Host) -> None:
    """Closed descriptors, whose numbers its socket got; ignored and blocked signals; umask 0."""
    done = host.machine.run(*HOSTILE, *host.supervise(*DAEMON))
    assert done.returncode == 0
    host.wait_until_held()
    for name, mode in ((PID_FILE, 0o600), (LOG_FILE, 0o644), (SOCKET, 0o660)):
        assert stat.S_IMODE((host.machine.root / name).stat().st_mode) == mode
    assert stat.S_IMODE((host.machine.root / SOCKET).parent.stat().st_mode) == 0o755
    helper = host.status("helper")
    assert int(helper["SigIgn"], 16) & 1 << signal.SIGTERM - 1 == 0
    host.kill("coordinator", signal.SIGKILL)
    host.wait_until_held()
    host.kill("supervisor", signal.SIGTERM)
    host.wait_until_nothing_is_left()
    assert "does not end" not in (host.machine.root / LOG_FILE).read_text()


def test_a_daemon_beside_a_supervisor_is_refused_with_a_message(host: Host) -> None:
    host.start()
    done = host.machine.run(*host.supervise(*DAEMON))
    assert (done.returncode, "is yaim running already" in done.stderr) == (EX_CANNOT_START, True)


def test_a_daemon_whose_pid_file_cannot_be_written_says_so(host: Host) -> None:
    elsewhere = "--pid-file=/not-there/yaim.pid"
    done = host.machine.run(*host.supervise(*DAEMON, elsewhere))
    message = "/not-there/yaim.pid: No such file or directory; name another with --pid-file"
    assert (done.returncode, done.stderr) == (EX_CANNOT_START, f"yaim: {message}\n")
    assert host.of_yaim() == {}
    assert not (host.machine.root / SOCKET).exists()


@pytest.mark.parametrize("text", ["99999999999\n", "1\n"])
def test_a_pid_file_that_nobody_holds_does_no_harm(host: Host, text: str) -> None:
    (host.machine.root / PID_FILE).write_text(text)
    host.start_daemon()
    assert (host.machine.root / PID_FILE).read_text() == f"{host.pid('supervisor')}\n"


def test_a_daemon_killed_with_9_takes_both_along_and_the_next_one_adopts(host: Host) -> None:
    """The PID file and the socket that it leaves do no harm."""
    host.start_daemon()
    held = host.held()
    stale = (host.machine.root / PID_FILE).read_text()
    host.kill("supervisor", signal.SIGKILL)
    host.wait_until(lambda: not host.of_yaim(), "it to be gone")
    assert (host.machine.root / SOCKET).is_socket()
    host.start_daemon()
    assert stale != (host.machine.root / PID_FILE).read_text() == f"{host.pid('supervisor')}\n"
    assert host.held() == held
