"""The hosts of these tests are what they are taken for."""

import time

from tests.deb.hosts import SUITES, Host, Site
from yaim.lab.record import Interval
from yaim.lab.wait import wait_until

BY_HAND = ("192.0.2.99/32", "dev", "eth0", "valid_lft", "60", "preferred_lft", "0")


def test_each_is_a_host_of_its_release(hosts: Site) -> None:
    for name, suite in SUITES.items():
        host = hosts.hosts[name]
        assert host.run("hostname").strip() == name
        assert f"VERSION_CODENAME={suite}\n" in host.run("cat", "/etc/os-release")
        assert host.systemctl("show", "-P", "Version")
        query = ("runuser", "-u", "postgres", "--", "psql", "-Atc", "SELECT 1")
        assert host.run(*query) == "1\n"
        assert host.run("etcdctl", "member", "list").count("started") == len(SUITES)


def test_an_address_on_a_host_is_seen_and_answers(hosts: Site) -> None:
    host = hosts.hosts["db1"]
    with hosts.watched(["192.0.2.99"]) as watch:
        host.run("ip", "address", "add", *BY_HAND)
        wait_until(watch.is_whole, 20.0, "the address")
        assert watch.held_by("db1") == ["192.0.2.99"]
        host.run("ip", "address", "del", *BY_HAND[:3])
        wait_until(lambda: not watch.holders(), 20.0, "its end")


def test_a_host_without_power_is_gone_at_once_and_has_its_disk_afterwards(hosts: Site) -> None:
    host = hosts.hosts["db3"]
    host.shell("echo kept >/root/kept; sync /root/kept")
    # Not the one of above: the client knows where that is, and nobody tells it otherwise.
    host.run("ip", "address", "add", "192.0.2.98/32", *BY_HAND[1:])
    with hosts.watched(["192.0.2.98"]) as watch:
        wait_until(
            lambda: watch.is_watching() and watch.record.answering(tuple(watch.pool)) == 1,
            20.0,
            "an answer",
        )
        began = time.monotonic()
        host.power_off()
        is_off_at = time.monotonic()
        (address,) = watch.pool

        def silence() -> list[Interval]:
            watch.record.update()
            return list(watch.record.gaps(address, is_off_at, time.monotonic()))

        wait_until(lambda: bool(silence()), 20.0, "silence")
        # The last ping that was answered. To clean up after the host may take longer.
        assert min(each.start for each in silence()) < min(is_off_at, began + 2.0)
        wait_until(
            lambda: watch.is_watching() and not watch.record.answering((address,), 0.1),
            20.0,
            "more silence",
        )
    host.start()
    host.wait_until_booted()
    assert host.run("cat", "/root/kept") == "kept\n"
    wait_until(
        lambda: not host.try_("etcdctl", "endpoint", "health", "--cluster").returncode, 30.0, "etcd"
    )


def test_a_sandbox_denies_what_it_should(hosts: Site) -> None:
    """Else it would be no wonder that yaim works in one."""
    unit = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect")

    def look(host: Host) -> None:
        other = next(each for each in hosts.hosts.values() if each is not host)
        url = f"http://{other.address}:2379/version"
        ask = ("curl", "-sS", "--max-time", "3", url)
        assert "etcdserver" in host.run(*unit, "curl", "-sS", "--max-time", "30", url)
        assert host.try_(*unit, "-p", "IPAddressDeny=any", *ask).returncode
        assert host.try_(*unit, "-p", "RestrictAddressFamilies=AF_UNIX", *ask).returncode

    hosts.on_all(look)


def test_append_only_files_stay(hosts: Site) -> None:
    for host in hosts.hosts.values():
        host.shell("echo one >/var/log/kept; chattr +a /var/log/kept; echo two >>/var/log/kept")
        assert host.try_("rm", "/var/log/kept").returncode
        assert host.try_("sh", "-c", ": >/var/log/kept").returncode
        host.shell("chattr -a /var/log/kept; rm /var/log/kept")
