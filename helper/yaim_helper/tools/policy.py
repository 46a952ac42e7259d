"""yaim-helper policy: whether an allowlist can be used, and what it allows. Needs no privileges,
changes nothing."""

import argparse
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from yaim_helper.held.host import Host, primary
from yaim_helper.kernel.addresses import Kernel, KernelError
from yaim_helper.policy.read import read_draft, read_policy
from yaim_helper.policy.rules import Policy, PolicyError, never, shown_fence
from yaim_helper.protocol import INTERFACE, Address
from yaim_helper.tools.output import output

FINE, REFUSED, EX_IOERR, EX_CONFIG = 0, 1, 74, 78
_CONNECTIONS = {
    True: "its TCP connections may be reset when it goes",
    False: "its TCP connections are never reset (reset-connections: false)",
}
_DEFAULT = Path("/etc/yaim/helper.yml")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="yaim-helper policy")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="all that is wrong in an allowlist",
        description="Tells all that is wrong in an allowlist. Exit status: 0 it can be used (there"
        " may be warnings), 78 it cannot.",
    )
    check.add_argument("file", type=Path, nargs="?", default=_DEFAULT, help="default: %(default)s")
    explain = commands.add_parser(
        "explain",
        help="whether the helper would add an address, and why",
        description="Tells whether the helper would put an address on an interface of this host,"
        " and why. Exit status: 0 it would, 1 it would not, 78 the allowlist cannot be used.",
    )
    explain.add_argument("address", type=_address)
    explain.add_argument("interface", type=_interface)
    explain.add_argument("--prefix", type=_prefix, help="prefix length; default: 32, IPv6: 128")
    explain.add_argument(
        "--config", dest="file", type=Path, default=_DEFAULT, help="default: %(default)s"
    )
    for each in (check, explain):
        each.add_argument(
            "--draft", action="store_true", help="do not mind who else can change the file"
        )
    return parser


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    status = EX_CONFIG
    try:
        with output():
            status = _run(options)
    except OSError as error:
        print(f"yaim-helper: cannot write: {error.strerror}", file=sys.stderr)  # noqa: T201
        return EX_IOERR
    return status


def _run(options: argparse.Namespace) -> int:
    try:
        policy = read_draft(options.file) if options.draft else read_policy(options.file)
    except PolicyError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EX_CONFIG
    if options.command == "check":
        return _tell_check(policy)
    prefix = options.address.max_prefixlen if options.prefix is None else options.prefix
    return _explain(policy, options.interface, options.address, prefix)


def _address(text: str) -> Address:
    """Returns an address, or raises what argparse wants."""
    try:
        address = ip_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address like 192.0.2.10; a prefix length is given with --prefix"
        ) from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise argparse.ArgumentTypeError(f"{text!r} has a scope: give the interface on its own")
    return address


def _interface(text: str) -> str:
    if INTERFACE.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be the name of an interface")
    return text


def _prefix(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:4]) <= 128):
        raise argparse.ArgumentTypeError(f"{text!r} is not a prefix length")
    return int(text)


def _tell_check(policy: Policy) -> int:
    for warning in policy.warnings:
        print(warning, file=sys.stderr)  # noqa: T201
    print(f"{policy.path}: can be used")  # noqa: T201
    print(f"fence: {shown_fence(policy)}")  # noqa: T201
    return FINE


def _explain(policy: Policy, interface: str, address: Address, prefix: int) -> int:
    allowing = [rule for rule in policy.rules if rule.allows(interface, address, prefix)]
    reasons = list(_objections_of_host(policy, interface, address))
    if allowing:
        reasons += _obstacles(interface, address, prefix)
    what = f"{address}/{prefix} on {interface}"
    if allowing:
        rule = allowing[0]
        print(f"{what}: allowed by rule {rule.number} ({policy.path}:{rule.line})")  # noqa: T201
        may_be_reset = policy.resets(interface, address, prefix)
        print(f"{what}: {_CONNECTIONS[may_be_reset]}")  # noqa: T201
    else:
        print(f"{what}: not allowed")  # noqa: T201
        reasons = [*_objections_of_rules(policy, interface, address, prefix), *reasons]
    for reason in reasons:
        print(f"  {reason}")  # noqa: T201
    return FINE if allowing and not reasons else REFUSED


def _objections_of_rules(
    policy: Policy, interface: str, address: Address, prefix: int
) -> Iterator[str]:
    """Returns why the rules that come nearest do not allow the address: those with a network around
    it first, and of these the ones with the fewest reasons."""
    if why := never(address, interface):
        yield why
        return
    if not policy.rules:
        yield f"{policy.path}: there are no rules"
    around = [rule for rule in policy.rules if any(address in each for each in rule.networks)]
    found = [
        (rule, list(rule.objections(interface, address, prefix))) for rule in around or policy.rules
    ]
    fewest = min((len(reasons) for _, reasons in found), default=0)
    for rule, reasons in found:
        if len(reasons) == fewest:
            yield f"rule {rule.number} ({policy.path}:{rule.line}): {'; '.join(reasons)}"


def _obstacles(interface: str, address: Address, prefix: int) -> Iterator[str]:
    """Returns what is in the way on this host of an address that a rule allows."""
    try:
        kernel = Kernel()
        found = kernel.interface(interface)
        if not found.is_up:
            yield f"{interface} is down"
        if Host(kernel, ()).would_take_others_along(address, prefix, found):
            yield primary(address, prefix, interface)
    except KernelError as error:
        yield f"{error}, on this host"


def _objections_of_host(policy: Policy, interface: str, address: Address) -> Iterator[str]:
    """Returns what is against the address on this host as it is now; what cannot be found out is
    left out."""
    try:
        kernel = Kernel()
        host = Host(kernel, {address})
        for place in host.places(address):
            name = socket.if_indextoname(place.index)
            where = f"{address}/{place.prefix} on {name}"
            if place.is_like_ours and any(
                rule.allows(name, address, place.prefix) for rule in policy.rules
            ):
                text = "it is there now, because of the helper unless the host gives such lifetimes"
                print(f"{where}: {text}")  # noqa: T201
            else:
                yield f"{where}: it is on this host already, and not because of the helper"
        if objection := host.objection(address, kernel.interface(interface).index):
            yield objection
    except (OSError, KernelError):
        # What there is to say of that, who wants to know is told by _obstacles.
        return
