"""`yaim lab`: a cluster on this machine, to see what yaim does."""

import argparse
import os
import signal
from typing import NoReturn

from yaim.cli.options import EX_CANNOT_START, add_command, complain
from yaim.cli.parsers import number_from


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    commands = parser.add_subparsers(metavar="COMMAND", dest="lab_command", required=True)
    for name, text in (
        ("run", "play a story: nodes fail, recover, die and are cut off; show what clients see"),
        ("up", "start a lab in the background, to play with by hand"),
        ("keep", None),
    ):
        command = add_command(commands, name, help=text)
        least = 3 if name == "run" else 1
        for option, most, default in (("--nodes", 20, 3), ("--addresses", 100, 6)):
            command.add_argument(
                option,
                type=number_from(least if option == "--nodes" else 1, most),
                metavar="NUMBER",
                default=default,
                help=f"at most {most}; default: %(default)s",
            )
        if name == "keep":
            command.add_argument("--ready-fd", type=int)
    add_command(commands, "status", help="who holds what")
    for name, text in (
        ("fail", "make a node's service fail"),
        ("kill", "kill all of a node's processes with -9"),
        ("cut", "cut a node off from etcd, the other nodes and the client"),
        ("stop", "stop yaim on a node, as systemctl would"),
        ("start", "start it again"),
        ("heal", "undo all of these"),
    ):
        add_command(commands, name, help=text).add_argument("node", help="n1, n2, ...")
    execute = add_command(commands, "exec", help="run a program as if on a node")
    execute.add_argument("node", help="n1, n2, ...")
    execute.add_argument(
        "program", nargs=argparse.REMAINDER, help="for example: yaim status, or ip address"
    )
    add_command(commands, "down", help="end it; nothing is left behind")


def run(options: argparse.Namespace) -> int:
    from yaim.lab.namespaces import LabError, enter_private_network

    def end(number: int, _frame: object) -> NoReturn:
        """Raises an exception, so that everything is cleaned up."""
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
        complain(str(error))
        return EX_CANNOT_START
    return 0
