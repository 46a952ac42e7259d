"""This host as its kernel and its systemd tell it: the interface, its addresses, the services.

Only looks. Asks the kernel by pyroute2, which is imported when it is needed.
"""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from yaim.core.model import Address
from yaim.doctor.commands import ask
from yaim.doctor.finding import Finding, not_looked_at, ok, problem, warning
from yaim.host.interfaces import shown_name, why_missing
from yaim.host.name_lookup import look_up
from yaim.host.pending import Pending

INTERFACE, IPV6, ADDRESSES, SERVICES = "interface", "IPv6", "addresses", "services"
_KERNEL_WITHIN_S = 2.0
"""How long the kernel may take to answer: while something holds its routing lock it does not."""
_LOOKED_UP_WITHIN_S = 2.0
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
"""Flags of an interface (netdevice(7))."""
_FOREVER = 2**32 - 1
_HELPERS_UNITS = ("yaim-helper.socket", "yaim-helper.service")
_ENABLED = ("enabled", "enabled-runtime", "static", "indirect", "alias", "generated", "linked")


# --- the kernel ----------------------------------------------------------------------------


_asked: Pending[str, Any] = Pending("doctor-kernel")


def _ask_kernel(what: str, question: Callable[[Any], Any]) -> Any:
    """The answer to a question to pyroute2's IPRoute. Raises TimeoutError, and OSError or
    NetlinkError where the kernel refuses."""
    from pyroute2 import IPRoute

    def ask() -> Any:
        with IPRoute() as kernel:
            return question(kernel)

    answer = _asked.wait(what, ask, _KERNEL_WITHIN_S)
    if answer is None:
        raise TimeoutError(f"the kernel does not tell its {what} within {_KERNEL_WITHIN_S:g} s")
    return answer


def look_at_interface(name: str) -> Finding:
    if why_not := why_missing(name):
        return problem(INTERFACE, why_not, "set interface in yaim.yml and in helper.yml")
    shown = shown_name(name) or name
    links = _ask_kernel("interfaces", lambda kernel: tuple(kernel.get_links()))
    flags = next((each["flags"] for each in links if each.get_attr("IFLA_IFNAME") == shown), None)
    if flags is None:
        return problem(INTERFACE, f"{name} has just gone", f"ip link show {name}")
    if not flags & _IFF_UP:
        return problem(INTERFACE, f"{name} is down", f"ip link set {name} up")
    if not flags & _IFF_RUNNING:
        return problem(INTERFACE, f"{name} has no carrier", f"is its cable in? ip link show {name}")
    return ok(INTERFACE, f"{name} is up" if shown == name else f"{name}, which is {shown}, is up")


def look_at_ipv6(root: Path, interface: str, pool: Sequence[Address]) -> Iterator[Finding]:
    """Whether the interface can have IPv6 addresses. Yields nothing where the pool has none."""
    if all(each.version == 4 for each in pool):
        return
    setting = root / "proc/sys/net/ipv6/conf" / interface / "disable_ipv6"
    try:
        is_on = setting.read_text().strip() == "0"
    except OSError:
        what = "the pool has IPv6 addresses, but this kernel has no IPv6 here"
        yield problem(IPV6, what, "boot without ipv6.disable=1, or exclude this node from them")
        return
    if is_on:
        yield ok(IPV6, f"enabled on {interface}")
    else:
        what = f"the pool has IPv6 addresses, but {interface} has IPv6 disabled"
        remedy = f"also in /etc/sysctl.d: sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0"
        yield problem(IPV6, what, remedy)


@dataclass(frozen=True, slots=True)
class OnHost:
    address: Address
    prefix_length: int
    interface: str
    is_helpers: bool
    """Whether it has a lifetime and no preferred one: the helper puts its own there in this way,
    and nobody else does."""


def addresses_on_host() -> tuple[OnHost, ...]:
    """Every address of this host, on all interfaces. Raises OSError."""
    found = []
    for each in _ask_kernel("addresses", lambda kernel: tuple(kernel.get_addr())):
        text = each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")
        if text is None:
            continue
        lifetimes = each.get_attr("IFA_CACHEINFO") or {}
        preferred_s = lifetimes.get("ifa_preferred", _FOREVER)
        valid_s = lifetimes.get("ifa_valid", _FOREVER)
        name = socket.if_indextoname(each["index"])
        is_helpers = preferred_s == 0 and valid_s != _FOREVER
        found.append(OnHost(ip_address(text), each["prefixlen"], name, is_helpers))
    return tuple(found)


def addresses_of(name: str) -> frozenset[Address]:
    """What a host name stands for, or an address itself; empty if that is not known in time."""
    try:
        return frozenset((ip_address(name),))
    except ValueError:
        pass
    try:
        found = look_up(name, 0, _LOOKED_UP_WITHIN_S)
    except (OSError, ValueError):
        return frozenset()
    return frozenset(ip_address(str(each[4][0]).partition("%")[0]) for each in found)


def look_at_addresses(there: Sequence[OnHost], pool: Sequence[Address]) -> Iterator[Finding]:
    """Points out the pool's addresses that somebody else has put on this host: the helper leaves
    them alone, and adds no address that is there already."""
    foreign = [each for each in there if each.address in pool and not each.is_helpers]
    for each in foreign:
        where = f"{each.address}/{each.prefix_length} dev {each.interface}"
        what = f"{where} is here, and not because of yaim: two nodes may have it"
        yield problem(ADDRESSES, what, f"undo whatever puts it there, and: ip addr del {where}")
    if not foreign:
        ours = sum(each.address in pool and each.is_helpers for each in there)
        yield ok(ADDRESSES, f"{ours} of the pool here, none that somebody else put here")


# --- services ------------------------------------------------------------------------------


def read_units(output: str) -> dict[str, Mapping[str, str]]:
    """The properties of each unit in the output of `systemctl show`."""
    units: dict[str, Mapping[str, str]] = {}
    for block in output.strip().split("\n\n"):
        pairs = dict(line.partition("=")[::2] for line in block.splitlines())
        units[pairs.get("Id", "")] = pairs
    return units


def unit_of(file: Path) -> str:
    """The coordinator's unit that reads this file: yaim@NAME.service reads /etc/yaim/NAME.yml."""
    is_another = file.parent == Path("/etc/yaim") and file.stem != "yaim"
    return f"yaim@{file.stem}.service" if is_another else "yaim.service"


def units_of(root: Path, systemctl: str, unit: str) -> dict[str, Mapping[str, str]] | str:
    """The properties of yaim's units; empty where systemd does not run, and a text that says why
    where they cannot be asked for."""
    if not (root / "run/systemd/system").is_dir():
        return {}
    properties = (
        "Id,LoadState,ActiveState,UnitFileState,Result,ConditionResult,ConditionTimestampMonotonic,"
        "NRestarts"
    )
    told = ask((systemctl, "show", f"--property={properties}", unit, *_HELPERS_UNITS))
    if isinstance(told, str):
        return told
    if told.status != 0:
        return f"systemctl show: {told.errors.strip()}"
    return read_units(told.output)


def credentials_of(systemctl: str, unit: str) -> frozenset[Path]:
    """The files that systemd hands to the unit as credentials, which `systemctl show` cannot
    tell."""
    told = ask((systemctl, "cat", unit))
    lines = told.output.splitlines() if not isinstance(told, str) and not told.status else []
    instance = unit.partition("@")[2].removesuffix(".service")
    files = (line.partition(":")[2] for line in lines if line.startswith("LoadCredential="))
    return frozenset(Path(each.replace("%i", instance)) for each in files)


def installed(units: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The names of those units that systemd knows."""
    return [each for each, told in units.items() if told.get("LoadState") == "loaded"]


def look_at_services(
    units: Mapping[str, Mapping[str, str]] | str, titles: Sequence[str], supervise: str
) -> Iterator[Finding]:
    """`titles`: the command lines of all processes; `supervise`: the command that starts yaim
    without systemd."""
    if isinstance(units, str):
        yield not_looked_at(SERVICES, units)
        return
    known = installed(units)
    if any(each.startswith("yaim: supervisor") for each in titles):
        yield ok(SERVICES, "a supervisor runs")
        if any(units[each].get("ActiveState") == "active" for each in known):
            remedy = "stop one of the two: systemctl disable --now yaim, or the supervisor"
            yield problem(SERVICES, "and so do systemd's units", remedy)
    elif not known:
        if any(each.startswith("yaim: coordinator") for each in titles):
            yield ok(SERVICES, "a coordinator runs")
        else:
            yield warning(
                SERVICES, "yaim is not running, and systemd has no units of it", supervise
            )
    else:
        for unit in known:
            yield from _look_at_unit(unit, units[unit])


def _look_at_unit(unit: str, told: Mapping[str, str]) -> Iterator[Finding]:
    active, log = told.get("ActiveState", ""), f"journalctl -u {unit} -n 50"
    if active == "failed":
        what = f"{unit} has failed ({told.get('Result', '')})"
        yield problem(SERVICES, what, f"{log}; then systemctl restart {unit}")
    elif active == "activating" and told.get("NRestarts", "0") not in ("", "0"):
        what = f"{unit} ends again and again before it is ready ({told['NRestarts']} restarts)"
        yield problem(SERVICES, what, log)
    elif unit == "yaim-helper.service":
        # Its socket starts it.
        if active in ("active", "activating"):
            yield ok(SERVICES, f"{unit} is {active}")
    elif active not in ("active", "activating", "reloading"):
        was_tried = told.get("ConditionTimestampMonotonic", "0") not in ("", "0")
        if was_tried and told.get("ConditionResult") == "no":
            what = f"{unit} was not started: a condition of it is not met"
            yield problem(SERVICES, what, f"systemctl status {unit} names it")
        elif not was_tried:
            # As it is after a first set-up, or before the host has come up.
            yield warning(SERVICES, f"{unit} has not been started yet", f"systemctl start {unit}")
        else:
            yield problem(SERVICES, f"{unit} is {active}", f"systemctl start {unit}")
    else:
        yield ok(SERVICES, f"{unit} is {active}")
    is_enabled = told.get("UnitFileState") in _ENABLED
    if not is_enabled and unit != "yaim-helper.service":
        what = f"{unit} is {told.get('UnitFileState')}: it does not start with the host"
        yield warning(SERVICES, what, f"systemctl enable {unit}")


def titles_of(root: Path) -> tuple[str, ...]:
    """The command lines of all processes, as ps shows them."""
    found = []
    for directory in (root / "proc").glob("[0-9]*"):
        try:
            raw = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        found.append(raw.replace(b"\0", b" ").decode(errors="replace").strip())
    return tuple(found)
