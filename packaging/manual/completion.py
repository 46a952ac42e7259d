"""The completions for bash, zsh and fish, made from the parsers of the programs.

Sources: bash(1), "Programmable Completion"; zshcompsys(1), by way of shtab; fish's complete(1).
"""

import argparse
from pathlib import Path

from programs import KEYS, all_commands, cli, help_of, sub_commands, whole_helper


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
    local is_value=
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ $is_value ]]; then
            [[ $word == = ]] || is_value=
        elif [[ $word == --* && " $flags " != *" $word "* ]]; then
            is_value=1
        elif [[ " ${next[$at]-} " == *" $word "* ]]; then
            at+=" $word"
        fi
    done
    local words=${next[$at]-}
    [[ $cur == -* ]] && words=${options[$at]-}
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
} && complete -o default -F _yaim yaim yaim-helper
"""


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
                complete([command.words], _fish_option(action), help_of(action, command.parser))
            elif takes_file(action):
                complete([command.words], "-F", help_of(action, command.parser))
        complete([command.words], "-s h -l help", "show this help message and exit")
    having_keys = [each for each in found if each.has_keys()]
    for action in having_keys[0].parser._actions if having_keys else ():
        if action.dest == "config" or action.dest.replace("_", "-") in KEYS:
            after = [each.words for each in having_keys]
            complete(after, _fish_option(action), help_of(action, having_keys[0].parser))
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
