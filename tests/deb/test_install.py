"""A host on which the package has just been installed; the pages and units that come with it."""

import json
import re

import pytest

from tests.deb.conftest import POOL, Packages, is_level, told
from tests.deb.hosts import SUITES, Host, Site
from tests.deb.results import Results
from yaim.lab.wait import wait_until

MODPROBE = "/usr/sbin/modprobe"
"""The hosts have none of their own."""
UNITS = ("yaim.service", "yaim-helper.service", "yaim-helper.socket", "yaim-helper-seal.path")


@pytest.fixture(scope="module")
def installed(hosts: Site, packages: Packages) -> Site:
    """The hosts, with the package installed by apt, and no more. They are containers, which load no
    modules; what was tried is in /root/modprobe."""
    package = f"/root/{packages.present.name}"

    def install(host: Host) -> None:
        assert host.try_("test", "-e", MODPROBE).returncode
        host.write(MODPROBE, '#!/bin/sh\necho "$@" >>/root/modprobe\nexit 1\n')
        host.run("chmod", "+x", MODPROBE)
        host.run("apt-get", "install", package, within_s=180)
        host.run("rm", MODPROBE)

    hosts.on_all(install)
    return hosts


@pytest.mark.parametrize("name", SUITES)
def test_nothing_acts_before_it_is_configured(installed: Site, name: str) -> None:
    host = installed.hosts[name]
    states = {u: host.try_("systemctl", "is-active", u).stdout.strip() for u in UNITS}
    assert states == {
        "yaim.service": "inactive",
        "yaim-helper.service": "inactive",
        "yaim-helper.socket": "active",
        "yaim-helper-seal.path": "active",
    }
    assert host.systemctl("show", "-P", "ConditionResult", "yaim.service") == "no"
    assert host.run("systemctl", "--failed", "--no-legend") == ""
    assert host.run("stat", "-c", "%U:%G %a", "/run/yaim-helper/helper.sock") == "root:yaim 660\n"
    assert host.run("stat", "-c", "%U:%G %a", "/etc/yaim/helper.yml") == "root:root 644\n"
    shells = host.run("getent", "passwd", "yaim", "yaim-helper").splitlines()
    assert [line.rpartition(":")[2] for line in shells] == ["/usr/sbin/nologin"] * 2


@pytest.mark.parametrize("name", SUITES)
def test_kernel_modules_are_loaded_now_and_at_each_boot(installed: Site, name: str) -> None:
    host = installed.hosts[name]
    assert host.run("cat", "/root/modprobe") == "-qba nf_tables tcp_diag\n"
    file = "/usr/lib/modules-load.d/yaim.conf"
    lines = host.run("cat", file).splitlines()
    assert [each for each in lines if not each.startswith("#")] == ["nf_tables", "tcp_diag"]
    assert host.run("dpkg", "-S", file) == f"yaim: {file}\n"
    # What the administrator puts in its place is in /etc.
    assert file not in host.run("dpkg-query", "-W", "-f", "${Conffiles}", "yaim")
    after = host.systemctl("show", "-P", "After", "yaim-helper.service").split()
    assert "systemd-modules-load.service" in after


@pytest.mark.parametrize("name", ["db1", "db3"])
def test_an_administrator_can_keep_them_out(installed: Site, name: str) -> None:
    host = installed.hosts[name]
    host.write(MODPROBE, "#!/bin/sh\ntouch /root/was-loaded\n")
    host.shell(f"chmod +x {MODPROBE}; ln -s /dev/null /etc/modules-load.d/yaim.conf")
    try:
        host.run("dpkg-reconfigure", "yaim")
        assert host.try_("test", "-e", "/root/was-loaded").returncode
        host.run("rm", "/etc/modules-load.d/yaim.conf")
        host.run("dpkg-reconfigure", "yaim")
        host.run("test", "-e", "/root/was-loaded")
    finally:
        host.shell(f"rm -f {MODPROBE} /root/was-loaded /etc/modules-load.d/yaim.conf")


@pytest.mark.parametrize("name", SUITES)
def test_the_doctor_says_what_is_missing(installed: Site, name: str) -> None:
    done = installed.hosts[name].try_("yaim", "doctor")
    assert done.returncode == 1, done.stdout
    assert "/etc/yaim/yaim.yml" in done.stdout
    assert "rules" in done.stdout


@pytest.mark.parametrize("name", SUITES)
def test_the_helper_refuses_everything_and_says_so(installed: Site, name: str) -> None:
    host = installed.hosts[name]
    host.systemctl("start", "yaim-helper.service")
    status = host.systemctl("show", "-P", "StatusText", "yaim-helper.service")
    assert status == "refuses every address: /etc/yaim/helper.yml has no rules"
    wait_until(
        lambda: "so every address is refused; add one" in host.journal("yaim-helper"),
        20.0,
        "the journal",
        lambda: host.journal("yaim-helper"),
    )
    host.systemctl("stop", "yaim-helper.service")


@pytest.mark.parametrize(("unit", "bound"), [("yaim-helper.service", 1.4), ("yaim.service", 1.2)])
@pytest.mark.parametrize("name", ["db1", "db3"])
def test_the_units_are_exposed_as_little_as_promised(
    installed: Site, results: Results, name: str, unit: str, bound: float
) -> None:
    report = installed.hosts[name].run("systemd-analyze", "security", "--no-pager", unit)
    (score,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", report)
    results.exposures.setdefault(unit, {})[SUITES[name]] = score
    assert float(score) <= bound, report


@pytest.mark.parametrize("name", ["db1", "db3"])
def test_the_helper_goes_before_other_processes(installed: Site, name: str) -> None:
    host = installed.hosts[name]
    shown = {
        each: host.systemctl("show", "-P", each, "yaim-helper") for each in ("Nice", "CPUWeight")
    }
    assert shown == {"Nice": "-10", "CPUWeight": "1000"}


@pytest.mark.parametrize("name", SUITES)
def test_systemd_finds_nothing_wrong_with_the_units(installed: Site, name: str) -> None:
    host = installed.hosts[name]
    done = host.try_("systemd-analyze", "verify", "--man=no", *UNITS, "yaim@second.service")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SUITES)
def test_the_apparmor_profiles_are_understood(installed: Site, name: str) -> None:
    host = installed.hosts[name]
    host.run("apparmor_parser", "--skip-kernel-load", "--skip-cache", "/etc/apparmor.d/yaim")
    names = host.run("apparmor_parser", "--names", "/etc/apparmor.d/yaim").split()
    assert sorted(names) == ["yaim", "yaim-helper"]


@pytest.mark.parametrize("name", SUITES)
def test_it_can_be_looked_up(installed: Site, name: str) -> None:
    host = installed.hosts[name]
    for page in ("man1/yaim.1", "man8/yaim-helper.8", "man5/yaim.yml.5", "man5/helper.yml.5"):
        host.run("test", "-s", f"/usr/share/man/{page}.gz")
    for command in (("yaim", "--help"), ("yaim-helper", "--help")):
        assert "usage:" in host.run(*command)
    complete = "source /usr/share/bash-completion/completions/yaim; complete -p yaim"
    assert "yaim" in host.run("bash", "-c", complete)
    for program in ("yaim", "yaim-helper"):
        host.run("test", "-s", f"/usr/share/zsh/vendor-completions/_{program}")
        host.run("test", "-s", f"/usr/share/fish/vendor_completions.d/{program}.fish")


def test_set_up_as_the_readme_says_all_addresses_are_held(cluster: Site) -> None:
    with cluster.watched(POOL) as watch:
        wait_until(lambda: is_level(watch), 30.0, "two addresses on each", lambda: told(cluster))
    for host in cluster.hosts.values():
        done = host.try_("yaim", "doctor")
        assert done.returncode == 0, done.stdout
        (fenced,) = re.findall(r"fence +in force: table (yaim-\d+) ", done.stdout)
        ruleset = host.run("nft", "list", "ruleset")
        assert f"table inet {fenced} " in ruleset
        assert f"table arp {fenced} " in ruleset
        assert json.loads(host.run("yaim", "status", "--json"))["condition"] == "healthy"
        assert host.run("stat", "-c", "%U:%G %a", "/etc/yaim/yaim.yml") == "root:root 600\n"


@pytest.mark.parametrize("name", SUITES)
def test_the_status_says_who_holds_what(cluster: Site, name: str) -> None:
    host = cluster.hosts[name]
    with cluster.watched(POOL) as watch:
        wait_until(lambda: is_level(watch), 30.0, "two addresses on each", lambda: told(cluster))
        own = watch.held_by(name)

    def status_of(unit: str) -> str:
        return host.systemctl("show", "-P", "StatusText", unit)

    def yaim_says_so() -> bool:
        status = status_of("yaim")
        is_well = status.startswith(f"{name} healthy, holds 2 (")
        return is_well and all(address in status for address in POOL)

    def helper_says_so() -> bool:
        status = status_of("yaim-helper")
        is_full = status.startswith("holds 2 of at most 64 addresses: ")
        return is_full and all(f"{each} on eth0 for /service/pg/" in status for each in own)

    # A moment later than it is so.
    wait_until(yaim_says_so, 20.0, "yaim's status", lambda: status_of("yaim"))
    wait_until(helper_says_so, 20.0, "the helper's status", lambda: status_of("yaim-helper"))


@pytest.mark.parametrize("name", SUITES)
def test_the_journal_has_fields(cluster: Site, name: str) -> None:
    query = ("journalctl", "YAIM_CLUSTER=pg", f"YAIM_NODE={name}", "-o", "json", "--no-pager")
    entries = [json.loads(line) for line in cluster.hosts[name].run(*query).splitlines()]
    assert "the helper is ready" in [entry["MESSAGE"] for entry in entries]
    assert {entry["_SYSTEMD_UNIT"] for entry in entries} == {"yaim.service"}
    heads = ("journalctl", "-t", "yaim-helper", "-o", "json", "--no-pager")
    lines = cluster.hosts[name].run(*heads).splitlines()
    assert [entry for entry in map(json.loads, lines) if "YAIM_AUDIT_HASH" in entry]


@pytest.mark.parametrize("name", SUITES)
def test_what_is_on_record_stays_there(cluster: Site, name: str) -> None:
    host = cluster.hosts[name]
    record = "/var/log/yaim-helper"
    wait_until(
        lambda: "a" in host.run("lsattr", f"{record}/audit-000001.jsonl").split()[0],
        20.0,
        "the segment to be append-only",
    )
    for command in (("rm", "-f"), ("truncate", "-s", "0")):
        assert host.try_(*command, f"{record}/audit-000001.jsonl").returncode
    # As long as the helper is at something its record is not complete.
    verify = ("yaim-helper", "audit", "verify", record)
    wait_until(
        lambda: not host.try_(*verify).returncode,
        20.0,
        "a record with nothing wrong",
        lambda: host.try_(*verify).stdout,
    )
