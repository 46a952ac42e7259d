"""What replies tell of the helper's own files, without a helper."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from yaim_helper.policy.rules import Policy
from yaim_helper.record.log import AuditLog
from yaim_helper.record.recorder import Recorder
from yaim_helper.serve.looks import LOOK_EVERY_S, MAX_REASON, Looks

WITHIN_S = 20.0


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(AuditLog(tmp_path / "audit", "0" * 64), "0" * 64)
    yield recorder
    recorder.close()


def policy_of(file: Path) -> Policy:
    file.write_text("users: []\nrules: []\n")
    digest = sha256(file.read_bytes()).hexdigest()
    return Policy((), (), 64, 1000, file.parent / "audit", digest, file)


def found(looks: Looks, policy: Policy, recorder: Recorder, now: float) -> dict[str, str]:
    """What is told when the look that this brings about is done."""
    looks.found(policy, now)
    assert recorder.drain(WITHIN_S)
    return looks.found(policy, now)


def test_a_file_that_was_changed_is_told_with_the_next_look(
    recorder: Recorder, tmp_path: Path
) -> None:
    file = tmp_path / "helper.yml"
    policy, looks = policy_of(file), Looks(recorder)
    assert found(looks, policy, recorder, 0.0) == {}
    file.write_text("users: [0]\nrules: []\n")
    assert found(looks, policy, recorder, LOOK_EVERY_S - 0.1) == {}, "nobody looks so soon again"
    assert found(looks, policy, recorder, LOOK_EVERY_S) == {
        "rules_differ": f"{file} was changed and not read again: systemctl reload yaim-helper"
    }
    file.write_text("users: []\nrules: []\n")
    assert found(looks, policy, recorder, 2 * LOOK_EVERY_S) == {}


def test_a_file_that_could_not_be_used_is_told_as_such_until_it_is_read_again(
    recorder: Recorder, tmp_path: Path
) -> None:
    file = tmp_path / "helper.yml"
    policy, looks = policy_of(file), Looks(recorder)
    file.write_text("nonsense")
    looks.look(policy, 0.0, is_refused=True)
    for now in (0.0, LOOK_EVERY_S, 2 * LOOK_EVERY_S):
        told = found(looks, policy, recorder, now)["rules_differ"]
        assert told.startswith(f"{file} could not be used when it was read again: correct it")
    looks.look(policy_of(file), 2 * LOOK_EVERY_S)
    assert found(looks, policy, recorder, 2 * LOOK_EVERY_S) == {}


def test_a_file_that_is_none_delays_nobody(recorder: Recorder, tmp_path: Path) -> None:
    """A pipe that nobody writes, say: its opening would not end."""
    file = tmp_path / "helper.yml"
    policy, looks = policy_of(file), Looks(recorder)
    file.unlink()
    file.mkdir()
    assert found(looks, policy, recorder, 0.0) == {"rules_differ": f"{file}: is not a file"}


def test_no_look_is_begun_while_one_waits_for_its_disk() -> None:
    class Hanging:
        looks = 0

        def look(self, _: object) -> None:
            self.looks += 1

        def why_not(self, _: float) -> str:
            return "x" * 1000

    hanging = Hanging()
    looks = Looks(hanging)  # type: ignore[arg-type]
    policy = Policy((), (), 64, 1000, Path("/audit"), "", Path("/helper.yml"))
    for now in range(0, 100, 5):
        told = looks.found(policy, float(now))
    assert (hanging.looks, told) == (1, {"record": "x" * MAX_REASON})
