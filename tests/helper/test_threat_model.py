"""The threat model names tests; they are there."""

import re
from pathlib import Path

import pytest

HELPER = Path(__file__).parents[2] / "helper"
MODEL = (HELPER / "README.md").read_text()
TESTS = {
    name
    for file in Path(__file__).parents[1].rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", MODEL))))
def test_a_test_that_the_threat_model_names_is_there(name: str) -> None:
    assert name in TESTS


def test_every_point_of_the_threat_model_names_a_test() -> None:
    rows = [line for line in MODEL.splitlines() if line.startswith("| ")]
    points = [row for row in rows if row.count("|") == 4 and "shown by" not in row]
    assert len(points) > 10
    assert [row for row in points if "`test_" not in row] == []


def test_every_file_of_the_helper_is_in_the_threat_model_and_no_other() -> None:
    """What a security team reads it finds there."""
    package = HELPER / "yaim_helper"
    named = re.findall(r"`([\w/]+\.py)`", MODEL)
    files = {str(file.relative_to(package)) for file in package.rglob("*.py")}
    assert {each for each in files if not each.endswith("__init__.py")} == set(named)
    assert len(named) == len(set(named))
