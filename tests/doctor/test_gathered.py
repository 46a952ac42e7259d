"""Findings that differ by their address only are told as one."""

from ipaddress import ip_address

import pytest

from yaim.config.load import load
from yaim.doctor.finding import Finding, gathered, ok, problem, warning
from yaim.doctor.run import look_at_targets

POOL = [f"192.0.2.{number}" for number in range(11, 63)]
BASE = {"dcs-clustername": "pg", "interface": "lo"}


def refused(address: str, why: str = "not allowed on eth0") -> Finding:
    return problem("allowed here", f"{address}: {why}", f"explain {address} eth0")


def test_a_pool_of_52_is_one_finding_and_not_208_lines() -> None:
    others = [ok("etcd", "answers"), warning("nodes", "n1 takes no part", "start yaim")]
    (found, *rest) = gathered([*map(refused, POOL), *others])
    assert rest == others
    assert found == problem(
        "allowed here",
        "52 addresses (192.0.2.11, 192.0.2.12, 192.0.2.13, 192.0.2.14, ...): 192.0.2.11: not"
        " allowed on eth0",
        "for each of them: explain 192.0.2.11 eth0",
    )


def test_a_few_stay_as_they_are_and_so_do_those_for_another_reason() -> None:
    several = [refused("192.0.2.11"), refused("2001:db8::1"), refused("192.0.2.13")]
    several.append(refused("192.0.2.14", "its interface is down"))
    assert gathered(several) == several


def test_ipv6_addresses_are_alike_too() -> None:
    (found,) = gathered([refused(f"2001:db8::{number:x}") for number in range(4)])
    assert found.text.startswith("4 addresses (2001:db8::0, 2001:db8::1, 2001:db8::2, 2001:db8::3)")


def test_a_text_without_an_address_is_never_gathered() -> None:
    same = [ok("users", "yaim: 10:30 is no address")] * 5
    assert gathered(same) == same


@pytest.mark.parametrize("host", ["192.0.2.11", "127.0.0.1", "no-such-host.invalid"])
def test_a_check_that_asks_an_address_of_the_pool_is_a_problem(host: str) -> None:
    """Then a node is as healthy as the one that holds the address."""
    flags = {**BASE, "checker-type": "tcp", "tcp-address": f"{host}:5432"}
    pool = [ip_address(each) for each in POOL]
    expected = problem(
        "checks",
        "tcp asks 192.0.2.11, an address of the pool: its holder answers",
        "let it ask this host's own service: 127.0.0.1, ::1, a socket",
    )
    assert list(look_at_targets(load(flags, {}, None), pool)) == [expected] * (host in POOL)
