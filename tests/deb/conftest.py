"""The package, in two versions; and three hosts with etcd and PostgreSQL to install it on."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deb.hosts import ROOT, Host, Site, site
from yaim.lab.wait import wait_until

LATER = "99.0"
"""A higher version."""


@dataclass(frozen=True, slots=True)
class Packages:
    present: Path
    later: Path


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    built = []
    for version in ((), (LATER,)):
        into = tmp_path_factory.mktemp("package")
        subprocess.run((str(ROOT / "packaging/build-deb"), str(into), *version), check=True)
        (package,) = into.glob("*.deb")
        built.append(package)
    return Packages(*built)


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory, packages: Packages) -> Iterator[Site]:
    """Without yaim; the packages are in /root."""
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
        wait_until(lambda: not host.try_(*health).returncode, 20.0, "etcd")
        yield booted


def set_up_etcd(host: Host, members: list[Host]) -> None:
    """As Debian's etcd reads it; 3.4 and 3.5 in one cluster."""
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
