"""Where the lab, which is root's, puts its files: others may be there, too."""

import os
import tempfile
from pathlib import Path

import pytest

from yaim.lab import directory
from yaim.lab.namespaces import LabError

NOBODY = 65534


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_lab_is_not_made_where_others_can_exchange_it(temporary: Path) -> None:
    os.chown(temporary, NOBODY, -1)
    told = f"{temporary}: belongs to uid {NOBODY}, expected root"
    with pytest.raises(LabError, match=told):
        directory.new_directory()
    assert list(temporary.iterdir()) == []


def test_nothing_is_swept_that_somebody_else_calls_a_lab(temporary: Path) -> None:
    ours, theirs = temporary / "yaim-lab-1", temporary / "yaim-lab-2"
    for each in (ours, theirs):
        each.mkdir()
        (each / "file").touch()
    os.chown(theirs, NOBODY, -1)
    directory.sweep()
    assert list(temporary.rglob("file")) == [theirs / "file"]
