"""What an older node answers, this code has to answer, too, as long as such a node may be alive."""

from collections import defaultdict

import pytest

from tests.core.golden_placements import FILE, clusters, line

LINES = FILE.read_text().splitlines()
VERSIONS = sorted({int(each.split()[1]) for each in LINES})


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_answers_as_it_did_when_it_was_released(version: int) -> None:
    known = defaultdict(list)
    for each in LINES:
        known[int(each.split()[1])].append(each)
    assert [line(name, seen, version) for name, seen in clusters()] == known[version]
