"""A helper that is started where it cannot serve."""

import socket
from pathlib import Path

import pytest

from tests.helper.process import ANSWER_WITHIN_S, started
from yaim.lab.namespaces import Namespace

pytestmark = pytest.mark.every_set


def refusal(namespace: Namespace, directory: Path) -> str:
    """What a helper says that does not start."""
    with started(namespace, directory) as helper:
        assert helper.process.wait(ANSWER_WITHIN_S) == 1
        return helper.log.read_text()


def test_a_file_where_the_socket_should_be_stays(network: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "helper.sock"
    path.write_text("mine")
    assert refusal(network, tmp_path) == (
        f"yaim-helper: --socket {path}: is there already, and is not a socket: move it away\n"
    )
    assert path.read_text() == "mine"


def test_a_socket_where_somebody_listens_stays(network: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "helper.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(path))
        other.listen()
        assert refusal(network, tmp_path) == (
            f"yaim-helper: --socket {path}: somebody listens there already\n"
        )
    assert path.is_socket()
