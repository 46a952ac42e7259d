"""The privileged helper, from outside: its allowlist, its socket, its record.

Shares no code with it: its own tool says what the allowlist is worth. Only `users`, `audit-log` and
`fence`, which doctor needs, are read here.
"""

import json
import os
import pwd
import re
import shlex
import socket
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import yaml

from yaim.config.config import Config
from yaim.core.model import Fence, PoolEntry, Resets
from yaim.doctor.commands import ask, being, may
from yaim.doctor.finding import Finding, needs_root, not_looked_at, ok, problem, warning
from yaim.host.interfaces import shown_name

ALLOWLIST, ALLOWED, SOCKET, RECORD = "helper.yml", "allowed here", "helper", "record"
_EX_CONFIG = 78
_HELPER = (sys.executable, "-I", "-m", "yaim_helper")
"""The command by which the supervisor starts the helper."""
ANSWER_WITHIN_S = 2.0
MOST_EXPLAINED = 64
"""The most addresses that are explained: as many as a helper holds, unless it is told another
number. Each costs a process."""
AT_ONCE = 4
LOW_BYTES = 100_000_000
LOW_SHARE = 0.05
FULL_BYTES = 1_000_000
_HELLO = {"op": "hello", "id": 1, "version": 0, "cluster": "doctor", "node": "doctor"}
"""A hello of a version that no helper speaks: it is refused before it could take anybody's place
(helper/PROTOCOL.md)."""
_ASK = {"op": "hello", "id": 1, "version": 1, "cluster": "yaim-doctor", "node": "doctor"}
"""A hello that is granted, for a cluster that no node is in. It holds nothing."""


@dataclass(frozen=True, slots=True)
class Allowlist:
    users: tuple[str, ...]
    audit_log: Path
    is_fence_wanted: bool = True
    reset_rules: tuple[bool, ...] = ()
    """Whether each rule lets connections be reset."""


# --- helper.yml ----------------------------------------------------------------------------


def look_at_allowlist(
    file: Path, interface: str, user: pwd.struct_passwd | None, helper: pwd.struct_passwd | None
) -> tuple[Allowlist | None, list[Finding]]:
    """Whether the helper can use its allowlist. `interface`: as in yaim.yml, or empty."""
    if not os.path.lexists(file):
        name, where = user.pw_name if user is not None else "yaim", interface or "eth0"
        rules = f"rules:\\n  - interface: {where}\\n    networks: [192.0.2.0/24]\\n"
        make = f"mkdir -p {file.parent} && printf 'users: [{name}]\\n{rules}' > {file}"
        remedy = f"with your network: {make}"
        return None, [problem(ALLOWLIST, f"there is no {file}: the helper may do nothing", remedy)]
    told = ask((*_HELPER, "policy", "check", str(file)))
    if isinstance(told, str):
        return None, [not_looked_at(ALLOWLIST, told)]
    lines = [line for line in told.errors.splitlines() if line]
    if told.status == _EX_CONFIG:
        remedy = f"put it right, then: yaim-helper policy check {file}"
        return None, [problem(ALLOWLIST, line, remedy) for line in lines]
    if told.status != 0:
        last = lines[-1] if lines else f"exit status {told.status}"
        return None, [
            problem(ALLOWLIST, f"yaim-helper cannot be run: {last}", "install yaim's helper")
        ]
    found = []
    for line in lines:
        # Valid, but of no use: nobody could ask, or for nothing.
        is_empty = re.search(r": (users|rules): none", line) is not None
        found.append((problem if is_empty else warning)(ALLOWLIST, line, f"change {file}"))
    if helper is not None and os.geteuid() == 0 and not may("-r", file, helper):
        what = f"user {helper.pw_name} cannot read {file}"
        found.append(problem(ALLOWLIST, what, f"there are no secrets in it: chmod a+r {file}"))
    allowlist = read_allowlist(file)
    if user is not None and not {user.pw_name, str(user.pw_uid)} & set(allowlist.users):
        what = f"its users are {', '.join(allowlist.users)}: {user.pw_name} may ask for nothing"
        remedy = f"add {user.pw_name} to users in {file}; then systemctl reload yaim-helper"
        found.append(problem(ALLOWLIST, what, remedy))
    return allowlist, found or [ok(ALLOWLIST, f"{file} can be used")]


def read_allowlist(file: Path) -> Allowlist:
    """Reads a file that the helper can use."""
    keys = yaml.safe_load(file.read_bytes())
    users = tuple(str(each) for each in keys.get("users") or ())
    # To YAML 1.1 a bare `off` is false.
    is_fence_wanted = keys.get("fence", "auto") not in (False, "off")
    resets = tuple(each.get("reset-connections", True) is True for each in keys.get("rules") or ())
    log = Path(keys.get("audit-log") or "/var/log/yaim-helper")
    return Allowlist(users, log, is_fence_wanted, resets)


def look_at_allowed(file: Path, config: Config, pool: Iterable[PoolEntry]) -> Iterator[Finding]:
    """Whether the helper would put these addresses on this host."""
    entries = [each for each in pool if config.nodename not in each.exclude]
    explained = entries[:MOST_EXPLAINED]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(lambda each: _explain(file, config, each), explained))
    fine = sum(answer is None for answer in answers)
    yield from (answer for answer in answers if answer is not None)
    if fine:
        yield ok(ALLOWED, f"{fine} of {len(entries)} addresses can be put here by the helper")
    if len(explained) < len(entries):
        rest = f"{len(entries) - len(explained)} further addresses"
        yield not_looked_at(ALLOWED, f"{rest}: the first {MOST_EXPLAINED} are enough")


def _explain(file: Path, config: Config, entry: PoolEntry) -> Finding | None:
    """Why the helper would not put the address there; None if it would."""
    named = entry.interface or config.interface
    interface = shown_name(named) or named
    netmask = config.netmask if entry.address.version == 4 else config.netmask6
    prefix = entry.prefix_length or netmask
    arguments = ("policy", "explain", str(entry.address), interface)
    options = ("--prefix", str(prefix), "--config", str(file))
    told = ask((*_HELPER, *arguments, *options))
    if isinstance(told, str):
        return not_looked_at(ALLOWED, told)
    if told.status == 0:
        return None
    reasons = "; ".join(line.strip() for line in told.output.splitlines()) or told.errors.strip()
    shown = shlex.join(("yaim-helper", *arguments, *options))
    remedy = f"allow it in {file} or set netmask, or move what is in its way: {shown}"
    return problem(ALLOWED, reasons, remedy)


# --- its socket ----------------------------------------------------------------------------


def look_at_socket(path: Path, user: pwd.struct_passwd | None, start: str) -> Finding:
    """Whether a helper answers at its socket. `start`: the command that would make the socket. What
    is sent there disturbs nobody; it leaves a line in the record."""
    try:
        status = path.stat()
    except PermissionError:
        return needs_root(SOCKET, f"look at {path}")
    except OSError:
        return problem(SOCKET, f"there is no {path}: no helper runs", start)
    if not stat.S_ISSOCK(status.st_mode):
        return problem(SOCKET, f"{path} is not a socket", f"move it away, then: {start}")
    owner = f"uid {status.st_uid}, gid {status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o}"
    if os.geteuid() == 0 and user is not None and not may("-w", path, user):
        what = f"user {user.pw_name} cannot connect to {path} ({owner})"
        remedy = f"SocketGroup= in the unit, and: chgrp {user.pw_name} {path} && chmod 660 {path}"
        return problem(SOCKET, what, remedy)
    try:
        answer = _say_hello(path, _HELLO)
    except PermissionError:
        return needs_root(SOCKET, f"connect to {path} ({owner})")
    except TimeoutError:
        what = f"{path} takes connections, but nobody answers within {ANSWER_WITHIN_S:g} s"
        return problem(SOCKET, what, "see why the helper does not run: journalctl -u yaim-helper")
    except OSError as error:
        return problem(SOCKET, f"{path} takes no connection: {error.strerror}", start)
    if not answer and user is not None and os.geteuid() == user.pw_uid:
        what = f"{path}: the helper hangs up on user {user.pw_name}"
        return problem(SOCKET, what, "add it to users in helper.yml, and reload the helper")
    return ok(SOCKET, f"answers at {path}")


def fence_of(path: Path, user: pwd.struct_passwd | None) -> Fence | str | None:
    """What the helper that runs says of its fence; None if it does not know of any; a text that
    says why it could not be asked."""
    match answer := _hello_of(path, user):
        case str():
            return answer
        case {"fence": {"in_force": bool(is_in_force), "reason": str(reason)}}:
            return Fence(is_in_force, reason)
    return None


def resets_of(path: Path, user: pwd.struct_passwd | None) -> Resets | str | None:
    """The same of whether it can end connections."""
    match answer := _hello_of(path, user):
        case str():
            return answer
        case {"connections": {"can_reset": bool(can_reset), "reason": str(reason)}}:
            return Resets(can_reset, reason)
    return None


def _hello_of(path: Path, user: pwd.struct_passwd | None) -> Mapping[str, object] | str:
    """What the helper that runs answers; a text that says why it could not be asked. Root asks as
    the coordinator's user, as the helper hangs up on others. The helper records it, and this
    disturbs nobody."""
    if user is None:
        return "the coordinator's user is not there"
    is_other = os.geteuid() == 0 and user.pw_uid != 0
    try:
        with being(user) if is_other else nullcontext():
            answer = json.loads(_say_hello(path, _ASK) or b"null")
    except OSError as error:
        return f"the helper does not answer: {error.strerror or error}"
    except ValueError:
        return "the helper does not answer in its protocol"
    match answer:
        case {"result": "ok"}:
            return dict(answer)
        case {"reason": str(reason)}:
            return f"the helper refuses to say so: {reason}"
    return "the helper hangs up"


def _say_hello(path: Path, hello: Mapping[str, object]) -> bytes:
    """What the helper answers; nothing if it hung up, as it does on users who are not in its
    policy."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(ANSWER_WITHIN_S)
        connection.connect(str(path))
        try:
            connection.send(json.dumps(hello).encode())
            return connection.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return b""


# --- its record ----------------------------------------------------------------------------


def look_at_record(directory: Path, helper: pwd.struct_passwd | None) -> Finding:
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    space = os.statvfs(there)
    free, share = space.f_bavail * space.f_frsize, space.f_bavail / max(space.f_blocks, 1)
    told = f"{free // 1_000_000} MB ({share:.0%}) free in {there}"
    if there == directory and helper is not None:
        owner = directory.stat().st_uid
        if owner not in (0, helper.pw_uid):
            what = f"{directory} belongs to uid {owner}, not to {helper.pw_name}"
            return problem(RECORD, what, f"chown -R {helper.pw_name}: {directory}")
    remedy = f"make room: move the oldest segments in {directory} elsewhere"
    if free < FULL_BYTES:
        return problem(RECORD, f"{told}: the helper adds nothing that it cannot record", remedy)
    if free < LOW_BYTES or share < LOW_SHARE:
        return warning(RECORD, f"{told}: when it is full the helper adds nothing", remedy)
    return ok(RECORD, told)
