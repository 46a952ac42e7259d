"""`yaim supervise`: runs helper and coordinator where there is no systemd."""

import argparse
import os
from contextlib import ExitStack, suppress
from pathlib import Path

from yaim.cli.options import (
    EX_CANNOT_START,
    EX_CONFIG,
    add_config_options,
    add_process_options,
    complain,
    flags,
    load_or_exit,
    start_logs,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    add_process_options(parser)
    parser.add_argument("--daemon", action="store_true", help="go into the background")
    parser.add_argument(
        "--pid-file",
        type=Path,
        metavar="FILE",
        default=Path("/run/yaim.pid"),
        help="with --daemon; default: %(default)s",
    )
    parser.add_argument(
        "--log-file",
        type=Path,
        metavar="FILE",
        default=Path("/var/log/yaim.log"),
        help="with --daemon; default: %(default)s",
    )
    add_config_options(parser)


def run(options: argparse.Namespace) -> int:
    loaded = load_or_exit(options, when_denied=EX_CONFIG)
    start_logs(loaded)
    from yaim.supervisor.daemon import daemonize, require_room
    from yaim.supervisor.error import SuperviseError
    from yaim.supervisor.listener import listen, remove_socket
    from yaim.supervisor.run import supervise, user_named

    def forget_socket() -> None:
        """Ends silently: there is nothing more to be said about the socket."""
        with suppress(SuperviseError, OSError):
            remove_socket(socket_path)

    # What the configuration calls the helper's socket is the one that the supervisor makes.
    socket_path: Path = loaded.value("helper-socket")
    try:
        if os.geteuid() != 0:
            raise SuperviseError("must be run as root, to start the helper")
        require_room()
        user = user_named(options.user, "coordinator", "--user")
        helper_user = user_named(options.helper_user, "helper", "--helper-user")
        arguments = [f"--{name}={value}" for name, value in flags(options).items()]
        if loaded.file is not None:
            arguments.append(f"--config={loaded.file.absolute()}")
        with ExitStack() as stack:
            listener = listen(socket_path, user)
            stack.callback(forget_socket)
            if options.daemon:
                files = options.pid_file.absolute(), options.log_file.absolute()
                stack.enter_context(daemonize(*files, listener))
            helper_config = options.helper_config.absolute()
            return supervise(user, helper_user, helper_config, listener, arguments)
    except SuperviseError as error:
        complain(str(error))
        return EX_CANNOT_START
