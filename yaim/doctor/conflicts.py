"""Other programs on this host that have to do with the same addresses or interface. They are
pointed out, never changed."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from yaim.core.model import Address
from yaim.doctor.finding import Finding, ok, problem, warning
from yaim.doctor.foreign_files import (
    VrrpInstance,
    interfaces_text,
    keepalived_text,
    network_texts,
    read_interfaces,
    read_keepalived,
    read_network,
    read_state,
)

KEEPALIVED, OTHERS, NETWORK = "keepalived", "other managers", "network set-up"
_OTHERS = ("vip-manager", "ucarp", "pacemakerd")
ENABLED_AT = "etc/systemd/system/multi-user.target.wants/keepalived.service"


def _is_running(program: str, titles: Sequence[str]) -> bool:
    return any(PurePath(title.partition(" ")[0]).name == program for title in titles)


def look_at_keepalived(
    root: Path, interface: str, pool: Sequence[Address] | None, titles: Sequence[str]
) -> Iterator[Finding]:
    """Whether keepalived has the pool's addresses. `pool`: None where it is not known."""
    is_running = _is_running("keepalived", titles)
    state = "runs" if is_running else "is enabled"
    is_used = is_running or (root / ENABLED_AT).is_symlink()
    try:
        instances = read_keepalived(keepalived_text(root))
    except OSError as error:
        if is_used:
            what = f"keepalived {state}; its configuration cannot be read ({error.strerror})"
            yield warning(KEEPALIVED, what, "see that it has none of the pool's addresses")
        else:
            yield ok(KEEPALIVED, "is not set up here")
        return
    if pool is None:
        yield from _look_at_all_of_keepalived(instances, state if is_used else "is not in use")
        return
    has_pool = False
    for instance in instances:
        shared = [str(each) for each, _ in instance.addresses if each in pool]
        if shared:
            has_pool = True
            what = f"vrrp_instance {instance.name} has addresses of the pool: {', '.join(shared)}"
            remedy = "take them out of keepalived.conf on all nodes; systemctl reload keepalived"
            if is_used:
                yield problem(KEEPALIVED, f"{what}, and keepalived {state}", remedy)
            else:
                yield warning(KEEPALIVED, f"{what}; keepalived is not in use", remedy)
        elif interface in (instance.interface, *(dev for _, dev in instance.addresses)) and is_used:
            what = f"vrrp_instance {instance.name} is on {interface}, too, with other addresses"
            yield warning(KEEPALIVED, what, "nothing, if those stay its own")
    if not has_pool:
        yield ok(
            KEEPALIVED, f"{state if is_used else 'is not in use'}, without the pool's addresses"
        )


def _look_at_all_of_keepalived(instances: Sequence[VrrpInstance], state: str) -> Iterator[Finding]:
    """Which addresses keepalived has, where the pool is not known."""
    addresses = [str(address) for each in instances for address, _ in each.addresses]
    if not addresses:
        yield ok(KEEPALIVED, f"{state}, with no addresses in keepalived.conf")
        return
    what = f"keepalived.conf has {', '.join(addresses)}; it {state}; the pool is not known"
    yield warning(KEEPALIVED, what, "see that none of them is in the pool")


def look_at_others(titles: Sequence[str]) -> Iterator[Finding]:
    found = [each for each in _OTHERS if _is_running(each, titles)]
    for each in found:
        remedy = f"see that it has none of the pool's addresses, or: systemctl disable --now {each}"
        yield warning(OTHERS, f"{each} runs, which puts addresses on interfaces, too", remedy)
    if not found:
        yield ok(OTHERS, f"none of {', '.join(_OTHERS)} runs")


def look_at_network(
    root: Path, interface: str, index: int, pool: Sequence[Address], titles: Sequence[str]
) -> Iterator[Finding]:
    """Who manages the interface: networkd, NetworkManager, ifupdown."""
    found = [
        *_look_at_networkd(root, interface, index, pool),
        *_look_at_network_manager(root, interface, index, titles),
        *_look_at_ifupdown(root, pool),
    ]
    yield from found or [ok(NETWORK, f"nothing that manages {interface} is in yaim's way")]


def _look_at_networkd(
    root: Path, interface: str, index: int, pool: Sequence[Address]
) -> Iterator[Finding]:
    """When it configures the link (its start, `networkctl reload`, a changed file) networkd drops
    addresses that are not its own, unless it is told to keep them (KeepConfiguration= in
    systemd.network(5))."""
    try:
        state = read_state((root / "run/systemd/netif/links" / str(index)).read_text())
        file = Path(state["NETWORK_FILE"])
    except (OSError, KeyError):
        return
    if state.get("ADMIN_STATE") == "unmanaged":
        return
    drop_in = f"/etc/systemd/network/{file.name}.d/yaim.conf"
    remedy = (
        f"mkdir -p {Path(drop_in).parent} && printf '[Network]\\nKeepConfiguration=yes\\n' >"
        f" {drop_in} && networkctl reload"
    )
    try:
        network = read_network(network_texts(root, file))
    except OSError as error:
        what = f"systemd-networkd manages {interface}; {file} cannot be read ({error.strerror})"
        yield warning(NETWORK, what, f"unless KeepConfiguration=yes is there: {remedy}")
        return
    shared = sorted(str(each) for each in network.addresses & set(pool))
    if shared:
        what = f"{file} puts {', '.join(shared)} of the pool on {interface} for good"
        yield problem(NETWORK, what, "take it out there, then networkctl reload")
    if network.keeps_ours:
        yield ok(NETWORK, f"systemd-networkd lets addresses be on {interface} ({network.keeps})")
        return
    why = f"KeepConfiguration={network.keeps}"
    if network.keeps == "static":
        why += " is for addresses without a lifetime, and yaim's have one"
    what = f"systemd-networkd drops yaim's addresses when it configures {interface} anew ({why})"
    yield warning(NETWORK, what, remedy)


def _look_at_network_manager(
    root: Path, interface: str, index: int, titles: Sequence[str]
) -> Iterator[Finding]:
    try:
        device = read_state((root / "run/NetworkManager/devices" / str(index)).read_text())
    except OSError:
        return
    if device.get("managed") == "true" and _is_running("NetworkManager", titles):
        what = (
            f"NetworkManager manages {interface}: it may drop addresses when it brings it up anew"
        )
        remedy = (
            f"configure {interface} with ifupdown or systemd-networkd, or leave it so: what is"
            " dropped comes back at once"
        )
        yield warning(NETWORK, what, remedy)


def _look_at_ifupdown(root: Path, pool: Sequence[Address]) -> Iterator[Finding]:
    try:
        addresses = read_interfaces(interfaces_text(root))
    except OSError:
        return
    shared = sorted(str(each) for each in addresses & set(pool))
    if shared:
        what = f"/etc/network/interfaces puts {', '.join(shared)} of the pool here for good"
        yield problem(NETWORK, what, "take it out there, or in what it sources")
