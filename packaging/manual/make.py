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


@dataclass(frozen=True)
class Command:
    """A program or a part of one."""

    words: str
    help: str
    parser: argparse.ArgumentParser

    def options(self) -> list[argparse.Action]:
        """Returns its options without --help and the configuration keys, which are shown once."""
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
    """Yields the commands that can be typed, without those that the help does not list."""
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
    return page(
        "yaim",
        1,
        "keeps a pool of virtual IP addresses on a set of nodes",
        f".SH SYNOPSIS\n{bold('yaim')} [\\fICOMMAND\\fR] [\\fB\\-\\-config\\fR \\fIFILE\\fR]"
        " [\\fB\\-\\-\\fIKEY\\fR \\fIVALUE\\fR ...] [\\fIOPTION\\fR ...]",
        f".SH DESCRIPTION\n{bold('yaim')} {roff(ABOUT)}",
        f".P\n{roff('Without a command it does ')}{bold('yaim run')}.",
        ".SH COMMANDS",
        *map(told, commands("yaim", parser)),
        f""".SH OPTIONS
All commands except those of {bold("yaim lab")} take these.
.TP
{bold("--config")} \\fIFILE\\fR
{roff(_help(next(a for a in parser._actions if a.dest == "config"), parser))}
.TP
{bold("--")}\\fIKEY\\fR \\fIVALUE\\fR
Any key of yaim.yml(5), except the list {bold("checks")}.
.SH EXIT STATUS
.TP
0
yaim was stopped, or all is well.
.TP
1
yaim cannot start; {bold("check")}: the node is not healthy; {bold("doctor")}: there are problems;
{bold("status")}: the cluster is degraded.
.TP
2
The usage is wrong; {bold("status")}: etcd is unreachable.
.TP
69
Another node has this node\\(aqs name.
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
.SH EXAMPLES
{tagged([bold("yaim doctor")], "This shows what is missing on this host, or wrong.")}
{tagged([bold('etcdctl put /service/pg/ips/192.0.2.10 ""')], "This adds an address to the pool")}
of the cluster pg.
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
the kernel does.""",
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


def all_commands() -> list[Command]:
    """Both programs, and every command of theirs."""
    return [
        Command("yaim", "", cli.parser()),
        *commands("yaim", cli.parser()),
        Command("yaim-helper", "", helper.parser()),
        *commands("yaim-helper policy", policy_tools.parser()),
        *commands("yaim-helper audit", audit_tools.parser()),
    ]


def sub_commands(found: list[Command]) -> dict[str, set[str]]:
    """The words that may follow a program, or a program and a command."""
    tree: dict[str, set[str]] = {}
    for command in found:
        words = command.words.split()
        for depth in range(1, len(words)):
            tree.setdefault(" ".join(words[:depth]), set()).add(words[depth])
    return tree


def bash() -> str:
    """The completion for bash. It is not shtab's: that of Debian 12 completes only the first of
    several commands that follow each other."""
    found = all_commands()
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
    tree = sub_commands(found)
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
    # A value is expected: readline completes file names better (complete -o default).
    [[ $prev == --* && " $flags " != *" $prev "* || $prev == = || $cur == = ]] && return
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ " ${next[$at]-} " == *" $word "* ]] && at+=" $word"
    done
    local words=${next[$at]-}
    [[ $cur == -* ]] && words=${options[$at]-}
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
} && complete -o default -F _yaim yaim yaim-helper
"""


def whole_helper() -> argparse.ArgumentParser:
    """A parser of all that yaim-helper takes, which has three."""
    parser = helper.parser()
    tools = parser.add_subparsers()
    for name, made, what in (
        ("policy", policy_tools.parser(), "look at an allowlist"),
        ("audit", audit_tools.parser(), "tell what is on record"),
    ):
        tools.add_parser(name, help=what, parents=[made], add_help=False)
    return parser


def zsh(program: str, parser: argparse.ArgumentParser) -> str:
    """The completion for zsh, made by shtab."""
    import shtab

    def prepare(each: argparse.ArgumentParser) -> None:
        for action in each._actions:
            if isinstance(action, argparse._SubParsersAction):
                for listed in action._choices_actions:
                    # Debian 12's shtab takes this for the help of a command.
                    action.choices[listed.dest].description = listed.help
                    prepare(action.choices[listed.dest])
            elif takes_file(action):
                vars(action)["complete"] = shtab.FILE
            elif not action.option_strings and action.nargs != argparse.REMAINDER:
                # Without an action of its own zsh shows options beside it and completes none.
                vars(action)["complete"] = {"zsh": "( )"}

    prepare(parser)
    made: str = shtab.complete(parser, shell="zsh", root_prefix=program.replace("-", "_"))
    return made


def takes_file(action: argparse.Action) -> bool:
    last = action.dest.rpartition("_")[2]
    return action.nargs != 0 and (
        action.type is Path or last in ("config", "file", "heads", "paths")
    )


def fish(program: str) -> str:
    """The completion for fish. shtab makes none."""
    found = [each for each in all_commands() if each.words.split()[0] == program]
    name, tree = program.replace("-", "_"), sub_commands(found)
    helps = {each.words: each.help for each in found}
    helps |= {f"{program} {listed}": what for listed, what in _help_of_groups(program).items()}
    typed = sorted({*(each.words for each in found), *tree} - {program})
    lines = [
        f"# fish completion of {program}: made from its parsers",
        f"function __{name}_typed",
        f"    set -l typed {program}",
        "    for word in (commandline -opc)[2..-1]",
        '        switch "$typed $word"',
        *([f"            case {' '.join(map(_quoted, typed))}"] if typed else []),
        '                set typed "$typed $word"',
        "        end",
        "    end",
        '    contains -- "$typed" $argv',
        "end",
        f"complete -c {program} -f",
    ]

    def complete(after: list[str], what: str, help: str) -> None:
        condition = f"__{name}_typed {' '.join(map(_quoted, after))}"
        told = f" -d {_quoted(help)}" if help else ""
        lines.append(f"complete -c {program} -n {_quoted(condition)} {what}{told}")

    for words, following in tree.items():
        for each in sorted(following):
            complete([words], f"-a {each}", helps.get(f"{words} {each}", ""))
    for command in found:
        for action in command.options():
            if action.option_strings:
                complete([command.words], _fish_option(action), _help(action, command.parser))
            elif takes_file(action):
                complete([command.words], "-F", _help(action, command.parser))
        complete([command.words], "-s h -l help", "show this help message and exit")
    having_keys = [each for each in found if each.has_keys()]
    for action in having_keys[0].parser._actions if having_keys else ():
        if action.dest == "config" or action.dest.replace("_", "-") in KEYS:
            after = [each.words for each in having_keys]
            complete(after, _fish_option(action), _help(action, having_keys[0].parser))
    return "\n".join([*lines, ""])


def _help_of_groups(program: str) -> dict[str, str]:
    """The help of commands that others follow, as `yaim config`."""
    parser = cli.parser() if program == "yaim" else whole_helper()
    return {
        listed.dest: listed.help or ""
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for listed in action._choices_actions
    }


def _fish_option(action: argparse.Action) -> str:
    """As the arguments of fish's `complete`: -r wants a value, -F offers files for it."""
    names = [
        f"-l {each.removeprefix('--')}" if each.startswith("--") else f"-s {each.removeprefix('-')}"
        for each in action.option_strings
    ]
    value = [] if action.nargs == 0 else ["-r -F"] if takes_file(action) else ["-x"]
    if action.choices:
        value.append(f"-a {_quoted(' '.join(map(str, action.choices)))}")
    return " ".join([*names, *value])


def _quoted(text: str) -> str:
    """As fish reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


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
    main(Path(sys.argv[1]))
