"""What the lab types to set etcd up is what the documentation says."""

from pathlib import Path

import pytest

from yaim.dcs.etcd.keys import Keys
from yaim.lab.etcd import ACCOUNTS, CHANGE_PASSWORD
from yaim.lab.plan import CLUSTER, NAMESPACE

DOCUMENT = (Path(__file__).parents[2] / "docs" / "etcd.md").read_text()


@pytest.mark.parametrize("commands", [ACCOUNTS, CHANGE_PASSWORD])
def test_the_documentation_gives_the_commands_that_the_lab_runs(commands: str) -> None:
    assert "".join(f"    {line}\n" for line in commands.splitlines()) in DOCUMENT


def test_the_role_is_for_the_keys_of_the_labs_cluster() -> None:
    assert f" readwrite {Keys.of(NAMESPACE, CLUSTER).prefix}\n" in ACCOUNTS
