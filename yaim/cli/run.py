"""`yaim run`, and `yaim` without a command: takes part in the cluster."""

import argparse
import logging
from functools import partial
from pathlib import Path

from yaim.cli.options import (
    EX_CONFIG,
    add_config_options,
    add_source_option,
    load_config,
    load_or_exit,
    start_logs,
)
from yaim.config.config import Config

logger = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument(
        "--reload-config",
        metavar="FILE",
        help="what SIGHUP and SIGUSR1 read instead of the file of the start, which may be a copy"
        " made for that (LoadCredential= of systemd)",
    )
    add_source_option(parser)
    add_config_options(parser)


def run(options: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT, or until SIGUSR1, which leaves everything to the next process,
    if that one can find it."""
    loaded = load_or_exit(options, when_denied=EX_CONFIG)
    start_logs(loaded)
    for doubt in loaded.doubts:
        logger.warning("%s", doubt)
    # Only now: who made a mistake in the configuration is told it at once.
    from yaim.coordinator.file_watch import FileWatch
    from yaim.coordinator.loop import Coordinator
    from yaim.wiring import lost_by_restart, start_parts

    source = options.config_source or loaded.file
    watch: FileWatch | None = None
    if source is not None:
        at_source = argparse.Namespace(**{**vars(options), "config": str(source.absolute())})
        watch = FileWatch(source.absolute(), loaded, lambda: load_config(at_source))

    def load() -> Config:
        if options.reload_config is not None:
            options.config = options.reload_config
        new = load_config(options)
        if watch is not None:
            watch.note_read(new)
        return new

    def load_next() -> Config:
        """Reads the configuration as the next process will. If there is no copy that was made for
        it, then the file is one that we cannot read, and nothing is known to have changed."""
        file = options.reload_config
        return loaded if file is not None and not Path(file).exists() else load()

    def lost_next(now: Config) -> list[str]:
        return lost_by_restart(now, load_next())

    start = partial(start_parts, file_watch=watch)
    return Coordinator(loaded, start, load, lost_next).run()
