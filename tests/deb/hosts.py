"""Debian hosts for tests: booted with systemd on one bridge, with a client beside them.

Everything is in namespaces and a control group that `python -m tests.deb` makes (__main__.py), and
gone with them. What a host writes lies below a directory of the test, over an image that stays as
it is (tests/debian/roots.sh), and outlives a power failure of the host.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from yaim.core.model import Address
from yaim.lab.namespaces import DIES_WITH_US, Namespace, run
from yaim.lab.record import Record
from yaim.lab.wait import wait_until

ROOT = Path(__file__).parents[2]
INTERFACE = "eth0"
BRIDGE = "br0"
NETWORK, NETWORK_6 = "192.0.2", "2001:db8:"
"""Beginnings of addresses; that of the README, whose commands are tried as they are."""
CLIENT = (f"{NETWORK}.100", f"{NETWORK_6}:100")
"""The client's own addresses."""
PING_EVERY_MS, PROBE_EVERY_MS = 10, 20
CGROUP = "YAIM_TEST_CGROUP"
"""Variable with the control group that all of this is in."""
IMAGE = "YAIM_TEST_IMAGE_"
"""Beginning of the variables with the root file systems' layers, by Debian release."""
SUITES = {"db1": "bookworm", "db2": "bookworm", "db3": "trixie"}
"""The hosts, and the Debian release of each."""
BOOTS_WITHIN_S = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SANDBOXES_WORK = (
    "--capability=CAP_BPF,CAP_PERFMON,CAP_SYS_RESOURCE",
    "--system-call-filter=bpf",
)
"""Without these systemd in a container does not enforce IPAddressDeny=, and does not say so."""


class HostError(Exception):
    """A command on a host has failed; the text says which and what it said."""


@dataclass(slots=True)
class Host:
    name: str
    suite: str
    address: str
    directory: Path
    _nspawn: subprocess.Popen[bytes] | None = None
    _pid: int = 0
    """The id of its first process."""

    @property
    def is_on(self) -> bool:
        return bool(self._pid)

    @property
    def boot(self) -> int:
        """Another one after each boot."""
        return self._pid

    @property
    def root(self) -> Path:
        """Its file system, seen from outside."""
        return self.directory / "root"

    @property
    def _cgroup(self) -> Path:
        return Path(os.environ[CGROUP]) / self.name

    @property
    def _init_cgroup(self) -> Path:
        """That of its first process."""
        lines = Path(f"/proc/{self._pid}/cgroup").read_text().splitlines()
        (path,) = (line.removeprefix("0::") for line in lines if line.startswith("0::"))
        return Path(os.environ[CGROUP]).parent / path.lstrip("/")

    def make(self, image: str, neighbours: Sequence["Host"]) -> None:
        """Its disk: nothing but the image (overlay's lowerdir=), its name and its address."""
        for each in ("upper", "work", "root"):
            (self.directory / each).mkdir(parents=True)
        layers = f"lowerdir={image},upperdir={self.directory}/upper,workdir={self.directory}/work"
        run(("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)))
        names = "".join(f"{each.address} {each.name}\n" for each in neighbours)
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{names}")
        number = self.address.rpartition(".")[2]
        self.write(
            "/etc/host-network",
            # systemd-nspawn calls it host0.
            f"ip link set host0 name {INTERFACE}\n"
            f"ip link set {INTERFACE} up\n"
            f"ip address add {self.address}/24 dev {INTERFACE}\n"
            f"ip address add {NETWORK_6}:{number}/64 dev {INTERFACE} nodad\n",
        )

    def write(self, path: str, text: str) -> None:
        (self.root / path.lstrip("/")).write_text(text)

    def start(self) -> None:
        """Power on. Does not wait."""
        self._cgroup.mkdir(exist_ok=True)
        console = (self.directory / "console.log").open("ab")
        command = (
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe"),
            *("-D", str(self.root), "-M", self.name, f"--network-bridge={BRIDGE}"),
            *_SANDBOXES_WORK,
            "--boot",
        )
        # It gets a control group of its own: each systemd takes all of the one that it is in.
        enter = 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"'
        self._nspawn = subprocess.Popen(
            (*DIES_WITH_US, "sh", "-c", enter, "sh", str(self._cgroup), *command),
            env={"PATH": _PATH, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )

    def wait_until_booted(self) -> None:
        wait_until(self._is_booted, BOOTS_WITHIN_S, f"{self.name} to boot", self._console)

    def _is_booted(self) -> bool:
        self._pid = self._first_process()
        if not self._pid:
            return False
        # "degraded": something on it has failed, as some story may want.
        return self.try_("systemctl", "is-system-running").stdout.strip() in (
            "running",
            "degraded",
        )

    def _first_process(self) -> int:
        """0 if it is not there yet: before it systemd-nspawn has another child, which sees the
        machine around the host."""
        nspawn = self._process.pid
        children = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
        for each in children:
            with suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{each}/status").read_text()
                # Its numbers, from ours to that in its own namespace (proc(5)).
                (numbers,) = (x for x in status.splitlines() if x.startswith("NSpid:"))
                if len(numbers.split()) > 2 and numbers.split()[-1] == "1":
                    return int(each)
        return 0

    def _console(self) -> str:
        return (self.directory / "console.log").read_text(errors="replace")[-3000:]

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._nspawn is not None, f"{self.name} is off"
        return self._nspawn

    def wait_until_off(self) -> None:
        """After it was told to shut down."""
        self._process.wait(BOOTS_WITHIN_S)
        self.power_off()

    def power_off(self) -> None:
        """Ends the host as if its plug was pulled: nothing on it does anything any more."""
        if self._nspawn is None:
            return
        if self._pid:
            # With it all other processes of its pid namespace go.
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        # Who watches its network keeps that alive.
        subprocess.run(("ip", "link", "del", f"vb-{self.name}"), capture_output=True)
        self._nspawn.kill()
        self._nspawn.wait()
        self._nspawn, self._pid = None, 0
        remove_cgroups(self._cgroup)

    def try_(
        self, *command: str, within_s: float = 60.0, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """A command of root's on the host, which is killed if it takes too long."""
        enter = 'echo 0 >"$1"; shift; exec "$@"'
        return subprocess.run(
            (
                *("sh", "-c", enter, "sh", str(self._init_cgroup / "cgroup.procs")),
                *("nsenter", "--all", "--target", str(self._pid), "--"),
                *("env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8"),
                *("DEBIAN_FRONTEND=noninteractive", "timeout", "-s", "KILL", str(within_s)),
                *command,
            ),
            input=text,
            capture_output=True,
            text=True,
        )

    def run(self, *command: str, within_s: float = 60.0, text: str = "") -> str:
        """Standard output. Raises HostError if the command fails."""
        done = self.try_(*command, within_s=within_s, text=text)
        if done.returncode:
            raise HostError(
                f"{self.name}: {' '.join(command)}: exit status {done.returncode}\n"
                f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            )
        return done.stdout

    def shell(self, script: str, within_s: float = 60.0) -> str:
        return self.run("bash", "-e", text=script, within_s=within_s)

    def systemctl(self, *arguments: str) -> str:
        return self.run("systemctl", *arguments).strip()

    def journal(self, unit: str, lines: int = 50) -> str:
        return self.try_("journalctl", "-u", unit, "-n", str(lines), "--no-pager").stdout

    def network(self) -> Namespace:
        return Namespace(os.open(f"/proc/{self._pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))


@dataclass(slots=True)
class Site:
    """The hosts, and what a client of theirs sees."""

    hosts: dict[str, Host]
    client: Namespace
    directory: Path
    _watches: int = field(default=0)

    def on(self, names: Iterable[str], act: Callable[[Host], object]) -> None:
        """Do it on these hosts, at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(act, [self.hosts[name] for name in names]))

    def on_all(self, act: Callable[[Host], object]) -> None:
        self.on(self.hosts, act)

    @contextmanager
    def watched(self, pool: Sequence[str]) -> Iterator["Watch"]:
        """Pings, answers on the wire and kernel events from here on, of the hosts that are on."""
        addresses = frozenset[Address](map(ip_address, pool))
        self._watches += 1
        file = self.directory / f"watch-{self._watches}"
        networks = {name: host.network() for name, host in self.hosts.items() if host.is_on}
        own = {name: ip_address(self.hosts[name].address) for name in networks}
        command = (
            *(sys.executable, "-P", "-m", "yaim.lab.observer", str(PING_EVERY_MS)),
            ",".join(f"{name}={network.fd}" for name, network in networks.items()),
            ",".join(sorted(pool)),
            *(str(PROBE_EVERY_MS), INTERFACE, ",".join(CLIENT)),
            ",".join(map(str, own.values())),
        )
        with file.open("wb") as output:
            observer = self.client.start(
                command, output, pass_fds=[network.fd for network in networks.values()]
            )
        for network in networks.values():
            network.close()
        record = Record(file, addresses, own, PROBE_EVERY_MS / 1000)
        watch = Watch(record, addresses)
        try:
            wait_until(watch.is_watching, 30.0, "the observer", lambda: file.read_text()[-2000:])
            yield watch
        except ValueError:
            raise HostError(file.read_text()[-2000:]) from None
        finally:
            observer.kill()
            observer.wait()


@dataclass(slots=True)
class Watch:
    """Each answer is about all that had happened when it was asked for."""

    record: Record
    pool: frozenset[Address]
    began: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """What was before does not count."""
        self.began = time.monotonic()

    def is_watching(self) -> bool:
        self.record.update()
        return self.record.last_sent_at() > 0

    def _catch_up(self) -> None:
        """The observer is a process of its own, which may be late. Before it sends a ping it tells
        of all that the kernels have told it: whatever was so before one ping is on record before
        the next one."""
        for _ in range(2):
            now = time.monotonic()
            give_up_at = now + 30.0
            self.record.update()
            while self.record.last_sent_at() < now:
                if time.monotonic() >= give_up_at:
                    raise HostError("the observer sends no more pings")
                time.sleep(0.005)
                self.record.update()

    def holders(self) -> dict[str, list[str]]:
        """Address to hosts on which it is not muted."""
        self._catch_up()
        found = self.record.answering_holders()
        return {str(address): sorted(names) for address, names in found.items()}

    def held_by(self, name: str) -> list[str]:
        return sorted(address for address, names in self.holders().items() if name in names)

    def is_whole(self) -> bool:
        """Whether each address is on one host, and answers."""
        holders = self.holders()
        return all(len(holders.get(str(each), ())) == 1 for each in self.pool) and (
            self.record.answering(tuple(self.pool)) == len(self.pool)
        )

    def gap_s(self, addresses: Sequence[str] | None = None) -> float:
        """The longest time that the client got no answer from one of these, or of all."""
        self._catch_up()
        now = time.monotonic()
        chosen = self.pool if addresses is None else map(ip_address, addresses)
        return max(self.record.longest_gap_s(each, self.began, now) for each in chosen)

    def overlap_s(self) -> float:
        """On the wire: two hosts answered for an address (yaim/lab/wire.py)."""
        now = time.monotonic()

        def are_told() -> bool:
            self.record.update()
            return self.record.answers_told_until >= now

        wait_until(are_told, 30.0, "the observer to tell what is answered")
        return self.record.wire_overlap_s(set(self.pool), self.began, now)

    def uncovered_s(self) -> float:
        """Seconds, summed over the addresses, that each was on no host."""
        self._catch_up()
        intervals = self.record.uncovered(set(self.pool), self.began, time.monotonic())
        return sum(interval.length_s for interval in intervals)

    def came(self) -> list[tuple[str, str]]:
        """Which addresses appeared on which hosts."""
        self._catch_up()
        changes = self.record.changes
        came = {(str(c.address), c.node) for c in changes if c.is_there and c.at >= self.began}
        return sorted(came)

    def moves(self) -> int:
        self._catch_up()
        return self.record.moves(set(self.pool), self.began, time.monotonic())


@contextmanager
def site(directory: Path) -> Iterator[Site]:
    """All hosts, booted."""
    with ExitStack() as stack:
        run(("ip", "link", "set", "lo", "up"))
        run(("ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"))
        run(("ip", "link", "set", BRIDGE, "up"))
        client = Namespace.new()
        stack.callback(client.close)
        cable = ("ip", "link", "add", "client", "type", "veth", "peer", "name", "eth0")
        run((*cable, "netns", client.path), pass_fds=(client.fd,))
        run(("ip", "link", "set", "client", "master", BRIDGE, "up"))
        client.run("ip", "address", "add", f"{CLIENT[0]}/24", "dev", "eth0")
        client.run("ip", "address", "add", f"{CLIENT[1]}/64", "dev", "eth0", "nodad")
        client.run("ip", "link", "set", "eth0", "up")
        hosts = {
            name: Host(name, suite, f"{NETWORK}.{number}", directory / name)
            for number, (name, suite) in enumerate(SUITES.items(), start=1)
        }
        stack.callback(_remove, directory, hosts.values())
        for host in hosts.values():
            host.make(os.environ[IMAGE + host.suite], list(hosts.values()))
            host.start()
        for host in hosts.values():
            host.wait_until_booted()
        yield Site(hosts, client, directory)


def _remove(directory: Path, hosts: Collection[Host]) -> None:
    for host in hosts:
        host.power_off()
        subprocess.run(("umount", "-l", str(host.root)), capture_output=True)
    # Records are append-only.
    subprocess.run(("chattr", "-R", "-a", str(directory)), capture_output=True)
    for host in hosts:
        shutil.rmtree(host.directory, ignore_errors=True)


def remove_cgroups(top: Path) -> None:
    """Once its last processes are gone."""
    give_up_at = time.monotonic() + 5.0
    while top.exists() and time.monotonic() < give_up_at:
        for each in sorted(top.rglob("*/"), reverse=True):
            try:
                each.rmdir()
            except OSError:
                pass
        try:
            top.rmdir()
        except OSError:
            time.sleep(0.05)
