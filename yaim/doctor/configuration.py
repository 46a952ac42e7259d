"""yaim.yml and what it needs: the file, who can read it, users, libraries."""

import importlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from yaim.config.config import Config
from yaim.config.file import ConfigError
from yaim.config_keys import MASK
from yaim.doctor.commands import account, may
from yaim.doctor.finding import Finding, needs_root, ok, problem

CONFIGURATION, ACCESS, USERS, LIBRARIES = "configuration", "file modes", "users", "libraries"
_DEBIAN_PACKAGES = {
    "cryptography": "python3-cryptography",
    "etcd3.etcdrpc": "python3-etcd3 python3-protobuf",
    "grpc": "python3-grpcio",
    "pyroute2": "python3-pyroute2",
    "requests": "python3-requests",
    "daemon": "python3-daemon",
    "setproctitle": "python3-setproctitle",
}
_FIRST_LINES = "dcs-clustername, dcs-endpoints, interface, checker-type and that check's keys"


def look_at_errors(file: Path, error: ConfigError) -> Iterator[Finding]:
    for issue in error.issues:
        remedy = f"put it right in {file}, then: yaim config check --config {file}"
        if not os.path.lexists(file):
            remedy = f"make {file} with {_FIRST_LINES} (yaim.yml.example has all keys)"
        yield problem(CONFIGURATION, str(issue), remedy)


def look_at_access(
    file: Path, config: Config, user: pwd.struct_passwd | None, credentials: frozenset[Path]
) -> Iterator[Finding]:
    """Who can read yaim.yml and the files that it names. `credentials`: the files that systemd
    reads for the coordinator."""
    secret = {file} if _has_secrets(file, config) else set()
    needed = {file}
    for name, value, _ in config.shown():
        if name.endswith("-file") and value:
            needed.add(Path(value))
            if name.endswith(("-password-file", "-key-file")):
                secret.add(Path(value))
    group = user.pw_name if user is not None else "yaim"
    found = []
    for each in sorted(needed):
        mode = each.stat().st_mode
        close = f"chgrp {group} {each} && chmod 640 {each}"
        if each in credentials:
            close = f"chown root: {each} && chmod 600 {each}"
        if each in secret and mode & stat.S_IROTH:
            what = f"{each} has secrets, and everybody can read it (mode {stat.S_IMODE(mode):04o})"
            found.append(problem(ACCESS, what, close))
        elif mode & stat.S_IWOTH:
            found.append(problem(ACCESS, f"everybody can change {each}", f"chmod o-w {each}"))
        elif (
            os.geteuid() == 0
            and user is not None
            and each not in credentials
            and not may("-r", each, user)
        ):
            found.append(problem(ACCESS, f"user {user.pw_name} cannot read {each}", close))
    is_own = user is not None and os.geteuid() == user.pw_uid  # who has just read them all
    if not found and os.geteuid() != 0 and not is_own:
        found.append(needs_root(ACCESS, f"see whether user {group} can read {file}"))
    if not found:
        what = "secrets, which others cannot read" if secret else "no secrets"
        found.append(ok(ACCESS, f"{file}, with {what}"))
    yield from found


def _has_secrets(file: Path, config: Config) -> bool:
    """Whether yaim.yml has secrets itself, not in a file that it names."""
    rows = config.shown()
    named = {name for name, value, _ in rows if value}
    return any(
        MASK in value and where.startswith(str(file)) and f"{name}-file" not in named
        for name, value, where in rows
    )


def look_at_users(*names: str) -> Iterator[Finding]:
    for name in names:
        if account(name) is None:
            yield problem(
                USERS,
                f"there is no user {name}",
                f"adduser --system --group --no-create-home {name}",
            )
        else:
            yield ok(USERS, name)


def look_at_libraries(config: Config | None) -> Iterator[Finding]:
    """Whether all libraries can be imported. `config`: None leaves out those of the checks."""
    missing = {}
    for module, packages in _DEBIAN_PACKAGES.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # protobuf refuses what an older one has generated: TypeError
            missing[packages] = f"{module} cannot be imported: {str(error).partition(chr(10))[0]}"
    for packages, why in missing.items():
        yield problem(LIBRARIES, why, f"apt install {packages}")
    wants_libpq = config is not None and {each.kind for each in config.checks} & {
        "postgres",
        "pgbouncer",
    }
    if wants_libpq:
        from yaim.checks.transport import libpq

        if (expected := libpq.missing()) is not None:
            yield problem(LIBRARIES, f"expected {expected}", "apt install python3-psycopg libpq5")
            return
    if not missing:
        yield ok(LIBRARIES, "psycopg and libpq are there, too" if wants_libpq else "are there")
