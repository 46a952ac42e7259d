"""What a restart cannot carry over."""

import pytest

from tests.config.samples import BASE
from yaim.config.load import load
from yaim.wiring import lost_by_restart

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("key", "value", "lost"),
    [
        ("nodename", "other", ["nodename"]),
        ("helper-socket", "/run/other.sock", ["helper-socket"]),
        ("dcs-clustername", "other", ["dcs-clustername"]),
        ("dcs-namespace", "other", ["dcs-namespace"]),
        ("dcs-namespace", "service", []),
        ("ttl", "9000", []),
        ("interface", "eth9", []),
    ],
)
def test_what_a_restart_cannot_carry_over(key: str, value: str, lost: list[str]) -> None:
    assert lost_by_restart(load(BASE, {}, None), load({**BASE, key: value}, {}, None)) == lost
