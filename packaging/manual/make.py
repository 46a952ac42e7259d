"""The man pages and the completion for bash, zsh, fish: packaging/manual/make.py DIRECTORY

The sources are the parsers with their help texts, and yaim.yml.example and helper.yml.example with
a comment for each key. Only text that no other reader needs is in the pages below. The date is that
of SOURCE_DATE_EPOCH: the same source gives the same bytes.

Needs what the files of yaim/cli/ import, PyYAML and requests; and shtab for zsh. Source: man(7),
groff_man_style(7), fish's complete(1).
"""

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from completion import bash, fish, zsh
from programs import (
    ROOT,
    Command,
    audit_tools,
    cli,
    commands,
    help_of,
    helper,
    policy_tools,
    whole_helper,
)

from yaim import __version__

# --- roff ----------------------------------------------------------------------------------------


def roff(text: str) -> str:
    """Returns the text escaped, so that roff prints it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = text.replace("^", "\\(ha").replace("`", "\\(ga").replace("~", "\\(ti")
    return re.sub(r"(?m)^\.", r"\\&.", text)


def bold(text: str) -> str:
    return f"\\fB{roff(text)}\\fR"


def verbatim(lines: list[str]) -> str:
    """Returns the lines as an indented example."""
    return "\n".join([".IP", ".EX", *map(roff, lines), ".EE"])


def tagged(tags: list[str], *texts: str) -> str:
    """Returns a paragraph with one or several tags and one text that describes them."""
    head = [".TP", tags[0]]
    for tag in tags[1:]:
        head += [".TQ", tag]
    return "\n".join([*head, *filter(None, texts)])


def page(name: str, section: int, what: str, *parts: str) -> str:
    date = time.strftime(
        "%Y-%m-%d", time.gmtime(float(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    )
    head = f'.TH {roff(name.upper())} {section} {date} "yaim {__version__}" yaim'
    return "\n".join(
        [head, ".ad l", ".nh", ".SH NAME", f"{roff(name)} \\- {roff(what)}", *parts, ""]
    )


# --- parsers -------------------------------------------------------------------------------------


MANY = 5
"""An option that so many commands have, with the same help, is told once, for all of them."""


def told(command: Command, shared: Collection[str] = ()) -> str:
    """Returns a command with its options; those that are told elsewhere only by their names."""
    usage = [_in_usage(each) for each in command.options() if not each.option_strings]
    apart = [each for each in command.options() if _text(each, command) in shared]
    texts = [
        _text(each, command)
        for each in command.options()
        # What an argument is, its name says already where there is no help.
        if each not in apart and (each.option_strings or help_of(each, command.parser))
    ]
    if apart:
        texts.append(
            f".P\nCommon options: {', '.join(bold(each.option_strings[0]) for each in apart)}"
        )
    head = " ".join([bold(command.words), *usage])
    more = [".RS", *texts, ".RE"] if texts else []
    epilog = command.parser.epilog
    is_table = command.parser.formatter_class is argparse.RawDescriptionHelpFormatter
    status = [".IP", *([".nf"] * is_table), roff(epilog), *([".fi"] * is_table)] if epilog else []
    return "\n".join([tagged([head], roff(command.help)), *more, *status])


def _text(action: argparse.Action, command: Command) -> str:
    """An option or argument, and what it is for."""
    names = ", ".join(map(bold, action.option_strings))
    tag = f"{names}{_argument(action)}" if names else f"\\fI{roff(_name(action))}\\fR"
    return tagged([tag], roff(help_of(action, command.parser)))


def shared_options(found: Sequence[Command]) -> list[str]:
    """Returns the options that many commands have alike, in the order in which they come."""
    counts = Counter(
        _text(each, command)
        for command in found
        for each in command.options()
        if each.option_strings
    )
    return [text for text, count in counts.items() if count >= MANY]


def _name(action: argparse.Action) -> str:
    return str(action.metavar or action.dest)


def _in_usage(action: argparse.Action) -> str:
    """An argument as the line of its command shows it: in brackets if it may be left out, with dots
    if there may be several."""
    name = f"\\fI{roff(_name(action))}\\fR"
    match action.nargs:
        case argparse.OPTIONAL:
            return f"[{name}]"
        case argparse.ZERO_OR_MORE:
            return f"[{name} ...]"
        case argparse.ONE_OR_MORE | argparse.REMAINDER:
            return f"{name} ..."
        case _:
            return name


def _argument(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f" \\fI{roff(str(action.metavar or action.dest.upper()))}\\fR"


# --- example files -------------------------------------------------------------------------------

_KEY = re.compile(r"#?([a-z][a-z0-9-]*):(?: (.*))?$")


def example(file: Path) -> str:
    """Returns each key with the comment in front of it, which several keys may share. Indented
    lines are shown as they are."""
    blocks = re.split(r"\n\n+", file.read_text().strip())
    return "\n".join(part for block in blocks for part in _section(block.splitlines()))


def _section(lines: list[str]) -> Iterator[str]:
    is_titled = lines[0].startswith("###")
    if is_titled:
        yield f'.SS "{roff(lines.pop(0).strip("# "))}"'
        if lines and lines[0] == "#":
            lines.pop(0)
    comment = []
    while lines and (lines[0] == "#" or lines[0].startswith("# ")):
        comment.append(lines.pop(0)[2:])
    keys: list[str] = []
    rest: list[str] = []
    while lines:
        line = lines.pop(0)
        found = _KEY.match(line)
        if found and not rest and not (lines and lines[0].startswith(" ")):
            keys.append(f"{bold(found[1])}: {roff(found[2] or '')}".rstrip())
        elif found and not rest:
            keys.append(bold(found[1]))
            rest.append(line)
        else:
            rest.append(line)
    if keys:
        yield tagged(keys, _prose(comment, ".IP"))
        if rest:
            yield verbatim(rest)
    else:
        yield _prose(comment, ".P") if is_titled else f".P\n{_prose(comment, '.P')}"


def _prose(comment: list[str], apart: str) -> str:
    """Returns paragraphs with `apart` in between; indented lines and keys stay as they are."""
    text, shown = [], []
    for line in comment:
        if line.startswith(" ") or line == "checks:":
            shown.append(line)
        else:
            text.append(roff(line) if line else apart)
    while text and text[-1] == apart:
        text.pop()
    return "\n".join([*text, *([verbatim(shown)] if shown else [])])


# --- the pages -----------------------------------------------------------------------------------

ABOUT = """keeps a pool of virtual IP addresses on a set of nodes. Each node checks a service of
its own; the healthy ones share the addresses evenly, by way of etcd; when one fails, the others
take over what it held. No address is on two nodes at once: each has a deadline, kept by
yaim-helper(8) and by the kernel."""


def yaim_1() -> str:
    parser = cli.parser()
    found = list(commands("yaim", parser))
    shared = shared_options(found)
    common = [".SS Common options", *shared] if shared else []
    return page(
        "yaim",
        1,
        "keeps a pool of virtual IP addresses on a set of nodes",
        f".SH SYNOPSIS\n{bold('yaim')} [\\fICOMMAND\\fR] [\\fB\\-\\-config\\fR \\fIFILE\\fR]"
        " [\\fB\\-\\-\\fIKEY\\fR \\fIVALUE\\fR ...] [\\fIOPTION\\fR ...]",
        f".SH DESCRIPTION\n{bold('yaim')} {roff(ABOUT)}",
        f".P\n{roff('Without a command it does ')}{bold('yaim run')}.",
        ".SH COMMANDS",
        *(told(each, shared) for each in found),
        *common,
        f""".SH OPTIONS
All commands except those of {bold("yaim lab")} take these.
.TP
{bold("--config")} \\fIFILE\\fR
{roff(help_of(next(a for a in parser._actions if a.dest == "config"), parser))}
.TP
{bold("--")}\\fIKEY\\fR \\fIVALUE\\fR
Any key of yaim.yml(5), except the list {bold("checks")}.
.SH EXIT STATUS
.TP
0
yaim was stopped, or all is well.
.TP
1
No: it is refused, or yaim cannot start; {bold("check")}: the node is not healthy;
{bold("doctor")}: there are problems; {bold("status")}: the cluster is degraded.
.TP
2
The usage is wrong.
.TP
3
Blocked, or not done in time: it goes on.
.TP
69
etcd is unreachable; {bold("run")}: another node has this node\\(aqs name.
.TP
77
It is not permitted: a right in etcd is missing, or a file cannot be read.
.TP
78
The configuration is wrong.
.SH ENVIRONMENT
.TP
{bold("YAIM_")}\\fIKEY\\fR
The same as the flag, with underscores. A flag overrides the environment, which overrides the file.
.TP
{bold("YAIM_CONFIG")}
The same as {bold("--config")}.
.SH SIGNALS
.TP
SIGTERM, SIGINT
yaim releases its addresses, and others take them over ({bold("systemctl stop yaim")}).
.TP
SIGHUP
yaim reads the configuration again. A wrong one changes nothing ({bold("systemctl reload yaim")}).
.TP
SIGUSR1
yaim ends and leaves lease and addresses to the next process ({bold("systemctl restart yaim")}).
.SH FILES
.TP
/etc/yaim/yaim.yml
The configuration: yaim.yml(5). {bold("yaim@")}\\fINAME\\fR{bold(".service")} reads
/etc/yaim/\\fINAME\\fR.yml.
.TP
/etc/yaim/helper.yml
What the helper may do: helper.yml(5).
.TP
/run/yaim\\-helper/helper.sock
The socket on which the helper listens.
.TP
/run/yaim\\-check/now
The file by whose opening the coordinator is asked for checks; for yaim@\\fINAME\\fR.service
it is /run/yaim\\-check@\\fINAME\\fR/now.
.SH EXAMPLES
{tagged([bold("yaim doctor")], "This shows what is missing on this host, or wrong.")}
{tagged([bold("yaim status")], "This shows who holds which address, and what is wrong.")}
{tagged([bold("journalctl YAIM_CLUSTER=pg YAIM_NODE=db1")], "This shows the log of that node.")}
.SH SEE ALSO
yaim\\-helper(8), yaim.yml(5), helper.yml(5), etcdctl(1), systemctl(1)""",
    )


def yaim_helper_8() -> str:
    parser = helper.parser()
    serve = Command("yaim-helper", parser.description or "", parser)
    return page(
        "yaim-helper",
        8,
        "adds and removes addresses within an allowlist",
        f".SH SYNOPSIS\n{bold('yaim-helper')} [\\fIOPTION\\fR ...]\n.br\n"
        f"{bold('yaim-helper policy')} \\fICOMMAND\\fR ...\n.br\n"
        f"{bold('yaim-helper audit')} \\fICOMMAND\\fR ...",
        f""".SH DESCRIPTION
{bold("yaim-helper")} is the only part of yaim(1) with power over the network. It adds addresses to
interfaces and takes them off, for the users that helper.yml(5) names, and only as that file allows;
tells the neighbours; and records every command before it has an effect. It takes an address off
at its deadline unless it is renewed, also when nobody tells it to; if it is killed or frozen,
the kernel does. Where the kernel has nf_tables, an address answers nothing from its deadline on
({bold("nft list ruleset")} shows its tables, yaim\\-NUMBER); {bold("fence: off")} in helper.yml(5)
turns that off.""",
        ".SH COMMANDS",
        told(serve),
        *map(told, commands("yaim-helper policy", policy_tools.parser())),
        *map(told, commands("yaim-helper audit", audit_tools.parser())),
        f""".SH PRIVILEGES
Started as root, the helper becomes a user of its own ({bold("--user")}) and keeps CAP_NET_ADMIN and
CAP_NET_RAW; yaim\\-helper.service starts it as this user with these two. It can gain nothing more,
starts no process and dumps no core.
.SH SIGNALS
.TP
SIGTERM, SIGINT
The helper ends. Addresses stay until their deadlines.
.TP
SIGHUP
The helper reads helper.yml(5) again and removes what is not allowed any more. A wrong file changes
nothing.
.SH FILES
.TP
/etc/yaim/helper.yml
What the helper may do. Nobody but root may be able to change this file.
.TP
/var/log/yaim\\-helper
The record, in segments that the package makes append\\-only. Move old ones away, oldest first,
after {bold("chattr -a")}.
.TP
/run/yaim\\-helper/helper.sock
The socket on which the helper listens.
.TP
/usr/lib/modules\\-load.d/yaim.conf
Has nf_tables loaded when the host boots.
.SH SEE ALSO
yaim(1), helper.yml(5), capabilities(7), chattr(1), nft(8)""",
    )


POOL = {
    "interface": ('"eth1"', "Holders put the address on this interface, and not on their own one."),
    "prefix": ("24", "With this prefix length; otherwise netmask or netmask6 says it."),
    "exclude": (
        '["db1", "db2"]',
        "Nodes that never hold it: a name, or a list of them.",
    ),
    "prefer": (
        '"db3"',
        "Nodes that hold it while they are healthy: a name, or a list of them. It moves to one that"
        " becomes healthy, which costs clients a hand-over.",
    ),
    "critical": (
        '["interface"]',
        "Options that no version of yaim may ignore: one that does not know an option cannot hold"
        " the address then. Otherwise it holds it as if the option were not there.",
    ),
}
"""The options of an address, each with an example."""


def pool() -> str:
    """What may stand in etcd for an address (yaim/dcs/records.py)."""
    options = [
        tagged([f"{bold(f'{chr(34)}{name}{chr(34)}')}: {roff(given)}"], roff(what))
        for name, (given, what) in POOL.items()
    ]
    head = f"""The addresses are in etcd, a key for each:
.IP
.EX
{roff("<dcs-namespace>/<dcs-clustername>/ips/192.0.2.10")}
.EE
.P
The value is empty, or JSON with options, such as {bold('{"interface": "eth1", "prefix": 24}')}.
A change counts at once, on all nodes."""
    return "\n".join([".SH POOL", head, *options])


def yaim_yml_5() -> str:
    return page(
        "yaim.yml",
        5,
        "configuration of yaim",
        ".SH DESCRIPTION\nYAML. Each key is shown with its default, or with an example.",
        example(ROOT / "yaim.yml.example"),
        pool(),
        ".SH SEE ALSO\nyaim(1), helper.yml(5)",
    )


def helper_yml_5() -> str:
    return page(
        "helper.yml",
        5,
        "what yaim's privileged helper may do on this host",
        ".SH DESCRIPTION\nYAML. Each key is shown with its default, or with an example.",
        example(ROOT / "helper.yml.example"),
        ".SH SEE ALSO\nyaim\\-helper(8), yaim(1)",
    )


FILES: dict[str, Callable[[], str]] = {
    "yaim.1": yaim_1,
    "yaim-helper.8": yaim_helper_8,
    "yaim.yml.5": yaim_yml_5,
    "helper.yml.5": helper_yml_5,
    "yaim": bash,
    "_yaim": lambda: zsh("yaim", cli.parser()),
    "_yaim-helper": lambda: zsh("yaim-helper", whole_helper()),
    "yaim.fish": lambda: fish("yaim"),
    "yaim-helper.fish": lambda: fish("yaim-helper"),
}


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, made in FILES.items():
        (directory / name).write_text(made())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} DIRECTORY")
    main(Path(sys.argv[1]))
