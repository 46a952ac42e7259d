"""The look-up of host names; with name servers it is tested through its users, in
tests/checks/test_http.py and tests/dcs/etcd/test_diagnose.py."""

import socket
import threading
from typing import Any

import pytest

from yaim.host.name_lookup import look_up


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_is_not_waited_for(address: str) -> None:
    before = look_ups()
    found = look_up(address, 80, 0.0)
    assert [(kind, sockaddr[:2]) for _, kind, _, _, sockaddr in found] == [
        (socket.SOCK_STREAM, (address, 80))
    ]
    assert look_ups() <= before


def look_ups() -> set[threading.Thread]:
    """What other tests have left may start and end threads of its own."""
    return {each for each in threading.enumerate() if each.name == "look-up"}


@pytest.mark.parametrize("name", ["a..b", ".", "x" * 64, "\ud800"])
def test_what_cannot_be_a_name_is_told(name: str) -> None:
    with pytest.raises(OSError, match="it cannot be one"):
        look_up(name, 80, 5.0)


def test_a_resolver_that_does_not_answer_costs_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, real = threading.Event(), socket.getaddrinfo

    def slow(host: str, port: int, *, type: int, flags: int = 0) -> Any:
        if flags:
            return real(host, port, type=type, flags=flags)
        answers.wait(30.0)
        return real("127.0.0.1", port, type=type)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    before = look_ups()
    for _ in range(5):
        with pytest.raises(TimeoutError, match="cannot be looked up in time"):
            look_up("db1.example.org", 80, 0.01)
    assert len(look_ups() - before) == 1
    answers.set()
    assert look_up("db1.example.org", 80, 20.0)[0][4] == ("127.0.0.1", 80)
