"""Who can change what is at a path. The helper and the rest of yaim share no code and say the same:
all is asked of both."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaim_helper.ownership

import yaim.host.ownership

NOBODY = 65534
BOTH = pytest.mark.parametrize(
    "ownership", [yaim.host.ownership, yaim_helper.ownership], ids=lambda each: each.__name__
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Root's, in a directory of root's."""
    directory = tmp_path / "directory"
    directory.mkdir(mode=0o755)
    made = directory / "file"
    made.write_text("root's")
    return made


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@BOTH
def test_what_is_roots_nobody_else_can_change(ownership: ModuleType, file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to("file")
    for path in (file, link, file.parent, Path("/"), file.parent / ".." / "directory" / "file"):
        assert ownership.what_others_can_change(path) is None


@BOTH
@pytest.mark.parametrize("which", ["file", "directory"])
def test_what_belongs_to_another_is_named(ownership: ModuleType, file: Path, which: str) -> None:
    theirs = {"file": file, "directory": file.parent}[which]
    os.chown(theirs, NOBODY, -1)
    told = f"{theirs}: belongs to uid {NOBODY}, expected root (chown root)"
    assert ownership.what_others_can_change(file) == told


@BOTH
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_what_others_can_write_is_named(ownership: ModuleType, file: Path, mode: int) -> None:
    for each in (file, file.parent):
        each.chmod(mode)
        told = f"{each}: can be written by others than root (mode {mode:04o}); use chmod go-w"
        assert ownership.what_others_can_change(file) == told


@BOTH
def test_in_a_sticky_directory_each_can_change_his_own(ownership: ModuleType, file: Path) -> None:
    file.parent.chmod(0o1777)
    link = file.with_name("link")
    link.symlink_to(file)
    assert ownership.what_others_can_change(link) is None
    os.chown(link, NOBODY, -1, follow_symlinks=False)
    told = f"{link}: belongs to uid {NOBODY}, expected root (chown -h root)"
    assert ownership.what_others_can_change(link) == told


@BOTH
def test_whose_a_link_is_does_not_matter_where_nobody_else_can_put_another(
    ownership: ModuleType, file: Path
) -> None:
    """tar and rsync leave links like that."""
    link = file.with_name("link")
    link.symlink_to(file)
    os.chown(link, NOBODY, -1, follow_symlinks=False)
    assert ownership.what_others_can_change(link) is None


@BOTH
def test_a_group_may_write_a_directory_where_that_is_allowed(
    ownership: ModuleType, file: Path
) -> None:
    def fault(path: Path) -> str | None:
        found: str | None = ownership.what_others_can_change(path, may_be_groups=True)
        return found

    link = file.parent.with_name("link")
    link.symlink_to(file.parent)
    for mode, is_fault in ((0o775, False), (0o777, True), (0o757, True)):
        file.parent.chmod(mode)
        assert [fault(each) is not None for each in (file.parent, link)] == [is_fault] * 2
    file.parent.chmod(0o775)
    assert fault(file) is not None
    file.parent.chmod(0o755)
    file.chmod(0o664)
    assert fault(file) is not None


@BOTH
@pytest.mark.parametrize("how", ["absolute", "relative"])
def test_a_link_on_the_way_counts_as_its_end_does(
    ownership: ModuleType, file: Path, tmp_path: Path, how: str
) -> None:
    """Neither where it begins nor where it ends is anybody else's, but one of the links between."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "second").symlink_to(file if how == "absolute" else "../directory/file")
    first = tmp_path / "first"
    first.symlink_to("theirs/second")
    assert ownership.what_others_can_change(first) is None
    os.chown(theirs, NOBODY, -1)
    told = f"{theirs}: belongs to uid {NOBODY}, expected root (chown root)"
    assert ownership.what_others_can_change(first) == told


@BOTH
def test_a_descriptor_is_what_it_stands_for(ownership: ModuleType, file: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w"), file.open() as opened:
        for each in (reading, opened.fileno()):
            assert ownership.what_others_can_change(Path(f"/proc/self/fd/{each}")) is None
        os.chown(file, NOBODY, -1)
        at_fd = Path(f"/proc/self/fd/{opened.fileno()}")
        assert f"belongs to uid {NOBODY}" in ownership.what_others_can_change(at_fd)


@BOTH
def test_what_cannot_be_looked_at_is_an_error(ownership: ModuleType, file: Path) -> None:
    file.with_name("circle").symlink_to("circle")
    for name, error in (("none", FileNotFoundError), ("file/x", NotADirectoryError)):
        with pytest.raises(error):
            ownership.what_others_can_change(file.with_name("directory").parent / name)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        ownership.what_others_can_change(file.with_name("circle"))


@BOTH
def test_a_directory_is_made_that_only_root_can_write(
    ownership: ModuleType, tmp_path: Path, no_umask: None
) -> None:
    """Those above it are made, too, whatever the umask."""
    made = tmp_path / "a" / "b" / "c"
    for _ in range(2):
        assert ownership.make_directory(made) is None
    assert [each.stat().st_mode & 0o7777 for each in (made, made.parent)] == [0o755] * 2


@BOTH
def test_nothing_is_made_where_others_can_put_links(ownership: ModuleType, tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, -1)
    told = f"{tmp_path}: belongs to uid {NOBODY}, expected root (chown root)"
    assert ownership.make_directory(tmp_path / "a" / "b") == told
    assert not (tmp_path / "a").exists()
