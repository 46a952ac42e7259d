"""The package, in two versions; and three hosts with etcd and PostgreSQL to install it on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deb.hosts import ROOT, SUITES, Host, Site, Watch, site
from tests.deb.readme import commands
from tests.deb.results import Results
from yaim.lab.wait import wait_until

LATER = "99.0"
"""A higher version."""


@dataclass(frozen=True, slots=True)
class Packages:
    present: Path
    later: Path


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Iterator[Results]:
    found = Results()
    yield found
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        sys.stdout.write(f"\n\n{found.table()}\n")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    def build(into: Path, *version: str) -> Path:
        subprocess.run((str(ROOT / "packaging/build-deb"), str(into), *version), check=True)
        (package,) = into.glob("*.deb")
        return package

    directories = [tmp_path_factory.mktemp("package") for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        present = pool.submit(build, directories[0])
        later = pool.submit(build, directories[1], LATER)
        return Packages(present.result(), later.result())


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory, packages: Packages) -> Iterator[Site]:
    """The hosts, without yaim; the packages are in /root."""
    with site(tmp_path_factory.mktemp("hosts")) as booted:
        for host in booted.hosts.values():
            shutil.copy(packages.present, host.root / "root")
            shutil.copy(packages.later, host.root / "root")
            set_up_etcd(host, list(booted.hosts.values()))
        for host in booted.hosts.values():
            # Waits for the others, without which no member gets ready.
            host.systemctl("start", "--no-block", "etcd")
            host.systemctl("enable", "--quiet", "--now", "postgresql")
        for host in booted.hosts.values():
            host.systemctl("start", "etcd")
        health = ("etcdctl", "endpoint", "health", "--cluster")
        wait_until(lambda: not host.try_(*health).returncode, 30.0, "etcd")
        yield booted


def set_up_etcd(host: Host, members: list[Host]) -> None:
    """Sets etcd up as Debian's reads it; 3.4 and 3.5 are in one cluster."""
    cluster = ",".join(f"{each.name}=http://{each.address}:2380" for each in members)
    host.write(
        "/etc/default/etcd",
        f"ETCD_NAME={host.name}\n"
        f"ETCD_INITIAL_CLUSTER={cluster}\n"
        f"ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{host.address}:2380\n"
        f"ETCD_LISTEN_PEER_URLS=http://{host.address}:2380\n"
        f"ETCD_ADVERTISE_CLIENT_URLS=http://{host.address}:2379\n"
        f"ETCD_LISTEN_CLIENT_URLS=http://{host.address}:2379,http://127.0.0.1:2379\n",
    )
    host.systemctl("enable", "--quiet", "etcd")


POOL = tuple(f"192.0.2.{n}" for n in range(9, 15))
"""The pool as the README has it."""


@pytest.fixture(scope="session")
def cluster(hosts: Site, results: Results) -> Site:
    """Set up as the README says, line for line."""
    each_host = commands("On each host")
    # It says that etcd has no addresses yet.
    each_host = each_host.replace("yaim doctor\n", "! yaim doctor\n")
    hosts.on_all(lambda host: host.shell(f"cd /root\n{each_host}", within_s=180))
    with hosts.watched(POOL) as watch:
        any_host = next(iter(hosts.hosts.values()))
        any_host.shell(commands("On one of them"))
        wait_until(watch.is_whole, 30.0, "all addresses", lambda: told(hosts))
        results.note("first set-up: addresses put into etcd", watch, gap=False)
    return hosts


def told(site: Site) -> str:
    """What the hosts have to say about it."""
    return "\n".join(
        f"{name}:\n{host.journal('yaim', 15)}{host.journal('yaim-helper', 10)}"
        for name, host in site.hosts.items()
        if host.is_on
    )


class Watches:
    """One at a time, for one story after the other, as long as the hosts are not booted anew."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stack = ExitStack()
        self._boots: list[int] = []
        self._watch: Watch | None = None

    def get(self) -> Watch:
        boots = [host.boot for host in self._site.hosts.values()]
        if self._watch is None or boots != self._boots:
            self.close()
            self._watch = self._stack.enter_context(self._site.watched(POOL))
            self._boots = boots
        return self._watch

    def close(self) -> None:
        self._stack.close()
        self._watch = None


@pytest.fixture(scope="session")
def watches(cluster: Site) -> Iterator[Watches]:
    watches = Watches(cluster)
    yield watches
    watches.close()


@pytest.fixture
def watch(cluster: Site, watches: Watches) -> Watch:
    """Watches from a time on when all is well, and the disk at rest: the helpers' records would
    wait behind what earlier tests have left for it to write."""
    os.sync()
    watching = watches.get()
    wait_until(lambda: is_level(watching), 30.0, "all to be well", lambda: told(cluster))
    watching.begin()
    return watching


def is_level(watch: Watch) -> bool:
    """Each address on one host, and as many on each."""
    return watch.is_whole() and all(len(watch.held_by(name)) == 2 for name in SUITES)
