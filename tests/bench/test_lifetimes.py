"""The benchmark of the kernel's lifetimes always has one to measure, and does not wait in vain."""

from ipaddress import ip_address

import pytest
from yaim_helper.kernel.addresses import Kernel

from bench.lifetimes import MOMENTS, TTLS_S, left_and_lifetime, put
from yaim.lab.namespaces import LabError, Namespace


@pytest.mark.parametrize("ttl_s", TTLS_S)
def test_no_lifetime_that_is_measured_is_rounded_to_none(ttl_s: int) -> None:
    """It holds at whatever time since the boot."""
    for number in range(20_000):
        now = number * 37.123456789
        assert [left_and_lifetime(now, ttl_s, each)[1] >= 1 for each in MOMENTS] == [True, True]


def test_what_the_kernel_does_not_take_ends_the_benchmark() -> None:
    namespace = Namespace.new()
    try:
        namespace.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        with (
            namespace.entered(),
            pytest.raises(LabError, match=r"does not take 192\.0\.2\.11 for 0 s"),
        ):
            put(Kernel(), [ip_address("192.0.2.11")], 0)
    finally:
        namespace.close()
