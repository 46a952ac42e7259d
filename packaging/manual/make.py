"""The man pages and the shell completion: python3 packaging/manual/make.py DIRECTORY

All of it is made from what is there for other readers, too: the parsers with their help texts, and
yaim.yml.example and helper.yml.example with a comment for each key. What only a man page tells is
in the pages below. The date is that of SOURCE_DATE_EPOCH: the same source gives the same bytes.

Needs what yaim.cli.main imports: PyYAML and requests. Source: man(7), groff_man_style(7).
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "helper")]

from yaim_helper.serve import start as helper  # noqa: E402
from yaim_helper.tools import audit as audit_tools  # noqa: E402
from yaim_helper.tools import policy as policy_tools  # noqa: E402

from yaim import __version__  # noqa: E402
from yaim.cli import main as cli  # noqa: E402
from yaim.config.config import KEYS  # noqa: E402

# --- roff ----------------------------------------------------------------------------------------


def roff(text: str) -> str:
    """Text as it is: no backslash, hyphen or leading dot means anything."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = text.replace("^", "\\(ha").replace("`", "\\(ga").replace("~", "\\(ti")
    return re.sub(r"(?m)^\.", r"\\&.", text)


def bold(text: str) -> str:
    return f"\\fB{roff(text)}\\fR"


def verbatim(lines: list[str]) -> str:
    """Indented."""
    return "\n".join([".IP", ".EX", *map(roff, lines), ".EE"])


def tagged(tags: list[str], *texts: str) -> str:
    """What is described, and how: one or several tags with one text."""
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


@dataclass(frozen=True)
class Command:
    """A program or a part of one."""

    words: str
    help: str
    parser: argparse.ArgumentParser

    def options(self) -> list[argparse.Action]:
        """Without --help and the keys of the configuration, which are told once."""
        return [
            each
            for each in self.parser._actions
            if not isinstance(each, argparse._SubParsersAction)
            and each.dest not in ("help", "config" if self.has_keys() else "")
            and not (each.option_strings and each.dest.replace("_", "-") in KEYS)
            and each.help != argparse.SUPPRESS
        ]

    def has_keys(self) -> bool:
        return any(each.dest == "dcs_clustername" for each in self.parser._actions)


def commands(words: str, parser: argparse.ArgumentParser, help: str = "") -> Iterator[Command]:
    """Those at the ends of the tree: what can be typed. Without those that are not listed."""
    subs = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if not subs:
        yield Command(words, help or parser.description or "", parser)
    for sub in subs:
        for listed in sub._choices_actions:
            name = listed.dest
            yield from commands(f"{words} {name}", sub.choices[name], listed.help or "")


def told(command: Command) -> str:
    usage = [
        f"\\fI{roff(_name(each))}\\fR" for each in command.options() if not each.option_strings
    ]
    texts = [
        tagged(
            [", ".join(map(bold, each.option_strings)) + _argument(each)]
            if each.option_strings
            else [f"\\fI{roff(_name(each))}\\fR"],
            roff(_help(each, command.parser)),
        )
        for each in command.options()
    ]
    head = " ".join([bold(command.words), *usage])
    more = [".RS", *texts, ".RE"] if texts else []
    epilog = command.parser.epilog
    is_table = command.parser.formatter_class is argparse.RawDescriptionHelpFormatter
    status = [".IP", *([".nf"] * is_table), roff(epilog), *([".fi"] * is_table)] if epilog else []
    return "\n".join([tagged([head], roff(command.help)), *more, *status])


def _name(action: argparse.Action) -> str:
    return str(action.metavar or action.dest)


def _argument(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f" \\fI{roff(str(action.metavar or action.dest.upper()))}\\fR"


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    choices = ", ".join(map(str, action.choices or ())) if not action.metavar else ""
    return f"{text}: {choices}" if text and choices else text or choices


# --- example files -------------------------------------------------------------------------------

_KEY = re.compile(r"#?([a-z][a-z0-9-]*):(?: (.*))?$")


def example(file: Path) -> str:
    """Each key below the comment in front of it; several share one. What is indented is shown as it
    is."""
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
    """Paragraphs, with this in between; what is indented or a key stays as it is."""
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
    return page(
        "yaim",
        1,
        "keeps a pool of virtual IP addresses on a set of nodes",
        f".SH SYNOPSIS\n{bold('yaim')} [\\fICOMMAND\\fR] [\\fB\\-\\-config\\fR \\fIFILE\\fR]"
        " [\\fB\\-\\-\\fIKEY\\fR \\fIVALUE\\fR ...] [\\fIOPTION\\fR ...]",
        f".SH DESCRIPTION\n{bold('yaim')} {roff(ABOUT)}",
        f".P\n{roff('Without a command it is ')}{bold('yaim run')}.",
        ".SH COMMANDS",
        *map(told, commands("yaim", parser)),
        f""".SH OPTIONS
All commands but those of {bold("yaim lab")} take these.
.TP
{bold("--config")} \\fIFILE\\fR
{roff(_help(next(a for a in parser._actions if a.dest == "config"), parser))}
.TP
{bold("--")}\\fIKEY\\fR \\fIVALUE\\fR
Any key of yaim.yml(5), but for the list {bold("checks")}.
.SH EXIT STATUS
.TP
0
Stopped, or all is well.
.TP
1
It cannot start; {bold("check")}, {bold("doctor")}: not healthy, problems;
{bold("status")}: degraded.
.TP
2
Wrong usage; {bold("status")}: etcd is unreachable.
.TP
69
Another node has this node\\(aqs name.
.TP
78
The configuration is wrong.
.SH ENVIRONMENT
.TP
{bold("YAIM_")}\\fIKEY\\fR
As the flag, with underscores. A flag goes before the environment, that before the file.
.TP
{bold("YAIM_CONFIG")}
As {bold("--config")}.
.SH SIGNALS
.TP
SIGTERM, SIGINT
The addresses are released: others take them over ({bold("systemctl stop yaim")}).
.TP
SIGHUP
The configuration is read anew. A wrong one changes nothing ({bold("systemctl reload yaim")}).
.TP
SIGUSR1
It ends and leaves lease and addresses to its next life ({bold("systemctl restart yaim")}).
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
Where the helper listens.
.SH EXAMPLES
{tagged([bold("yaim doctor")], "What is missing on this host, or wrong.")}
{tagged([bold('etcdctl put /service/pg/ips/192.0.2.10 ""')], "An address joins the pool of the")}
cluster pg.
{tagged([bold("journalctl YAIM_CLUSTER=pg YAIM_NODE=db1")], "What that node has logged.")}
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
interfaces and takes them off, as users ask whom helper.yml(5) names, and only what that allows;
tells the neighbours; and writes down every command before it has an effect. It takes an address off
at its deadline unless it is renewed, also when nobody tells it to; should it be killed or frozen,
the kernel does.""",
        ".SH COMMANDS",
        told(serve),
        *map(told, commands("yaim-helper policy", policy_tools.parser())),
        *map(told, commands("yaim-helper audit", audit_tools.parser())),
        f""".SH PRIVILEGES
Started as root it becomes a user of its own ({bold("--user")}) and keeps CAP_NET_ADMIN and
CAP_NET_RAW; yaim\\-helper.service starts it so. It can gain nothing more, starts no process and
dumps no core.
.SH SIGNALS
.TP
SIGTERM, SIGINT
It ends. Addresses stay until their deadlines.
.TP
SIGHUP
helper.yml(5) is read anew: what it does not allow any more is removed. A wrong one changes nothing.
.SH FILES
.TP
/etc/yaim/helper.yml
What it may do. Only root may be able to change it.
.TP
/var/log/yaim\\-helper
The record, in segments that the package makes append\\-only. Move old ones away, oldest first,
after {bold("chattr -a")}.
.TP
/run/yaim\\-helper/helper.sock
Where it listens.
.SH SEE ALSO
yaim(1), helper.yml(5), capabilities(7), chattr(1)""",
    )


def yaim_yml_5() -> str:
    return page(
        "yaim.yml",
        5,
        "configuration of yaim",
        ".SH DESCRIPTION\nYAML. Each key is shown with its default, or with an example.",
        example(ROOT / "yaim.yml.example"),
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


# --- completion ----------------------------------------------------------------------------------


def completion() -> str:
    """For bash. (shtab makes thirty copies of the keys' flags out of these parsers, and none of the
    helper's, which has three.)"""
    found = [
        Command("yaim", "", cli.parser()),
        *commands("yaim", cli.parser()),
        Command("yaim-helper", "", helper.parser()),
        *commands("yaim-helper policy", policy_tools.parser()),
        *commands("yaim-helper audit", audit_tools.parser()),
    ]
    keys = " ".join(f"--{name}" for name in ("config", *KEYS))
    flags = {
        name
        for command in found
        for each in command.parser._actions
        for name in each.option_strings
        if each.nargs == 0
    }
    lines = ["# bash completion of yaim and yaim-helper: made from their parsers", "_yaim() {"]
    lines += [f'    local keys="{keys}"', f'    local flags="{" ".join(sorted(flags))}"']
    lines += ["    local -A next=("]
    tree: dict[str, set[str]] = {}
    for command in found:
        words = command.words.split()
        for depth in range(1, len(words)):
            tree.setdefault(" ".join(words[:depth]), set()).add(words[depth])
    lines += [f'        ["{words}"]="{" ".join(sorted(names))}"' for words, names in tree.items()]
    lines += ["    )", "    local -A options=("]
    for command in found:
        own = [name for each in command.options() for name in each.option_strings]
        more = ["$keys"] if command.has_keys() else []
        lines.append(f'        ["{command.words}"]="{" ".join(["--help", *own, *more])}"')
    lines += ["    )"]
    return "\n".join(lines) + COMPLETE


COMPLETE = r"""
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} at=${1##*/} word
    COMPREPLY=()
    # A value: of files readline knows more (complete -o default).
    [[ $prev == --* && " $flags " != *" $prev "* || $prev == = || $cur == = ]] && return
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ " ${next[$at]-} " == *" $word "* ]] && at+=" $word"
    done
    local words=${next[$at]-}
    [[ $cur == -* ]] && words=${options[$at]-}
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
} && complete -o default -F _yaim yaim yaim-helper
"""

FILES: dict[str, Callable[[], str]] = {
    "yaim.1": yaim_1,
    "yaim-helper.8": yaim_helper_8,
    "yaim.yml.5": yaim_yml_5,
    "helper.yml.5": helper_yml_5,
    "yaim": completion,
}


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, made in FILES.items():
        (directory / name).write_text(made())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
