"""Other programs, asked within a time limit, as another user if need be."""

import os
import pwd
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yaim.checks.transport.command import ENVIRONMENT

WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Told:
    status: int
    output: str
    errors: str


def ask(command: Sequence[str], user: pwd.struct_passwd | None = None) -> Told | str:
    """What the command told, or why it could not be asked. Only root can name a user. setpriv
    becomes that user, and not subprocess's `user`: that forks, for which gRPC, once it was used,
    may wait for ever."""
    whom: tuple[str, ...] = ()
    if user is not None:
        whom = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups")
    try:
        done = subprocess.run(
            (*whom, *command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WITHIN_S,
            cwd="/",
            # Whoever became root by su(1) has his own PATH still.
            env={**os.environ, "PATH": ENVIRONMENT["PATH"]},
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} has not answered within {WITHIN_S:g} s"
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]} cannot be started ({error})"
    return Told(done.returncode, done.stdout, done.stderr)


@contextmanager
def being(user: pwd.struct_passwd) -> Iterator[None]:
    """Makes this process, which is root's, another user; what it starts is so for good. The
    environment is like that of a service: nothing is looked for in root's."""
    groups, environment = os.getgroups(), dict(os.environ)
    try:
        for name in [each for each in environment if each.startswith("PG")]:
            del os.environ[name]
        os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
        os.initgroups(user.pw_name, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, 0)
        os.setresuid(user.pw_uid, user.pw_uid, 0)
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
        os.environ.clear()
        os.environ |= environment


def may(what: str, path: Path, user: pwd.struct_passwd) -> bool:
    """Whether a user may read (-r) or write (-w) the file, directories above included. Only root
    can ask."""
    told = ask(("/usr/bin/test", what, str(path)), user)
    return isinstance(told, Told) and told.status == 0


def account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
