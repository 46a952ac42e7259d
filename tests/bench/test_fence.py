"""The benchmark of the fence measures what it says: packets come through, an end is found."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from yaim_helper.kernel.fence import Fence

from bench import packets
from bench.fence import BOUNDS, Figures, measure_end, report
from bench.packets import BEHIND, HELD, HOST, TABLE, Site
from yaim.host.boottime import boottime
from yaim.lab.namespaces import LabError


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(packets, "BURST_S", 0.02)
    with ExitStack() as stack:
        yield Site(stack)


@pytest.mark.parametrize("version", [4, 6])
def test_packets_come_through_and_are_counted(site: Site, version: int) -> None:
    site.hold(1)
    for target in (BEHIND[version], HOST[version], HELD[version]):
        assert site.bare(target) > 0
    assert site.tcp(HELD[version]) > 0


@pytest.mark.parametrize("version", [4, 6])
def test_packets_that_the_fence_drops_end_the_benchmark(site: Site, version: int) -> None:
    """But for a few that the host hears from its neighbours."""
    held = site.hold(1)
    fence = Fence(site.ruleset, TABLE)
    fence.make(held, ())
    with pytest.raises(LabError, match=r"packets \d came through"):
        site.bare(HELD[version])
    assert site.bare(HOST[version]) > 0
    fence.admit(held, boottime() + 60.0)
    assert site.bare(HELD[version]) > 0


def test_the_last_answer_comes_about_when_the_fence_ends() -> None:
    figures: Figures = defaultdict(list)
    measure_end(figures)
    assert len(figures) == 6
    # Sooner if this process got no processor just then.
    assert all(-80.0 < late_ms < 80.0 for (late_ms,) in figures.values())


def test_a_median_beyond_its_bound_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    name = next(name for name, (_, bound) in BOUNDS.items() if bound == 2.0)
    assert report({name: [1.0, 1.9, 9.0]}, BOUNDS)
    assert not report({name: [1.0, 2.1, 9.0]}, BOUNDS)
    assert capsys.readouterr().out.count("MISSED") == 1
