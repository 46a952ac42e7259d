"""Servers that the tests of several checks use."""

from collections.abc import Iterator

import pytest

from tests.checks.postgres_server import Installation, Server, installed, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Installation]:
    """Makes PostgreSQL servers."""
    with installed() as installation:
        yield installation


@pytest.fixture(scope="session")
def primary(postgres: Installation) -> Iterator[Server]:
    """A server that runs; tests leave it as it was."""
    with running(postgres.new()) as server:
        yield server


@pytest.fixture(scope="session")
def standby(postgres: Installation, primary: Server) -> Iterator[Server]:
    """A standby of `primary`; tests leave it as it was."""
    with running(postgres.new_standby(primary)) as server:
        yield server
