"""All tests run in namespaces of their own: nothing on the host decides what they find
(tests/isolation.py), nothing they do reaches it, and nothing of it is left when they end, however
they end. Only root can have that.

--group=GROUP runs some of them (tests/groups.py).
"""

import gc
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import pytest
from hypothesis import HealthCheck, settings

from tests import groups
from tests.certificates import Certificates, make_certificates
from tests.isolation import leave_the_host, leave_the_users_settings
from yaim.lab.namespaces import LabError

leave_the_users_settings()
# No test fails because the machine is slow.
settings.register_profile("yaim", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("yaim")


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "; ".join(f"{name}: those {what}" for name, what in groups.GROUPS.items())
    parser.addoption(groups.OPTION, choices=tuple(groups.GROUPS), default=groups.ALL, help=told)


def pytest_configure(config: pytest.Config) -> None:
    if sys.version_info >= (3, 12):
        config.pluginmanager.register(HeldToTheRule())
    config.addinivalue_line("markers", "every_set: runs with every set of libraries")
    config.addinivalue_line("markers", "alone: nothing else may run meanwhile (tests/sets.py)")
    config.addinivalue_line("markers", "quick: reaches what could have effects, and has none")
    if config.getoption("collectonly"):
        return
    if os.geteuid() != 0:
        raise pytest.UsageError(
            "only root can make what tests run in: sudo .venv/bin/python -m pytest"
        )
    try:
        leave_the_host()
    except (OSError, LabError) as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    group = config.getoption(groups.OPTION)
    tests = [each for each in items if isinstance(each, pytest.Function)]
    chosen = [each for each in tests if groups.is_in(each, group)]
    left_out = set(items).difference(chosen)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = chosen
    if group == groups.QUICK:
        groups.deny_effects()


class HeldToTheRule:
    """No test executes a library that its group is not known to touch."""

    def __init__(self) -> None:
        self._executed = groups.Executed()
        self._executed.watch()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        if not isinstance(item, pytest.Function) or groups.may_execute_a_library(item):
            yield
            return
        # What an earlier test has left is taken away by a library, at any time.
        gc.disable()
        self._executed.libraries.clear()
        yield
        found = sorted(self._executed.libraries)
        gc.enable()
        assert not found, f"this test executes {', '.join(found)}: see tests/groups.py"


def pytest_report_header(config: pytest.Config) -> str:
    """Returns what the tests run with."""
    libraries = ("etcd3", "grpcio", "protobuf", "pyroute2", "psycopg", "hypothesis")
    told = [f"Python {platform.python_version()}", *map(_with_version, libraries)]
    if config.getoption(groups.OPTION) != groups.QUICK:
        etcd = subprocess.run(("etcd", "--version"), capture_output=True, text=True).stdout
        told.append(f"etcd {etcd.partition('etcd Version: ')[2].partition(chr(10))[0]}")
    return f"set: {', '.join(told)}"


def _with_version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"{library} unknown"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
