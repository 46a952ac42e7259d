"""What an older node answers, this code has to answer, too, as long as such a node may be alive."""

from collections import defaultdict
from dataclasses import replace

import pytest

from tests.core.golden_placements import FILE, clusters, line, of_version
from yaim.core.model import Control, Weight
from yaim.core.placement import place

LINES = FILE.read_text().splitlines()
VERSIONS = sorted({int(each.split()[1]) for each in LINES})


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_answers_as_it_did_when_it_was_released(version: int) -> None:
    known = defaultdict(list)
    for each in LINES:
        known[int(each.split()[1])].append(each)
    assert [line(name, seen, version) for name, seen in clusters()] == known[version]


def test_where_nothing_is_asked_for_version_4_makes_the_very_choices_of_version_3() -> None:
    """So an upgrade moves nothing. Equal weights are none, and a capacity that is not reached."""
    for name, seen in clusters():
        pool = {a: replace(entry, prefer=frozenset()) for a, entry in seen.pool.items()}
        before = of_version(replace(seen, pool=pool), 3)
        expected = place(pool, before.nodes, before.marks)
        nodes = {
            node_name: replace(
                node, advertisement=replace(node.advertisement, capacity=len(pool), placement=4)
            )
            for node_name, node in seen.nodes.items()
        }
        sevens = Control(weights={node_name: Weight(7) for node_name in nodes})
        assert place(pool, nodes, seen.marks) == expected, name
        assert place(pool, nodes, seen.marks, sevens) == expected, name
