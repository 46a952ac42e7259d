"""A lab's etcd: members in network namespaces of their own, on the management network for their
clients and on one of their own for each other; and what can be done to them.
"""

import os
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.request import urlopen

from yaim.dcs.etcd.access import EtcdAccess
from yaim.lab.certificates import Authority, Certificate
from yaim.lab.links import put_address
from yaim.lab.namespaces import LabError, Namespace, run
from yaim.lab.network import MANAGEMENT, PEERS, Cables
from yaim.lab.relay import Relay
from yaim.lab.wait import wait_until

FIRST_ADDRESS = ip_address("198.51.100.1")
"""The first member's address for clients. Those of the others follow it."""
FIRST_PEER_ADDRESS = ip_address("203.0.113.1")
FIRST_RELAY_ADDRESS = ip_address("198.51.100.101")
CLIENT_PORT, PEER_PORT, METRICS_PORT = 2379, 2380, 2381
ANSWER_WITHIN_S = 20.0
STOP_WITHIN_S = 20.0
METRICS_WITHIN_S = 0.5
"""How long a look that is repeated waits for an answer."""

ELECTED_AT_ONCE = ("--heartbeat-interval=10", "--election-timeout=100")
"""Options of a member that is alone: by default it waits a second before it elects itself."""

USER = "yaim"
"""The user that the nodes are to etcd."""
ACCOUNTS = """\
etcdctl user add root --interactive=false < root.password
etcdctl user grant-role root root
etcdctl role add yaim
etcdctl role grant-permission yaim --prefix=true readwrite /service/yaim/
etcdctl user add yaim --interactive=false < etcd.password
etcdctl user grant-role yaim yaim
etcdctl auth enable
"""
"""Commands as docs/etcd.md gives them."""
CHANGE_PASSWORD = "etcdctl user passwd yaim --interactive=false < etcd.password\n"
"""A command as docs/etcd.md gives it."""


@dataclass(frozen=True, slots=True)
class EtcdPlan:
    members: int = 1
    is_secured: bool = False
    """Whether there are TLS with client certificates and users. The nodes' user may use the
    cluster's keys only."""
    token_life_s: int | None = None
    """If there are users, how long each token lasts, used or not."""
    options: tuple[str, ...] = ()
    """Further options for every member's command line."""
    has_relays: bool = False
    """Whether nodes reach each member through a relay."""


class EtcdMember:
    """A member of the cluster: one process, which what it has stored outlives."""

    def __init__(self, number: int, directory: Path) -> None:
        """`number`: from 0 on."""
        self.name = f"etcd{number + 1}"
        self.address = str(FIRST_ADDRESS + number)
        self.peer_address = str(FIRST_PEER_ADDRESS + number)
        self.options: tuple[str, ...] = ()
        """Its options from its next start on."""
        self.namespace = Namespace.new()
        self.cables = Cables(self.namespace, self.name, (MANAGEMENT, PEERS))
        for address, network in ((self.address, MANAGEMENT), (self.peer_address, PEERS)):
            put_address(f"{address}/24", network.interface, self.namespace)
        self._data = directory / self.name
        self._log_file = directory / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def peer_url(self) -> str:
        return f"http://{self.peer_address}:{PEER_PORT}"

    def start(self) -> None:
        """Starts it, also again after `kill` or `stop`. Raises LabError."""
        if shutil.which("etcd") is None:
            raise LabError("there is no etcd on this machine: apt-get install etcd-server")
        own = (f"--name={self.name}", f"--data-dir={self._data}")
        with self._log_file.open("ab") as log:
            self._process = self.namespace.start(("etcd", *own, *self.options), log)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Sends SIGTERM, and waits."""
        self._signal(signal.SIGTERM)
        if self._process is not None:
            self._process.wait(STOP_WITHIN_S)

    def kill(self) -> None:
        """Sends SIGKILL, also if it is frozen or has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self.is_running:
            raise LabError(f"{self.name} is not running")
        self._process.send_signal(number)

    def cut_from_peers(self) -> None:
        """Cuts it off from the other members. Clients still reach it."""
        self.cables.cut([PEERS])

    def connect(self) -> None:
        self.cables.connect()

    def wipe(self) -> None:
        """Deletes all that it has stored. It must not be running."""
        shutil.rmtree(self._data, ignore_errors=True)

    def metrics(self, within_s: float = ANSWER_WITHIN_S) -> dict[str, float]:
        """What it counts, by name and labels. Raises LabError if it does not answer."""
        try:
            url = f"http://{self.address}:{METRICS_PORT}/metrics"
            with urlopen(url, timeout=within_s) as answer:
                lines = answer.read().decode().splitlines()
        except OSError as error:
            raise LabError(f"{self.name} tells no metrics: {error}") from error
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def _tells(self, metric: str) -> bool:
        try:
            return self.metrics(METRICS_WITHIN_S).get(metric) == 1
        except LabError:
            return False

    @property
    def is_leader(self) -> bool:
        """Whether it takes itself for the leader: one that is cut off may be wrong for a moment."""
        return self._tells("etcd_server_is_leader")

    @property
    def has_leader(self) -> bool:
        return self._tells("etcd_server_has_leader")

    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    def close(self) -> None:
        self.kill()
        self.cables.close()
        self.namespace.close()


class EtcdCluster:
    """The members together. They are gone when this is closed."""

    def __init__(self, plan: EtcdPlan, directory: Path) -> None:
        """`directory`: others than root must not be able to read what is in it."""
        self.plan = plan
        self._directory = directory
        self._stack = ExitStack()
        self.members: list[EtcdMember] = []
        self.relays: list[Relay] = []
        self._token = "yaim-lab"
        self._trusted = directory / "trusted.pem"
        self._certificates: dict[str, Certificate] = {}
        try:
            for number in range(plan.members):
                self.members.append(EtcdMember(number, directory))
                self._stack.callback(self.members[-1].close)
            if plan.is_secured:
                self._make_secrets()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    # --- starting ----------------------------------------------------------------------------

    def start(self) -> None:
        """Starts all members, and waits until they answer and know their users."""
        for member in self.members:
            self._set_options(member)
            member.start()
        self._wait_until_well()
        if self.plan.is_secured:
            self.shell(ACCOUNTS, as_root=False)
        if self.plan.has_relays and not self.relays:
            for number, member in enumerate(self.members):
                address = str(FIRST_RELAY_ADDRESS + number)
                log_file = self._directory / f"relay{number + 1}.log"
                put_address(f"{address}/24", MANAGEMENT.bridge)
                relay = Relay(address, member.address, CLIENT_PORT, log_file)
                self.relays.append(relay)
                self._stack.callback(relay.close)

    def found_anew(self, token: str | None = None) -> None:
        """Starts it without its data: all that was in it is gone, and its revisions begin at 1.
        With another token it is another cluster, as its id tells, at the same addresses."""
        self._token = token or self._token
        for member in self.members:
            member.kill()
            member.wipe()
        self.start()

    def _set_options(self, member: EtcdMember) -> None:
        plan = self.plan
        url = self._url(member.address)
        initial = ",".join(f"{each.name}={each.peer_url}" for each in self.members)
        member.options = (
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={member.peer_url}",
            f"--initial-advertise-peer-urls={member.peer_url}",
            f"--initial-cluster={initial}",
            f"--initial-cluster-token={self._token}",
            f"--listen-metrics-urls=http://{member.address}:{METRICS_PORT}",
            *(ELECTED_AT_ONCE if plan.members == 1 else ()),
            *plan.options,
        )
        if plan.is_secured:
            member.options += self._tls_options(self._certificates[member.name])
        if plan.token_life_s is not None:
            public, private = self._directory / "token.pub", self._directory / "token.key"
            how = f"pub-key={public},priv-key={private},sign-method=RS256"
            member.options += (f"--auth-token=jwt,{how},ttl={plan.token_life_s}s",)

    def _wait_until_well(self) -> None:
        def is_well() -> bool:
            for member in self.members:
                if not member.is_running:
                    text = member.log()[-2000:]
                    raise LabError(f"{member.name} does not start:\n{text}") from None
            return self.is_well()

        wait_until(is_well, ANSWER_WITHIN_S, "etcd to answer", self.logs)

    def is_well(self) -> bool:
        """Whether all members run and have a leader."""
        return all(member.is_running and member.has_leader for member in self.members)

    def restart_one_by_one(self) -> None:
        """Restarts the members with SIGTERM, as for an upgrade; the leader last. All have to be
        well before the next one."""
        for member in (*self.followers(), self.leader()):
            member.stop()
            member.start()
            wait_until(self.is_well, ANSWER_WITHIN_S, "etcd to be well", self.logs)

    def leader(self) -> EtcdMember:
        """The leader, for which it waits. Raises LabError if there is none, or it does not
        answer."""
        found: list[EtcdMember] = []

        def is_found() -> bool:
            found.extend(each for each in self.members if each.is_running and each.is_leader)
            return bool(found)

        wait_until(is_found, ANSWER_WITHIN_S, "etcd to have a leader", self.logs)
        return found[0]

    def followers(self) -> list[EtcdMember]:
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    # --- getting in --------------------------------------------------------------------------

    def _url(self, address: str) -> str:
        return f"{'https' if self.plan.is_secured else 'http'}://{address}:{CLIENT_PORT}"

    @property
    def urls(self) -> list[str]:
        """The URLs of the members themselves."""
        return [self._url(member.address) for member in self.members]

    def endpoints(self) -> list[str]:
        """The URLs for nodes."""
        return [self._url(relay.address) for relay in self.relays] or self.urls

    def access(self) -> EtcdAccess:
        """The admin's access."""
        if not self.plan.is_secured:
            return EtcdAccess(tuple(self.urls))
        admin = self._certificates["admin"]
        return EtcdAccess(
            tuple(self.urls),
            user="root",
            password_file=self._directory / "root.password",
            ca_file=self._trusted,
            cert_file=admin.cert,
            key_file=admin.key,
        )

    def shell(self, commands: str, *, as_root: bool = True, at: EtcdMember | None = None) -> str:
        """Runs what an admin would type, and returns its standard output. etcdctl finds its options
        in the environment; etcd.password is what the nodes are to use. Raises LabError if a command
        fails."""
        urls = self.urls if at is None else [self._url(at.address)]
        environment = {
            "PATH": os.environ["PATH"],
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": ",".join(urls),
            "ETCDCTL_COMMAND_TIMEOUT": "30s",
            "ETCDCTL_DIAL_TIMEOUT": "20s",  # also for the login; 2 s by itself
        }
        if self.plan.is_secured:
            admin = self._certificates["admin"]
            environment |= {
                "ETCDCTL_CACERT": str(self._trusted),
                "ETCDCTL_CERT": str(admin.cert),
                "ETCDCTL_KEY": str(admin.key),
            }
            if as_root:
                password = (self._directory / "root.password").read_text().strip()
                environment["ETCDCTL_USER"] = f"root:{password}"
        return run(("sh", "-ec", commands), env=environment, cwd=self._directory)

    # --- secrets -----------------------------------------------------------------------------

    def _make_secrets(self) -> None:
        first = self.new_authority("ca")
        self.trust(first)
        self.certify_by(first)
        self.set_password("root", "the-root-password")
        self.set_password("etcd", "the-first-password")
        if self.plan.token_life_s is not None:
            for command in (
                "openssl genrsa -out token.key 2048",
                "openssl rsa -in token.key -pubout -out token.pub",
            ):
                run(command.split(), cwd=self._directory)

    def _addresses_of(self, member: EtcdMember) -> list[str]:
        """The addresses of a member and of its relay."""
        number = self.members.index(member)
        return [member.address, str(FIRST_RELAY_ADDRESS + number)]

    def new_authority(self, name: str) -> Authority:
        return Authority(self._directory, name)

    def trust(self, *authorities: Authority) -> None:
        """Sets the CAs that members trust from their next start on, the admin at once, a node when
        it is equipped."""
        self._trusted.write_text("".join(each.cert.read_text() for each in authorities))

    def certify_by(self, authority: Authority) -> None:
        """Makes new certificates. Members use them from their next start on, the admin at once, a
        node when it is equipped."""
        self.authority = authority
        suffix = authority.cert.stem
        for member in self.members:
            issued = authority.issue(f"{member.name}-{suffix}", self._addresses_of(member))
            self._certificates[member.name] = issued
            self._set_options(member)
        self._certificates["admin"] = authority.issue(f"admin-{suffix}", ["127.0.0.1"])

    def _tls_options(self, certificate: Certificate) -> tuple[str, ...]:
        return (
            f"--cert-file={certificate.cert}",
            f"--key-file={certificate.key}",
            f"--trusted-ca-file={self._trusted}",
            "--client-cert-auth",
        )

    def set_password(self, whose: str, password: str) -> None:
        """Sets a password in its file, not in etcd. `whose`: `root`, or `etcd` for the nodes, to
        whom it is given when they are equipped. etcdctl takes no more than the first word of it."""
        (self._directory / f"{whose}.password").write_text(f"{password}\n")

    def equip(self, directory: Path, name: str, user: str) -> dict[str, object]:
        """Puts all that a node needs into its directory, for a user of the system alone; replaces
        what is there, file by file. Returns the keys for the node's yaim.yml."""
        keys: dict[str, object] = {"dcs-endpoints": self.endpoints()}
        if not self.plan.is_secured:
            return keys
        issued = self.authority.issue(name, ["127.0.0.1"])
        keys["etcd-user"] = USER
        for key, source in (
            ("etcd-password-file", self._directory / "etcd.password"),
            ("etcd-ca-file", self._trusted),
            ("etcd-cert-file", issued.cert),
            ("etcd-key-file", issued.key),
        ):
            file = directory / key.removesuffix("-file")
            put_in_place(file, source.read_text(), user)
            keys[key] = str(file)
        return keys

    # --- what it tells -----------------------------------------------------------------------

    def requests(self) -> Counter[str]:
        """How many messages the members have got from clients, by gRPC method."""
        counted: Counter[str] = Counter()
        for member in self.members:
            for name, value in member.metrics().items():
                if name.startswith("grpc_server_msg_received_total{"):
                    method = name.partition('grpc_method="')[2].partition('"')[0]
                    counted[method] += int(value)
        return counted

    def logs(self) -> str:
        return "\n".join(f"--- {each.name}\n{each.log()[-2000:]}" for each in self.members)


def put_in_place(file: Path, text: str, user: str) -> None:
    """Replaces a file by renaming: whoever reads it gets the old or the new one as a whole."""
    new = file.with_name(f"{file.name}.new")
    new.touch(mode=0o600)
    new.write_text(text)
    shutil.chown(new, user)
    new.rename(file)
