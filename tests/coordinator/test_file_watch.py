"""Whether yaim.yml still says what runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.config.samples import BASE, file_in, lines
from yaim.config.config import Config
from yaim.config.file import ConfigError, Issue
from yaim.config.load import load
from yaim.coordinator.file_watch import FileWatch
from yaim.core.events import ProblemsObserved

pytestmark = pytest.mark.quick


class Node:
    """A coordinator's view of its file: it was read at the start, and SIGHUP reads it again."""

    def __init__(self, directory: Path) -> None:
        self.file = file_in(directory, lines(BASE))
        self.running = self.load()
        self.watch = FileWatch(self.file, self.running, self.load)

    def load(self) -> Config:
        return load({}, {}, self.file, is_draft=True)

    def write(self, **keys: str) -> None:
        more = {name.replace("_", "-"): value for name, value in keys.items()}
        file_in(self.file.parent, lines(BASE | more))

    def reload(self, *kept: str) -> None:
        new = self.load()
        self.watch.note_read(new)
        self.running = new.keeping(kept, self.running)
        self.watch.note_running(self.running)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def told(*problems: str) -> ProblemsObserved:
    return ProblemsObserved("files", problems)


def test_a_file_that_says_what_runs_is_no_problem(node: Node) -> None:
    assert node.watch.look() is None


def test_a_file_that_was_changed_is_told_once_with_its_keys_and_what_makes_them_count(
    node: Node,
) -> None:
    node.write(interval="500", netmask="24", ttl="9000")
    assert node.watch.look() == told(
        f"{node.file} differs from what runs in interval, timeout, netmask: systemctl reload yaim",
        f"{node.file} differs from what runs in ttl: systemctl stop yaim; systemctl start yaim",
    )
    assert node.watch.look() is None


def test_a_check_that_is_another_is_named(node: Node) -> None:
    node.write(checker_type="[http, patroni]", http_url="http://127.0.0.1/")
    keys = "checker-type, check http, check patroni"
    expected = f"{node.file} differs from what runs in {keys}: systemctl reload yaim"
    assert node.watch.look() == told(expected)


def test_a_file_that_was_written_anew_and_says_the_same_is_no_problem(node: Node) -> None:
    node.write(interval="1000")
    assert node.watch.look() is None


def test_a_reload_ends_it(node: Node) -> None:
    node.write(interval="500")
    assert node.watch.look() is not None
    node.reload()
    assert node.watch.look() == told()


def test_a_key_that_a_reload_does_not_apply_stays_told(node: Node) -> None:
    node.write(dcs_clustername="other")
    node.reload("dcs-clustername")
    expected = f"{node.file} differs from what runs in dcs-clustername: systemctl restart yaim"
    assert node.watch.look() == told(expected)


def test_a_file_that_has_become_wrong_is_told(node: Node) -> None:
    node.write(ttl="soon")
    wrong = f"{node.file}:5: ttl: got 'soon', expected a whole number from 3000 to 3600000"
    assert node.watch.look() == told(f"{node.file} has become wrong: {wrong}")
    node.write()
    assert node.watch.look() == told()


def test_a_file_that_has_gone_is_told(node: Node) -> None:
    node.file.unlink()
    assert node.watch.look() == told(f"{node.file} is not there any more")


def test_of_a_file_that_it_may_not_read_it_tells_that_it_has_changed(tmp_path: Path) -> None:
    """As with the package: it is root's, and systemd hands over a copy."""

    def denied() -> Config:
        raise ConfigError([Issue("yaim.yml", "the file", "", "to be root", is_denied=True)])

    file = file_in(tmp_path, lines(BASE))
    running = load({}, {}, file, is_draft=True)
    watch = FileWatch(file, running, denied)
    assert watch.look() is None
    file_in(tmp_path, lines(BASE | {"interval": "500"}))
    expected = told(f"{file} has changed since it was read: systemctl reload yaim")
    assert (watch.look(), watch.look()) == (expected, None)
    watch.note_read(replace(running, interval=500))
    watch.note_running(replace(running, interval=500))
    assert watch.look() == told()
