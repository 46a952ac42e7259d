"""What the documentation shows of a session is what happens: each command is given in a lab."""

from pathlib import Path

import pytest

from tests.system.conftest import Build
from tests.system.transcripts import Stage, alike, steps
from yaim.lab.plan import LabPlan

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [each.name for each in sorted(DOCS.glob("*.md")) if any(steps(each.read_text()))]
assert "steering.md" in PAGES  # otherwise nothing would be tried


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_of_a_session_is_what_happens(page: str, build: Build) -> None:
    stage = Stage(build(LabPlan()))
    for step in steps((DOCS / page).read_text()):
        shown = stage.play(step)
        assert alike(shown) == alike(step.shown), step.command
