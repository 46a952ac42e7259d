"""All points in the order of a first set-up. Never raises: what fails is a finding."""

import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from yaim.checks.once import check_once, is_healthy
from yaim.checks.targets import hosts_of
from yaim.config.config import Config
from yaim.config.file import ConfigError
from yaim.config.load import Purpose
from yaim.core.model import Address, ClusterView, Fence, NodeName, address_order
from yaim.doctor import configuration, conflicts, connections, fence, helper, host
from yaim.doctor.commands import account, being
from yaim.doctor.finding import (
    Finding,
    gathered,
    needs_root,
    not_looked_at,
    ok,
    problem,
    warning,
)
from yaim.doctor.host import addresses_of

CHECKS = "checks"


def pool_of(view: ClusterView | None) -> tuple[Address, ...]:
    """The pool's addresses in order; empty where the pool is not known."""
    return tuple(sorted(view.pool, key=address_order)) if view is not None else ()


def pool_for(node: NodeName, view: ClusterView) -> tuple[Address, ...]:
    """The pool's addresses that this node may hold."""
    return tuple(each for each in pool_of(view) if node not in view.pool[each].exclude)


def look_at_targets(config: Config, pool: Collection[Address]) -> Iterator[Finding]:
    """Points out the checks that ask an address of the pool: whoever holds it answers, so a node
    would be as healthy as another one."""
    for check in config.checks:
        for name in hosts_of(check.settings):
            asked = sorted(addresses_of(name) & set(pool), key=address_order)
            if asked:
                what = f"{check.name} asks {asked[0]}, an address of the pool: its holder answers"
                remedy = "let it ask this host's own service: 127.0.0.1, ::1, a socket"
                yield problem(CHECKS, what, remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The files and users that are looked at."""

    file: Path
    """The path of yaim.yml; it need not be there."""
    load: Callable[[Purpose], Config]
    """Loads yaim.yml for a purpose. Raises ConfigError."""
    helper_config: Path
    user: str
    helper_user: str
    root: Path = Path("/")
    """Files of the host and of other programs are looked for below it."""
    systemctl: str = "systemctl"


def examine(subject: Subject) -> tuple[Finding, ...]:
    return tuple(gathered(_Examination(subject).findings()))


class _Examination:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._found: list[Finding] = []
        self._user = account(subject.user)
        self._helper_user = account(subject.helper_user)
        self._titles = host.titles_of(subject.root)
        self._unit = host.unit_of(subject.file)
        self._units = host.units_of(subject.root, subject.systemctl, self._unit)
        self._view: ClusterView | None = None
        self._allowlist: helper.Allowlist | None = None
        self._why_not: dict[Purpose, str] = {}
        """Why the configuration cannot be used for a purpose."""

    def findings(self) -> list[Finding]:
        node, cluster = self._loaded(Purpose.NODE), self._loaded(Purpose.CLUSTER)
        checks = self._loaded(Purpose.CHECKS)
        self._look(configuration.CONFIGURATION, lambda: self._configuration(node))
        if node is not None:
            self._look(configuration.ACCESS, lambda: self._access(node))
        else:
            self._skip(configuration.ACCESS, self._why_not[Purpose.NODE])
        users = (self._subject.user, self._subject.helper_user)
        self._look(configuration.USERS, lambda: configuration.look_at_users(*users))
        self._look(configuration.LIBRARIES, lambda: configuration.look_at_libraries(checks))
        self._look(helper.ALLOWLIST, lambda: self._allowlist_of(node))
        self._look_at_node(node)
        self._look_at_cluster(cluster, node)
        self._look(fence.FENCE, lambda: self._fence(node))
        self._look(connections.CONNECTIONS, lambda: self._connections(node))
        self._look_at_checks(checks)
        self._look(host.SERVICES, self._services)
        self._look_at_conflicts(node)
        self._look(helper.RECORD, self._record)
        return self._found

    def _look(self, point: str, look: Callable[[], Iterable[Finding]]) -> None:
        try:
            self._found += look()
        except PermissionError as error:
            self._found.append(needs_root(point, f"look at {error.filename}"))
        except Exception as error:  # a point that fails must not hide the others
            self._skip(point, f"{type(error).__name__}: {error}")

    def _skip(self, point: str, because: str) -> None:
        self._found.append(not_looked_at(point, because))

    # --- the points --------------------------------------------------------------------------

    def _loaded(self, purpose: Purpose) -> Config | None:
        try:
            return self._subject.load(purpose)
        except ConfigError as error:
            what = "may not be read by us" if error.is_denied else "is wrong"
            if not error.is_denied and not os.path.lexists(self._subject.file):
                what = "is not there"
            self._why_not[purpose] = f"the configuration {what}"
            return None

    def _configuration(self, node: Config | None) -> Iterable[Finding]:
        file = self._subject.file
        if node is not None:
            doubts = [
                warning(configuration.CONFIGURATION, str(each), f"put it right in {file}")
                for each in node.doubts
            ]
            return [ok(configuration.CONFIGURATION, f"{file} is right"), *doubts]
        try:
            self._subject.load(Purpose.NODE)
        except ConfigError as error:
            if error.is_denied:
                why, remedy = error.issues[0].expected, "run yaim doctor as root, too"
                return [not_looked_at(configuration.CONFIGURATION, f"expected {why}", remedy)]
            return configuration.look_at_errors(file, error)
        return []

    def _known_units(self) -> Mapping[str, Mapping[str, str]]:
        return {} if isinstance(self._units, str) else self._units

    def _access(self, node: Config) -> Iterable[Finding]:
        credentials = frozenset[Path]()
        if self._unit in host.installed(self._known_units()):
            credentials = host.credentials_of(self._subject.systemctl, self._unit)
        return configuration.look_at_access(self._subject.file, node, self._user, credentials)

    def _allowlist_of(self, node: Config | None) -> Iterable[Finding]:
        interface = node.interface if node is not None else ""
        self._allowlist, found = helper.look_at_allowlist(
            self._subject.helper_config, interface, self._user, self._helper_user
        )
        return found

    def _look_at_node(self, node: Config | None) -> None:
        if node is None:
            self._skip(host.INTERFACE, self._why_not[Purpose.NODE])
            self._skip(helper.SOCKET, self._why_not[Purpose.NODE])
            return
        self._look(host.INTERFACE, lambda: [host.look_at_interface(node.interface)])
        start = "systemctl enable --now yaim-helper.socket"
        if not host.installed(self._known_units()):
            start = self._supervise()
        self._look(
            helper.SOCKET,
            lambda: [helper.look_at_socket(node.value("helper-socket"), self._user, start)],
        )

    def _look_at_cluster(self, cluster: Config | None, node: Config | None) -> None:
        if cluster is None:
            self._skip("etcd", self._why_not[Purpose.CLUSTER])
            return
        self._look("etcd", lambda: self._etcd(cluster))
        view = self._view
        if view is None:
            for point in ("pool", "nodes", host.ADDRESSES, helper.ALLOWED):
                self._skip(point, "etcd could not be read")
            return
        from yaim.doctor.cluster import NODES, POOL, look_at_nodes, look_at_pool

        self._look(POOL, lambda: look_at_pool(cluster, view))
        if node is None:
            for point in (NODES, host.ADDRESSES, helper.ALLOWED):
                self._skip(point, self._why_not[Purpose.NODE])
            return
        pool = pool_of(view)
        boot_id = self._subject.root / "proc/sys/kernel/random/boot_id"
        self._look(NODES, lambda: look_at_nodes(node, view, boot_id.read_text().strip()))
        self._look(host.ADDRESSES, lambda: host.look_at_addresses(host.addresses_on_host(), pool))
        own = pool_for(NodeName(node.nodename), view)
        self._look(host.IPV6, lambda: host.look_at_ipv6(self._subject.root, node.interface, own))
        self._look(helper.ALLOWED, lambda: self._allowed(node, view))

    def _allowed(self, node: Config, view: ClusterView) -> Iterable[Finding]:
        if self._allowlist is None:
            return [not_looked_at(helper.ALLOWED, "helper.yml cannot be used")]
        # What somebody else has put here has a line of its own.
        foreign = {each.address for each in host.addresses_on_host() if not each.is_helpers}
        entries = [view.pool[each] for each in pool_of(view) if each not in foreign]
        return helper.look_at_allowed(self._subject.helper_config, node, entries)

    def _etcd(self, cluster: Config) -> Iterable[Finding]:
        # Its libraries may be missing, which is a finding by itself.
        from yaim.doctor.cluster import look_at_etcd

        self._view, found = look_at_etcd(cluster)
        return found

    def _fence(self, node: Config | None) -> Iterable[Finding]:
        if self._allowlist is None:
            return [not_looked_at(fence.FENCE, "helper.yml cannot be used")]
        told: Fence | str | None
        if node is None:
            told = self._why_not[Purpose.NODE]
        else:
            told = helper.fence_of(node.value("helper-socket"), self._user)
        pool = pool_of(self._view)
        held = sum(each.is_helpers and each.address in pool for each in host.addresses_on_host())
        wanted, restart = self._allowlist.is_fence_wanted, self._restart_helper()
        return fence.look_at_fence(self._subject.root, told, wanted, held, restart)

    def _connections(self, node: Config | None) -> Iterable[Finding]:
        if self._allowlist is None or node is None:
            which = self._why_not.get(Purpose.NODE, "helper.yml cannot be used")
            return [not_looked_at(connections.CONNECTIONS, which)]
        return connections.look_at_connections(
            node.connections == "reset",
            helper.resets_of(node.value("helper-socket"), self._user),
            self._allowlist.reset_rules,
            self._subject.helper_config,
            self._restart_helper(),
        )

    def _restart_helper(self) -> str:
        if host.installed(self._known_units()):
            return "systemctl restart yaim-helper"
        return "pkill -USR1 -f '^yaim: supervisor'"

    def _look_at_checks(self, checks: Config | None) -> None:
        if checks is None:
            self._skip(CHECKS, self._why_not[Purpose.CHECKS])
        else:
            self._look(CHECKS, lambda: self._checks(checks))
            self._look(CHECKS, lambda: look_at_targets(checks, pool_of(self._view)))

    def _checks(self, checks: Config) -> Iterable[Finding]:
        from yaim.wiring import check_plans_of

        # Another user may be allowed less, or more.
        is_other = os.geteuid() == 0 and self._user is not None and self._user.pw_uid != 0
        with being(self._user) if is_other and self._user else nullcontext():
            found = check_once(check_plans_of(checks))
        is_good = is_healthy(found, checks.healthy_when == "any")
        for each in found:
            what = f"{each.name}: {each.result.verdict.reason}"
            if each.result.is_healthy:
                yield ok(CHECKS, what)
            else:
                bad = warning if is_good else problem
                yield bad(CHECKS, what, f"mend it, then: yaim check --config {self._subject.file}")
        if os.geteuid() == 0 and not is_other:
            what = f"made as root: user {self._subject.user} may be allowed less, or more"
            yield warning(CHECKS, what, "look again when that user is there")

    def _services(self) -> Iterable[Finding]:
        return host.look_at_services(self._units, self._titles, self._supervise())

    def _supervise(self) -> str:
        return f"yaim supervise --config {self._subject.file.absolute()} --daemon"

    def _look_at_conflicts(self, node: Config | None) -> None:
        root, titles = self._subject.root, self._titles
        interface = node.interface if node is not None else ""
        pool = pool_of(self._view)
        known = pool if self._view is not None else None
        self._look(
            conflicts.KEEPALIVED,
            lambda: conflicts.look_at_keepalived(root, interface, known, titles),
        )
        self._look(conflicts.OTHERS, lambda: conflicts.look_at_others(titles))
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            self._skip(conflicts.NETWORK, "the interface is not there, or not known")
            return
        self._look(
            conflicts.NETWORK,
            lambda: conflicts.look_at_network(root, interface, index, pool, titles),
        )

    def _record(self) -> Iterable[Finding]:
        if self._allowlist is None:
            return [not_looked_at(helper.RECORD, "helper.yml cannot be used")]
        return [helper.look_at_record(self._allowlist.audit_log, self._helper_user)]
