"""The kernel's fence around held addresses: whether this kernel has nf_tables, and what the helper
that runs makes of it.

Only looks, and has no module loaded: a question to nf_tables makes a kernel that has modules load
the one (nfnetlink_rcv_msg in Linux), so such a kernel is asked only when it is there.
"""

import os
import platform
import re
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import assert_never

from yaim.core.model import Fence
from yaim.doctor.finding import Finding, needs_root, ok, problem, warning
from yaim.host.pending import Pending

FENCE = "fence"
_WITHIN_S = 2.0
_INET, _ARP = 1, 3
"""NFPROTO_INET, NFPROTO_ARP: a fence has a table in both, of one name."""
_NAME = re.compile(r"yaim-\d+")
_LOAD = "modprobe nf_tables"


class NfTables(Enum):
    THERE = auto()
    LOADABLE = auto()
    LOCKED = auto()
    """They could be loaded, but this kernel loads no more modules until it is booted again."""
    MISSING = auto()
    UNKNOWN = auto()
    """This kernel has no modules, so that nothing tells what is in it: it has to be asked."""


def nf_tables_of(root: Path, release: str) -> NfTables:
    """What the files of the host tell. `release`: of the kernel, as uname(1) shows it."""
    try:
        loaded = (root / "proc/modules").read_text()
    except FileNotFoundError:
        return NfTables.UNKNOWN
    modules = root / "lib/modules" / release
    if any(line.split(" ", 1)[0] == "nf_tables" for line in loaded.splitlines()):
        return NfTables.THERE
    if _is_listed(modules / "modules.builtin"):
        return NfTables.THERE
    if not _is_listed(modules / "modules.dep"):
        return NfTables.MISSING
    try:
        is_locked = (root / "proc/sys/kernel/modules_disabled").read_text().strip() == "1"
    except FileNotFoundError:
        is_locked = False
    return NfTables.LOCKED if is_locked else NfTables.LOADABLE


def _is_listed(file: Path) -> bool:
    """Whether the module is named at the beginning of a line, compressed or not."""
    try:
        text = file.read_text()
    except OSError:
        return False
    return re.search(r"(?m)^(\S*/)?nf_tables\.ko(\.\w+)?(:|$)", text) is not None


_asked: Pending[str, frozenset[str]] = Pending("doctor-fence")


def tables() -> frozenset[str]:
    """The names of the fences' tables in this network namespace. Raises OSError or NetlinkError
    where there are no nf_tables or the kernel refuses to tell, TimeoutError if it does not
    answer."""
    from pyroute2.nftables.main import NFTables

    def ask() -> frozenset[str]:
        with NFTables(nfgen_family=0) as kernel:
            found = {
                (each["nfgen_family"], each.get_attr("NFTA_TABLE_NAME"))
                for each in kernel.get_tables()
            }
        names = {name for family, name in found if family == _INET and (_ARP, name) in found}
        return frozenset(each for each in names if _NAME.fullmatch(each))

    answer = _asked.wait("tables", ask, _WITHIN_S)
    if answer is None:
        raise TimeoutError(f"nf_tables do not answer within {_WITHIN_S:g} s")
    return answer


def look_at_fence(
    root: Path, told: Fence | str | None, is_wanted: bool, held: int, restart: str
) -> Iterator[Finding]:
    """`told`: what the helper that runs says (helper.fence_of); `is_wanted`: as helper.yml has it;
    `held`: how many addresses of the pool the helper has put on this host; `restart`: the command
    that starts the helper anew."""
    if isinstance(told, Fence) and told.is_in_force:
        if is_wanted:
            yield _look_at_tables(held, restart)
        else:
            yield warning(FENCE, "in force until the helper is started anew", restart)
    elif not is_wanted:
        yield ok(FENCE, "off in helper.yml: an address ends by its lifetime in the kernel")
    else:
        yield _look_at_kernel(root, told, restart)


def _look_at_tables(held: int, restart: str) -> Finding:
    if os.geteuid() != 0:
        return ok(FENCE, "in force")
    names = tables()
    if names:
        return ok(FENCE, f"in force: table {', '.join(sorted(names))} (nft list ruleset)")
    if held:
        what = f"the helper says it is in force, but {held} addresses are here and no table yaim-N"
        return problem(FENCE, what, f"journalctl -u yaim-helper -n 50; {restart}")
    return ok(FENCE, "in force as soon as something is held")


def _look_at_kernel(root: Path, told: Fence | str | None, restart: str) -> Finding:
    """Why no fence is in force, as far as the kernel is the reason."""
    why = f"not in force ({told.reason}): " if isinstance(told, Fence) else ""
    then = "" if isinstance(told, str) else f" && {restart}"
    release = platform.release()
    match _nf_tables(root, release):
        case NfTables.THERE:
            return _look_at_helper(told, restart)
        case NfTables.LOADABLE:
            return warning(FENCE, f"{why}nf_tables are not loaded", f"{_LOAD}{then}")
        case NfTables.LOCKED:
            what = "nf_tables are not loaded, and kernel.modules_disabled keeps them out"
            remedy = "echo nf_tables > /etc/modules-load.d/yaim.conf && systemctl reboot"
            return warning(FENCE, f"{why}{what}", remedy)
        case NfTables.MISSING:
            what = f"nf_tables are not loaded, and not in /lib/modules/{release}"
            remedy = f"{_LOAD}, on the host of a container; else boot a kernel that has them"
            return warning(FENCE, f"{why}{what}", remedy)
        case NfTables.UNKNOWN:
            return needs_root(FENCE, "ask a kernel without modules whether it has nf_tables")
        case never:
            assert_never(never)


def _nf_tables(root: Path, release: str) -> NfTables:
    found = nf_tables_of(root, release)
    if found is not NfTables.UNKNOWN or os.geteuid() != 0:
        return found
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        tables()
    except TimeoutError:
        raise
    except (OSError, NetlinkError):
        return NfTables.MISSING
    return NfTables.THERE


def _look_at_helper(told: Fence | str | None, restart: str) -> Finding:
    """Why no fence is in force where the kernel has what it needs."""
    if isinstance(told, Fence):
        return warning(FENCE, f"not in force: {told.reason}", f"mend that; then {restart}")
    if told is None:
        what = "not in force: the helper that runs is older than its program"
        return warning(FENCE, what, restart)
    return ok(FENCE, f"the kernel has nf_tables; whether it is in force is not known: {told}")
