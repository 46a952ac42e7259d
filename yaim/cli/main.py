"""The command `yaim`: sub-commands and their options."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from yaim import __version__
from yaim.config import config
from yaim.config.config import ENVIRONMENT_PREFIX, KEYS, Config, Purpose
from yaim.config.file import ConfigError, Issue
from yaim.host import logs
from yaim.text import printable_lines

EX_CONFIG = 78
"""sysexits.h: the configuration is wrong."""
EX_USAGE = 2
"""As argparse's own."""
EX_CANNOT_START = 1
LOOK_WITHIN_S = 2.0
"""How long `status` waits for etcd's certificates: an endpoint may be down."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    open_standard_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(_with_dashes(given))
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def open_standard_streams() -> None:
    """Those that were closed before this process began lead nowhere: else what is opened next, the
    helper's socket say, would get the number, and all that is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _with_dashes(arguments: Sequence[str]) -> list[str]:
    """--retry_num=2 is --retry-num=2; but `yaim lab exec` passes on what comes behind it."""
    words = list(pairwise(["", *arguments]))
    ours = words.index(("lab", "exec")) if ("lab", "exec") in words else len(arguments)
    changed = []
    for argument in arguments[:ours]:
        name, equals, value = argument.partition("=")
        changed.append(
            name.replace("_", "-") + equals + value if name.startswith("--") else argument
        )
    return [*changed, *arguments[ours:]]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="yaim",
        allow_abbrev=False,
        description="Keeps a pool of virtual IP addresses on a set of nodes. Default command: run.",
    )
    parser.add_argument("--version", action="version", version=f"yaim {__version__}")
    _add_config_options(parser)
    parser.set_defaults(command=_run, reload_config=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    run = _command(commands, "run", help="take part in the cluster, until SIGTERM or SIGINT")
    run.set_defaults(command=_run)
    run.add_argument(
        "--reload-config",
        metavar="FILE",
        help="what SIGHUP and SIGUSR1 read instead of the file of the start, which may be a copy"
        " made for that (LoadCredential= of systemd)",
    )
    _add_config_options(run)

    supervise = _command(
        commands,
        "supervise",
        help="without systemd: run helper and coordinator, and keep them running",
    )
    supervise.set_defaults(command=_supervise)
    _add_other_parts(supervise)
    supervise.add_argument("--daemon", action="store_true", help="go into the background")
    supervise.add_argument(
        "--pid-file",
        type=Path,
        metavar="FILE",
        default=Path("/run/yaim.pid"),
        help="with --daemon; default: %(default)s",
    )
    supervise.add_argument(
        "--log-file",
        type=Path,
        metavar="FILE",
        default=Path("/var/log/yaim.log"),
        help="with --daemon; default: %(default)s",
    )
    _add_config_options(supervise)

    status = _command(
        commands,
        "status",
        help="show who holds what; exit status 0: healthy, 1: degraded, 2: etcd is unreachable",
    )
    status.set_defaults(command=_status)
    status.add_argument("--json", action="store_true", help="for programs")
    _add_config_options(status)

    check = _command(
        commands,
        "check",
        help="make the checks once and tell what they find; exit status 0: healthy, 1: not",
    )
    check.set_defaults(command=_check)
    check.add_argument("name", metavar="NAME", nargs="?", help="only this check")
    check.add_argument("--json", action="store_true", help="for programs")
    _add_config_options(check)

    doctor = _command(
        commands,
        "doctor",
        help="tell what is missing on this node or wrong with it, and what to do; changes nothing;"
        " exit status 0: nothing is wrong, 1: there are problems",
    )
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--json", action="store_true", help="for programs")
    _add_other_parts(doctor)
    _add_config_options(doctor)

    lab = _command(commands, "lab", help="a cluster on this machine, to see what yaim does")
    _add_lab_commands(lab)

    config_ = _command(commands, "config", help="look at the configuration")
    config_commands = config_.add_subparsers(metavar="check|show", required=True)
    check = _command(config_commands, "check", help="tell everything that is wrong with it")
    check.set_defaults(command=_config_check)
    check.add_argument(
        "--draft", action="store_true", help="do not mind who else can change the file"
    )
    _add_config_options(check)
    show = _command(
        config_commands, "show", help="show the values in force and where each comes from"
    )
    show.set_defaults(command=_config_show)
    _add_config_options(show)
    return parser


def _command(commands: Any, name: str, help: str | None) -> argparse.ArgumentParser:
    """Without help it is not listed. Options are not to be abbreviated: a key that comes later
    could make one ambiguous."""
    listed = {} if help is None else {"help": help}
    made: argparse.ArgumentParser = commands.add_parser(name, allow_abbrev=False, **listed)
    return made


def _add_other_parts(parser: argparse.ArgumentParser) -> None:
    """Who runs what, and the helper's file: the coordinator does without."""
    parser.add_argument(
        "--user", default="yaim", help="whom the coordinator runs as; default: %(default)s"
    )
    parser.add_argument(
        "--helper-user",
        default="yaim-helper",
        help="whom the helper becomes; default: %(default)s",
    )
    parser.add_argument(
        "--helper-config",
        type=Path,
        metavar="FILE",
        default=Path("/etc/yaim/helper.yml"),
        help="the helper's allowlist; default: %(default)s",
    )


def _add_lab_commands(lab: argparse.ArgumentParser) -> None:
    lab.set_defaults(command=_lab)
    commands = lab.add_subparsers(metavar="COMMAND", dest="lab_command", required=True)
    for name, text in (
        ("run", "play a story: nodes fail, recover, die and are cut off; show what clients see"),
        ("up", "start a lab in the background, to play with by hand"),
        ("keep", None),
    ):
        command = _command(commands, name, help=text)
        least = 3 if name == "run" else 1
        for option, most, default in (("--nodes", 20, 3), ("--addresses", 100, 6)):
            command.add_argument(
                option,
                type=int,
                choices=range(least if option == "--nodes" else 1, most + 1),
                metavar="NUMBER",
                default=default,
                help=f"at most {most}; default: %(default)s",
            )
        if name == "keep":
            command.add_argument("--ready-fd", type=int)
    _command(commands, "status", help="who holds what")
    for name, text in (
        ("fail", "make a node's service fail"),
        ("kill", "kill all of a node's processes with -9"),
        ("cut", "cut a node off from etcd, the other nodes and the client"),
        ("heal", "undo all of these"),
    ):
        _command(commands, name, help=text).add_argument("node", help="n1, n2, ...")
    execute = _command(commands, "exec", help="run a program as if on a node")
    execute.add_argument("node", help="n1, n2, ...")
    execute.add_argument("program", nargs=argparse.REMAINDER, help="for example: ip address")
    _command(commands, "down", help="end it; nothing is left behind")


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "configuration",
        f"Each key can also stand in the file, or in the environment as {ENVIRONMENT_PREFIX}KEY.",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=f"default: {', or '.join(map(str, config.DEFAULT_FILES))} in the current directory",
    )
    for name, key in KEYS.items():
        group.add_argument(
            f"--{name}",
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=key.help.replace("%", "%%"),
        )


def _flags(options: argparse.Namespace) -> dict[str, str]:
    """The configuration keys given as flags."""
    given = vars(options)
    return {name: given[name.replace("-", "_")] for name in KEYS if name.replace("-", "_") in given}


def load_config(options: argparse.Namespace, purpose: Purpose = Purpose.NODE) -> Config:
    """Raises ConfigError."""
    file = getattr(options, "config", None) or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    return config.load(
        _flags(options),
        os.environ,
        Path(file) if file else None,
        purpose,
        is_draft=getattr(options, "draft", False),
    )


def _load_or_exit(options: argparse.Namespace, purpose: Purpose = Purpose.NODE) -> Config:
    for warning in config.environment_warnings(os.environ):
        _complain(f"warning: {warning}")
    try:
        return load_config(options, purpose)
    except ConfigError as error:
        for issue in error.issues:
            _complain(str(issue))
        raise SystemExit(EX_CONFIG) from None


def _complain(text: str) -> None:
    print(printable_lines(f"yaim: {text}"), file=sys.stderr)


def _start_logs(loaded: Config) -> None:
    names = {"YAIM_CLUSTER": loaded.dcs_clustername, "YAIM_NODE": loaded.nodename}
    logs.start(loaded.log_level, {name: text for name, text in names.items() if text})


def _run(options: argparse.Namespace) -> int:
    loaded = _load_or_exit(options)
    _start_logs(loaded)
    from yaim.coordinator import loop as coordinator

    def load() -> Config:
        if options.reload_config is not None:
            options.config = options.reload_config
        return load_config(options)

    def load_next() -> Config:
        """Without a copy that was made for it nothing is known of a file that we cannot read."""
        file = options.reload_config
        return loaded if file is not None and not Path(file).exists() else load()

    return coordinator.run(loaded, load, load_next)


def _supervise(options: argparse.Namespace) -> int:
    loaded = _load_or_exit(options)
    _start_logs(loaded)
    from yaim.supervisor import run as supervisor

    try:
        if os.geteuid() != 0:
            raise supervisor.SuperviseError("must be run as root, to start the helper")
        supervisor.require_room()
        user = supervisor.user_named(options.user, "coordinator", "--user")
        helper_user = supervisor.user_named(options.helper_user, "helper", "--helper-user")
        arguments = [f"--{name}={value}" for name, value in _flags(options).items()]
        if loaded.file is not None:
            arguments.append(f"--config={loaded.file.absolute()}")
        with ExitStack() as stack:
            listener = supervisor.listen(loaded.helper_socket, user)
            stack.callback(_forget, loaded.helper_socket)
            if options.daemon:
                files = options.pid_file.absolute(), options.log_file.absolute()
                stack.enter_context(supervisor.daemonize(*files, listener))
            helper_config = options.helper_config.absolute()
            return supervisor.supervise(user, helper_user, helper_config, listener, arguments)
    except supervisor.SuperviseError as error:
        _complain(str(error))
        return EX_CANNOT_START


def _forget(socket_: Path) -> None:
    """When there is nothing more to be said about it."""
    from yaim.supervisor import run as supervisor

    with suppress(supervisor.SuperviseError, OSError):
        supervisor.remove_socket(socket_)


def _status(options: argparse.Namespace) -> int:
    loaded = _load_or_exit(options, Purpose.CLUSTER)
    from yaim import status
    from yaim import wiring as configured
    from yaim.dcs.etcd.access import EtcdError
    from yaim.dcs.etcd.diagnose import all_expiries, explain_all

    keys, client = configured.keys_of(loaded), configured.etcd_client_of(loaded)
    access = configured.etcd_access_of(loaded)
    try:
        view = keys.view(*client.read_ranges(*keys.ranges()))
    except EtcdError as error:
        explained = explain_all(error, access, LOOK_WITHIN_S)
        if options.json:
            print(json.dumps({"status": "unreachable", "error": explained}, indent=2))
        else:
            _complain(f"cannot read etcd: {explained}")
        return status.Condition.UNREACHABLE
    try:
        alarms = client.alarms()
    except EtcdError:  # it has just answered: what is missing to ask for this?
        alarms = frozenset()
    certificates = status.certificates_of(all_expiries(access, LOOK_WITHIN_S), datetime.now(UTC))
    found = status.status_of(keys.prefix, view, certificates, alarms)
    print(status.as_json(found) if options.json else status.as_table(found))
    return found.condition


def _check(options: argparse.Namespace) -> int:
    loaded = _load_or_exit(options, Purpose.CHECKS)
    _start_logs(loaded)
    from yaim import wiring as configured
    from yaim.checks import once

    plans = configured.check_plans_of(loaded)
    if options.name is not None:
        names = [plan.name for plan in plans]
        plans = tuple(plan for plan in plans if plan.name == options.name)
        if not plans:
            _complain(f"there is no check {options.name!r}: there are {', '.join(names)}")
            return EX_USAGE
    if os.geteuid() == 0:
        _complain("warning: made as root; yaim's own user may be allowed less, or more")
    found, is_any_enough = once.check_once(plans), loaded.healthy_when == "any"
    show = once.as_json if options.json else once.as_table
    print(show(found, is_any_enough))
    return 0 if once.is_healthy(found, is_any_enough) else 1


def _doctor(options: argparse.Namespace) -> int:
    from yaim.doctor import finding, run

    given = getattr(options, "config", None) or os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    if not given:
        given = next(filter(os.path.lexists, config.DEFAULT_FILES), config.DEFAULT_FILES[0])
    options.config = str(Path(given).absolute())
    subject = run.Subject(
        file=Path(options.config),
        load=lambda purpose: load_config(options, purpose),
        helper_config=options.helper_config.absolute(),
        user=options.user,
        helper_user=options.helper_user,
    )
    findings = run.examine(subject)
    print(finding.as_json(findings) if options.json else finding.as_table(findings))
    return finding.exit_status(findings)


def _lab(options: argparse.Namespace) -> int:
    from yaim.lab.namespaces import LabError, enter_private_network

    def end(number: int, _frame: object) -> NoReturn:
        """As an exception, so that everything is cleaned up."""
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    os.umask(0o022)
    try:
        if os.geteuid() != 0:
            raise LabError("the lab needs root: it makes network namespaces")
        if options.lab_command in ("run", "keep"):
            enter_private_network()
        if options.lab_command == "run":
            from yaim.lab import story

            return story.play(options.nodes, options.addresses)
        from yaim.lab import control

        if options.lab_command == "keep":
            control.keep(options.nodes, options.addresses, options.ready_fd)
        elif options.lab_command == "up":
            print(control.up(options.nodes, options.addresses))
        elif options.lab_command == "exec":
            command = control.command_in(options.node, options.program)
            os.execvp(command[0], command)
        else:
            print(control.ask(options.lab_command, getattr(options, "node", "")))
    except LabError as error:
        _complain(str(error))
        return EX_CANNOT_START
    return 0


def _config_check(options: argparse.Namespace) -> int:
    """Looks into the TLS files for etcd, too. `run` starts with files that do not belong together
    at the moment: it reads them anew whenever it connects. Warns of a missing interface."""
    loaded = _load_or_exit(options)
    from yaim import wiring as configured
    from yaim.dcs.etcd.access import EtcdError, read_secrets
    from yaim.dcs.etcd.certificates import expiries, faults
    from yaim.dcs.etcd.expiry import warnings_of
    from yaim.host import interfaces

    access = configured.etcd_access_of(loaded)
    try:
        secrets = read_secrets(access)
    except EtcdError as error:
        _complain(str(error))
        return EX_CONFIG
    wrong = [
        Issue(loaded.origins[fault.key], fault.key, str(fault.path), fault.expected)
        for fault in faults(access, secrets)
    ]
    for issue in wrong:
        _complain(str(issue))
    if wrong:
        return EX_CONFIG
    for warning in warnings_of(expiries(access, secrets), datetime.now(UTC)):
        _complain(f"warning: {warning}")
    # It may come later, as bonds and VLANs do.
    if why_missing := interfaces.why_missing(loaded.interface):
        _complain(f"warning: {loaded.origins.get('interface', '')}: interface: {why_missing}")
    print("the configuration is good")
    return 0


def _config_show(options: argparse.Namespace) -> int:
    rows = _load_or_exit(options).shown()
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return 0
