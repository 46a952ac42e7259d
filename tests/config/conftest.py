"""What all tests of the configuration have."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def no_yaim_yml_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the current directory would be read where no file is named."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
