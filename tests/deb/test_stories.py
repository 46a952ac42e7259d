"""What happens to yaim's units and hosts, and what a client of the addresses sees of it.

Whether an address is on two hosts or on none is what the kernels told. Gaps are a client's, in a
table at the end: they are measured, on a machine that runs all of this, and only bounded here.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from tests.deb.conftest import POOL, Packages, is_level, told
from tests.deb.hosts import INTERFACE, NETWORK_6, SUITES, Host, Site, Watch
from tests.deb.results import Results
from yaim.cli.check_now import DEFAULT_FILE
from yaim.lab.wait import wait_until

A_GAP_S = 0.5
"""No client of an address that is never off sees more, however busy the machine is."""
SETTLED_S = 4.0
"""Longer than what the kernel keeps of an address that nobody renews."""
TRIES = 4
"""The most tries of what has to be over before the kernel ends an address: tenths of a second
decide."""
RELEASES = ("db1", "db3")
"""A host of each release. What is not to be noticed is done to both of them at once, unless it is a
matter of tenths of a second."""
EACH = pytest.mark.parametrize("name", RELEASES)
"""What moves addresses, or may, one after the other."""


@pytest.fixture
def story(cluster: Site, watch: Watch, results: Results) -> "Story":
    return Story(cluster, watch, results)


class Story:
    def __init__(self, site: Site, watch: Watch, results: Results) -> None:
        self.site = site
        self.watch = watch
        self._results = results

    def __getitem__(self, name: str) -> Host:
        return self.site.hosts[name]

    def on_both(self, act: Callable[[Host], object]) -> None:
        """Acts on both of RELEASES, at the same time."""
        self.site.on(RELEASES, act)

    def pids(self, *units: str) -> dict[tuple[str, str], int]:
        """Returns the process ids of units on both of RELEASES."""
        return {(name, unit): pid(self[name], unit) for name in RELEASES for unit in units}

    def until(self, is_so: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
        wait_until(is_so, within_s, what, lambda: f"{self.watch.holders()}\n{told(self.site)}")

    def until_whole(self) -> None:
        self.until(self.watch.is_whole, "all addresses to answer")

    def until_level(self) -> None:
        self.until(lambda: is_level(self.watch), "two addresses on each host", 30.0)

    def ends(self, name: str) -> None:
        """Never two, in any story."""
        self._results.note(name, self.watch)
        assert self.watch.overlap_s() == 0.0

    @contextmanager
    def nothing_is_to_be_seen(self, name: str) -> Iterator[None]:
        """Nothing is seen of what the block does, also after what is not renewed would have
        gone."""
        yield
        time.sleep(SETTLED_S)
        self.until_whole()
        self.ends(name)
        self._assert_nothing_was_seen()

    def nothing_is_seen_in_one_of_some_tries(self, name: str, act: Callable[[], object]) -> None:
        """Checks the same in one of some tries. The kernel ends what is not renewed in time, and
        how much it has been given when a helper is stopped is chance."""
        for _ in range(TRIES):
            self.watch.begin()
            act()
            time.sleep(SETTLED_S)
            self.until_level()
            assert self.watch.overlap_s() == 0.0
            if self.watch.moves() == 0:
                break
            warnings.warn(f"{name}: {self.watch.moves()} moves", stacklevel=2)
        self.ends(name)
        self._assert_nothing_was_seen()

    def _assert_nothing_was_seen(self) -> None:
        assert self.watch.moves() == 0, told(self.site)
        assert self.watch.uncovered_s() == 0.0, told(self.site)
        assert self.watch.gap_s() < A_GAP_S


def pid(host: Host, unit: str) -> int:
    return int(host.systemctl("show", "-P", "MainPID", unit))


# --- restarts, kills and hangs: nothing moves -----------------------------------------------------


@pytest.mark.parametrize("unit", ["yaim", "yaim-helper"])
def test_a_unit_is_restarted(story: Story, unit: str) -> None:
    before = story.pids(unit)
    with story.nothing_is_to_be_seen(f"systemctl restart {unit}"):
        story.on_both(lambda host: host.run("systemctl", "restart", unit))
    assert_new(before, story.pids(unit))


@pytest.mark.parametrize("unit", ["yaim", "yaim-helper"])
def test_a_unit_is_killed(story: Story, unit: str) -> None:
    before = story.pids(unit)
    with story.nothing_is_to_be_seen(f"systemctl kill -s KILL {unit}"):
        story.on_both(lambda host: host.systemctl("kill", "-s", "KILL", unit))
    assert_new(before, story.pids(unit))


def assert_new(before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]) -> None:
    """Each is another process, and there is one."""
    assert all(each and each != before[unit] for unit, each in after.items()), (before, after)


@EACH
def test_both_are_killed(story: Story, name: str) -> None:
    """They are back before the kernel ends the addresses, if they have a processor."""
    story.nothing_is_seen_in_one_of_some_tries(
        f"both killed ({SUITES[name]})",
        lambda: story[name].systemctl("kill", "-s", "KILL", "yaim", "yaim-helper"),
    )


@EACH
def test_a_helper_that_hangs_is_replaced_by_its_watchdog(story: Story, name: str) -> None:
    """Likewise."""
    story.nothing_is_seen_in_one_of_some_tries(
        f"yaim-helper hangs ({SUITES[name]})",
        lambda: hang(story, name, "yaim-helper"),
    )


@EACH
def test_a_coordinator_that_hangs_is_replaced_by_its_watchdog(story: Story, name: str) -> None:
    """Before its lease ends: no other host takes over. When the deadline is first, its addresses
    are off until the new one is there. Likewise."""
    status = ("show", "-P", "StatusText", "yaim")
    holds = f"{name} healthy, holds 2 "
    for _ in range(TRIES):
        story.watch.begin()
        hang(story, name, "yaim")
        story.until(lambda: story[name].systemctl(*status).startswith(holds), "it to be at work")
        story.until_level()
        assert story.watch.overlap_s() == 0.0
        gap_s, hosts = story.watch.gap_s(), {host for _, host in story.watch.came()}
        if gap_s < 2 * A_GAP_S and hosts <= {name}:
            break
        warnings.warn(f"a gap of {gap_s:.1f} s, and addresses came to {hosts}", stacklevel=1)
    story.ends(f"yaim hangs ({SUITES[name]})")
    assert gap_s < 2 * A_GAP_S and hosts <= {name}, told(story.site)


def hang(story: Story, name: str, unit: str) -> None:
    host = story[name]
    before = pid(host, unit)
    host.systemctl("kill", "-s", "STOP", unit)
    story.until(lambda: pid(host, unit) not in (0, before), "another process")
    story.until(lambda: "Watchdog timeout" in host.journal(unit), "the reason in the journal")


# --- reloading ------------------------------------------------------------------------------------


def test_a_change_of_the_configuration_is_applied_by_a_reload(story: Story) -> None:
    before = story.pids("yaim")
    with story.nothing_is_to_be_seen("systemctl reload yaim"):
        for name in RELEASES:
            host = story[name]
            host.shell("echo 'log-level: Debug' >>/etc/yaim/yaim.yml; systemctl reload yaim")
            story.until(
                lambda host=host: "log-level has changed" in host.journal("yaim"),  # type: ignore[misc]
                "the change",
            )
            host.shell("sed -i /log-level/d /etc/yaim/yaim.yml; systemctl reload yaim")
    assert story.pids("yaim") == before


def test_a_wrong_configuration_is_refused_by_a_reload(story: Story) -> None:
    def reload_wrong_files(host: Host) -> None:
        for unit, file in (("yaim", "yaim.yml"), ("yaim-helper", "helper.yml")):
            host.shell(f"cp -p /etc/yaim/{file} /root; echo 'sense: none' >>/etc/yaim/{file}")
            assert host.try_("systemctl", "reload", unit).returncode
            story.until(
                lambda unit=unit: "sense" in host.journal(unit),  # type: ignore[misc]
                "the reason in the journal",
            )
            host.shell(f"cp -p /root/{file} /etc/yaim; systemctl reload {unit}")

    with story.nothing_is_to_be_seen("reload of wrong files"):
        story.on_both(reload_wrong_files)


# --- hand-over ------------------------------------------------------------------------------------


@EACH
def test_postgresql_stops(story: Story, name: str) -> None:
    story[name].systemctl("stop", "postgresql")
    story.until(lambda: not story.watch.held_by(name), "its addresses to go")
    story.until_whole()
    story.ends(f"PostgreSQL is stopped ({SUITES[name]})")
    story[name].systemctl("start", "postgresql")
    story.until_level()
    assert story.watch.overlap_s() == 0.0


@EACH
def test_yaim_is_stopped(story: Story, name: str) -> None:
    story[name].systemctl("stop", "yaim")
    assert story.watch.held_by(name) == []
    story.until_whole()
    story.ends(f"systemctl stop yaim ({SUITES[name]})")
    assert story[name].systemctl("show", "-P", "Result", "yaim") == "success"
    story[name].systemctl("start", "yaim")
    story.until_level()
    assert story.watch.overlap_s() == 0.0


@EACH
def test_a_host_is_shut_down(story: Story, name: str) -> None:
    """The addresses are handed over before PostgreSQL, etcd and the network stop."""
    story[name].try_("systemctl", "poweroff")
    story.until(lambda: not story.watch.held_by(name), "its addresses to go")
    story.until_whole()
    story.ends(f"a host is shut down ({SUITES[name]})")
    story[name].wait_until_off()
    boot(story, name)


@EACH
def test_a_host_loses_power(story: Story, name: str) -> None:
    story[name].power_off()
    story.until_whole()
    story.ends(f"a host loses power ({SUITES[name]})")
    boot(story, name)


def boot(story: Story, name: str) -> None:
    """What is on it takes part again, without anybody's doing."""
    story[name].start()
    story[name].wait_until_booted()
    with story.site.watched(POOL) as watch:
        story.until(lambda: is_level(watch), "two addresses on each host", 40.0)


# --- an operator --------------------------------------------------------------------------------


def test_a_maintenance_of_each_host_in_turn_costs_the_fewest_moves(story: Story) -> None:
    """Each is drained, everything on it is started anew, and it takes part again: two addresses go
    and two come. Nothing happens on the others beside that."""
    for name, suite in SUITES.items():
        host = story[name]
        story.watch.begin()
        host.run("yaim", "drain", name, "--reason", "a new kernel", "--yes")
        # That command has waited for it.
        assert story.watch.held_by(name) == []
        assert story.watch.is_whole()
        story.ends(f"yaim drain ({suite})")
        assert story.watch.moves() == 2
        story.watch.begin()
        host.systemctl("restart", "yaim", "yaim-helper")
        time.sleep(SETTLED_S)
        assert story.watch.held_by(name) == []
        assert story.watch.moves() == 0
        assert "a new kernel" in host.run("sh", "-c", "yaim status || true")
        story.watch.begin()
        host.run("yaim", "undrain", name, "--yes")
        story.until_level()
        story.ends(f"yaim undrain ({suite})")
        assert story.watch.moves() == 2
        assert story.watch.gap_s() < A_GAP_S


def test_a_drain_outlives_a_boot(story: Story) -> None:
    name = RELEASES[0]
    host = story[name]
    host.run("yaim", "drain", name, "--reason", "a new disk", "--yes")
    host.try_("systemctl", "reboot")
    host.wait_until_off()
    host.start()
    host.wait_until_booted()
    with story.site.watched(POOL) as watch:
        status = ("systemctl", "show", "-P", "StatusText", "yaim")
        story.until(lambda: "drained" in host.run(*status), "it to take part", 40.0)
        time.sleep(SETTLED_S)
        assert watch.held_by(name) == []
        assert watch.moves() == 0
        host.run("yaim", "undrain", name, "--yes")
        story.until(lambda: is_level(watch), "two addresses on each host", 40.0)
        assert watch.overlap_s() == 0.0


def test_an_address_is_moved_by_name(story: Story) -> None:
    """As many are on each host afterwards: another address comes back for it."""
    name, other = RELEASES
    address = story.watch.held_by(name)[0]
    story.watch.begin()
    story[name].run("yaim", "move", address, other, "--swap", "--yes")
    assert address in story.watch.held_by(other)
    story.until_level()
    story.ends("yaim move --swap")
    assert story.watch.moves() == 2
    assert story.watch.gap_s() < A_GAP_S


# --- the package ----------------------------------------------------------------------------------


def test_an_upgrade_moves_nothing(story: Story, packages: Packages) -> None:
    units = ("yaim", "yaim-helper")
    for name in RELEASES:
        story[name].shell("echo '# mine' >>/etc/yaim/helper.yml")
    before = story.pids(*units)
    with story.nothing_is_to_be_seen("upgrade"):
        story.on_both(lambda host: install(host, packages.later))
    assert_new(before, story.pids(*units))
    for name in RELEASES:
        assert story[name].run("dpkg-query", "-W", "-f", "${Version}", "yaim") == "99.0"
        assert "# mine" in story[name].run("cat", "/etc/yaim/helper.yml")


def test_a_downgrade_moves_nothing(story: Story, packages: Packages) -> None:
    with story.nothing_is_to_be_seen("downgrade"):
        story.on_both(lambda host: install(host, packages.present, "--allow-downgrades"))
    for name in RELEASES:
        assert "# mine" in story[name].run("cat", "/etc/yaim/helper.yml")


def test_a_reinstallation_moves_nothing(story: Story, packages: Packages) -> None:
    with story.nothing_is_to_be_seen("reinstallation"):
        story.on_both(lambda host: install(host, packages.present, "--reinstall"))
    for name in RELEASES:
        assert "# mine" in story[name].run("cat", "/etc/yaim/helper.yml")


def install(host: Host, package: Path, *options: str) -> str:
    """What apt said."""
    command = f"apt-get install {' '.join(options)} /root/{package.name} 2>&1"
    return host.run("sh", "-c", command, within_s=120)


def test_a_helper_that_could_not_start_anew_is_left_at_work(
    story: Story, packages: Packages
) -> None:
    said = dict[str, str]()

    def reinstall(host: Host) -> None:
        host.shell("cp -p /etc/yaim/helper.yml /root; echo 'sense: none' >>/etc/yaim/helper.yml")
        said[host.name] = install(host, packages.present, "--reinstall")

    before = story.pids("yaim-helper")
    try:
        with story.nothing_is_to_be_seen("reinstallation, helper.yml is wrong"):
            story.on_both(reinstall)
        assert story.pids("yaim-helper") == before
        for name in RELEASES:
            assert "the helper is not restarted: /etc/yaim/helper.yml is wrong" in said[name]
    finally:
        story.on_both(lambda host: host.shell("cp -p /root/helper.yml /etc/yaim"))


def test_a_coordinator_that_could_not_start_anew_is_left_at_work(
    story: Story, packages: Packages
) -> None:
    """There are two clusters, each with its own file. That of the second one only the unit's user
    cannot use."""
    said = dict[str, str]()

    def begin_second_cluster(host: Host) -> None:
        host.shell(
            "sed 's/dcs-clustername: pg/dcs-clustername: web/' /etc/yaim/yaim.yml"
            " >/etc/yaim/web.yml\n"
            "echo geheim >/root/password\n"
            "systemctl enable --quiet --now yaim@web"
        )

    def reinstall_with(host: Host, file: str, wrong: str) -> None:
        host.shell(f"cp -p /etc/yaim/{file} /root; printf '{wrong}' >>/etc/yaim/{file}")
        said[host.name] = install(host, packages.present, "--reinstall")

    def cannot_be_read(host: Host) -> None:
        wrong = "postgres-user: yaim\\npostgres-password-file: /root/password\\n"
        reinstall_with(host, "web.yml", wrong)
        host.run("yaim", "config", "check", "--config=/etc/yaim/web.yml")

    def mend(host: Host, file: str, unit: str) -> None:
        host.shell(f"cp -p /root/{file} /etc/yaim; systemctl restart {unit}")

    story.on_both(begin_second_cluster)
    began = story.pids("yaim", "yaim@web")
    with story.nothing_is_to_be_seen("reinstallation, yaim.yml is wrong"):
        story.on_both(lambda host: reinstall_with(host, "yaim.yml", "sense: none\\n"))
    first = story.pids("yaim", "yaim@web")
    for name in RELEASES:
        assert first[name, "yaim"] == began[name, "yaim"]
        assert first[name, "yaim@web"] not in (0, began[name, "yaim@web"])
        assert "/etc/yaim/yaim.yml:6: sense" in said[name]
        assert (
            "yaim.service is not restarted, its old version goes on: /etc/yaim/yaim.yml is wrong;"
            " correct it, then: systemctl restart yaim\n"
        ) in said[name]
        assert "yaim@web.service is not" not in said[name]
    with story.nothing_is_to_be_seen("reinstallation, that of a second cluster is wrong"):
        story.on_both(lambda host: mend(host, "yaim.yml", "yaim"))
        second = story.pids("yaim")
        story.on_both(cannot_be_read)
    assert_new({**began, **second}, story.pids("yaim"))
    for name in RELEASES:
        assert story.pids("yaim@web")[name, "yaim@web"] == first[name, "yaim@web"]
        assert "/root/password" in said[name]
        assert "yaim@web.service is not restarted" in said[name]
        assert "systemctl restart yaim@web\n" in said[name]
    story.on_both(lambda host: mend(host, "web.yml", "yaim@web"))
    assert_new(first, story.pids("yaim@web"))
    story.on_both(
        lambda host: host.shell("systemctl disable --quiet --now yaim@web; rm /etc/yaim/web.yml")
    )


@EACH
def test_a_removal_releases_the_addresses(story: Story, packages: Packages, name: str) -> None:
    host = story[name]
    host.run("apt-get", "remove", "yaim", within_s=120)
    assert story.watch.held_by(name) == []
    story.until_whole()
    story.ends(f"apt remove ({SUITES[name]})")
    assert host.try_("systemctl", "is-active", "yaim-helper.socket").returncode
    assert "# mine" in host.run("cat", "/etc/yaim/helper.yml")
    host.run("test", "-d", "/var/log/yaim-helper")
    install(host, packages.present)
    story.until_level()
    assert story.watch.overlap_s() == 0.0


@EACH
def test_a_purge_leaves_nothing_but_what_the_admin_wrote(
    story: Story, packages: Packages, name: str
) -> None:
    host = story[name]
    host.systemctl("enable", "--quiet", "yaim@web")
    host.shell("echo secret >/etc/yaim/yaim.key")
    host.shell("chgrp yaim /etc/yaim/yaim.key; chmod 640 /etc/yaim/yaim.key")
    host.run("apt-get", "purge", "yaim", within_s=120)
    assert story.watch.held_by(name) == []
    story.until_whole()
    story.ends(f"apt purge ({SUITES[name]})")
    assert host.try_("getent", "passwd", "yaim", "yaim-helper").stdout == ""
    assert host.try_("getent", "group", "yaim", "yaim-helper").stdout == ""
    assert "yaim-" not in host.run("nft", "list", "tables")
    # systemd removes the units' temporary directories beside what it does next.
    written = ["/etc/yaim", "/etc/yaim/yaim.key", "/etc/yaim/yaim.yml"]
    wait_until(lambda: sorted(left(host)) == written, 20.0, "nothing else", lambda: str(left(host)))
    owner = host.run("stat", "--format=%U:%G %a", "/etc/yaim/yaim.key").strip()
    assert owner == "root:root 640", "whose group gets that id could read it"
    host.shell("rm /etc/yaim/yaim.key")
    install(host, packages.present)
    # Another user of that name is another uid.
    host.shell(HELPER_YML)
    host.systemctl("start", "yaim")
    story.until_level()
    assert story.watch.overlap_s() == 0.0


def left(host: Host) -> list[str]:
    return host.shell(
        "find / -xdev -ignore_readdir_race"
        " \\( -name '*yaim*' -o -path '*yaim*' \\) -not -path '/root/*' -print; "
        "find /run -ignore_readdir_race -name '*yaim*' -print"
    ).split()


HELPER_YML = """
cat >/etc/yaim/helper.yml <<'END'
users: [yaim]
rules:
  - interface: eth0
    networks: [192.0.2.8/29, "2001:db8::8/125"]
END
systemctl try-restart yaim-helper
"""


# --- a second cluster, drop-ins -------------------------------------------------------------------


def test_a_second_cluster_on_the_same_hosts(story: Story) -> None:
    second = ["2001:db8::9", "2001:db8::a", "2001:db8::b"]
    story["db1"].shell("".join(f"etcdctl put /service/web/ips/{each} ''\n" for each in second))
    with story.site.watched(second) as watch:
        for name in SUITES:
            story[name].shell(
                "cp -p /etc/yaim/yaim.yml /etc/yaim/web.yml\n"
                "sed -i 's/dcs-clustername: pg/dcs-clustername: web/' /etc/yaim/web.yml\n"
                "systemctl enable --now yaim@web"
            )
        story.until(
            lambda: watch.is_whole() and all(len(watch.held_by(name)) == 1 for name in SUITES),
            "IPv6 addresses, one on each host",
        )
        for name, where in product(RELEASES, ("yaim-check", "yaim-check@web")):
            everybody_may_ask(story[name], f"/run/{where}/now")
        watch.begin()
        story["db1"].systemctl("restart", "yaim@web")
        story["db1"].shell("echo 'log-level: Warn' >>/etc/yaim/web.yml; systemctl reload yaim@web")
        time.sleep(SETTLED_S)
        assert (watch.moves(), watch.uncovered_s(), watch.overlap_s()) == (0, 0.0, 0.0)
        for name in SUITES:
            story[name].shell("systemctl disable --now yaim@web; rm /etc/yaim/web.yml")
            story[name].run("test", "!", "-e", "/run/yaim-check@web")
        assert watch.holders() == {}
    assert story.watch.moves() == 0
    story.ends("a second cluster comes, is restarted and goes")


def everybody_may_ask(host: Host, path: str) -> None:
    """By `yaim check --now`."""
    looked_at = host.run("stat", "-c", "%U:%G %a", str(Path(path).parent), path)
    assert looked_at.splitlines() == ["yaim:yaim 711", "yaim:yaim 444"]
    flags = [] if path == DEFAULT_FILE else [f"--check-trigger={path}"]
    words = "on_role_change", "primary", "pg"
    host.run(
        *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"),
        *("yaim", "check", "--now", *flags, *words),
    )


@pytest.mark.parametrize(
    ("unit", "example", "prepare"),
    [
        ("yaim", "shell-checks.conf", ""),
        ("yaim", "ip-allow.conf", ""),
        ("yaim-helper", "helper-realtime.conf", ""),
        (
            "yaim-helper",
            "helper-as-root.conf",
            "install -D -t /etc/systemd/system/yaim-helper-seal.service.d"
            " /usr/share/doc/yaim/examples/helper-seal-as-root.conf\n"
            "systemctl daemon-reload; systemctl stop yaim-helper;"
            " chattr -a /var/log/yaim-helper/audit-*; chown -R root: /var/log/yaim-helper",
        ),
    ],
)
def test_an_example_of_a_drop_in_works(story: Story, unit: str, example: str, prepare: str) -> None:
    directory = f"/etc/systemd/system/{unit}.service.d"

    def drop_in(host: Host) -> None:
        host.shell(
            f"install -D -t {directory} /usr/share/doc/yaim/examples/{example}\n"
            f"systemctl daemon-reload\n{prepare}\nsystemctl restart {unit}"
        )

    def take_out(host: Host) -> None:
        host.shell(f"rm -r {directory}; systemctl daemon-reload")
        if prepare:
            host.shell(
                "rm -r /etc/systemd/system/yaim-helper-seal.service.d; systemctl daemon-reload;"
                "systemctl stop yaim-helper; chattr -a /var/log/yaim-helper/audit-*;"
                " chown -R yaim-helper: /var/log/yaim-helper"
            )
        host.run("systemctl", "restart", unit)

    story.on_both(drop_in)
    time.sleep(SETTLED_S)
    story.until_level()
    for host in map(story.__getitem__, RELEASES):
        assert host.systemctl("is-active", unit) == "active"
        story.until(
            lambda host=host: is_sealed(host),  # type: ignore[misc]
            "the record to be append-only",
        )
    story.on_both(take_out)
    time.sleep(SETTLED_S)
    story.until_level()
    assert story.watch.overlap_s() == 0.0


def is_sealed(host: Host) -> bool:
    segments = host.shell("lsattr -d /var/log/yaim-helper/audit-*").splitlines()
    return all("a" in each.split()[0] for each in segments)


# --- other programs on the host -------------------------------------------------------------------


@pytest.mark.parametrize("keeps", ["", "KeepConfiguration=static\n"])
def test_what_networkd_drops_comes_back_and_as_the_doctor_says_it_drops_nothing(
    story: Story, keeps: str
) -> None:
    """Debian 13's: that of Debian 12 cannot set an address on kernels much newer than itself."""
    name = "db3"
    host = story[name]
    with managed_by_networkd(host, keeps):
        story.until_level()
        (finding,) = network_findings(host)
        assert finding["verdict"] == "warning"
        assert "systemd-networkd drops yaim's addresses" in finding["text"]
        before = story.watch.held_by(name)
        story.watch.begin()
        host.systemctl("restart", "systemd-networkd")
        # Dropped and back, however fast and often.
        own = [(address, name) for address in before]
        story.until(lambda: story.watch.came() == own, "addresses to be dropped")
        time.sleep(SETTLED_S)
        story.until_level()
        assert story.watch.held_by(name) == before
        assert story.watch.came() == own
        host.shell(finding["remedy"])
        time.sleep(SETTLED_S)
        (finding,) = network_findings(host)
        assert finding["verdict"] == "ok"
        story.until_level()
        story.watch.begin()
        with story.nothing_is_to_be_seen(f"systemd-networkd is restarted ({SUITES[name]})"):
            host.systemctl("restart", "systemd-networkd")
    story.until_level()


def network_findings(host: Host) -> list[dict[str, str]]:
    findings = json.loads(host.try_("yaim", "doctor", "--json").stdout)["findings"]
    return [each for each in findings if each["point"] == "network set-up"]


@contextmanager
def managed_by_networkd(host: Host, keeps: str) -> Iterator[None]:
    """Its interface, with the addresses that it has."""
    number = host.address.rpartition(".")[2]
    file = f"/etc/systemd/network/10-{INTERFACE}.network"
    host.write(
        file,
        f"[Match]\nName={INTERFACE}\n[Network]\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\n{keeps}"
        f"Address={host.address}/24\nAddress={NETWORK_6}:{number}/64\n",
    )
    host.shell("systemctl unmask systemd-networkd && systemctl start systemd-networkd")
    try:
        is_set_up = ("sh", "-c", f"networkctl status {INTERFACE} | grep -F '(configured)'")
        wait_until(
            lambda: not host.try_(*is_set_up).returncode,
            30.0,
            "networkd",
            lambda: host.journal("systemd-networkd"),
        )
        yield
    finally:
        host.shell(
            "systemctl stop systemd-networkd.socket systemd-networkd\n"
            f"systemctl mask systemd-networkd; rm -rf {file} {file}.d; sh /etc/host-network || true"
        )
