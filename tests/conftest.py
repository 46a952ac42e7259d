"""All tests run in a network namespace of their own: nothing they do reaches the host's network,
and nothing of it is left when they end, however they end."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.certificates import Certificates, make_certificates
from yaim.lab.namespaces import enter_private_network

enter_private_network()
# No test fails because the machine is slow.
settings.register_profile("yaim", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("yaim")


def pytest_report_header() -> str:
    """With what the tests run."""
    libraries = ("etcd3", "grpcio", "protobuf", "pyroute2", "psycopg", "hypothesis")
    etcd = subprocess.run(("etcd", "--version"), capture_output=True, text=True).stdout
    told = [f"Python {platform.python_version()}", *map(_with_version, libraries)]
    return (
        f"set: {', '.join(told)}, etcd {etcd.partition('etcd Version: ')[2].partition(chr(10))[0]}"
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Why a test had to be tried again: by default only that it had is told."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"tried again: {report.nodeid}")
        terminalreporter.line(report.longreprtext)


def _with_version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"{library} unknown"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
