"""The commands of operators, with wrong input: each costs one line that says what to write."""

import pytest

from yaim.cli.main import COMMANDS, main, parser

CHANGING = (
    ("drain", "n1"),
    ("undrain", "n1"),
    ("move", "192.0.2.11", "n1"),
    ("pin", "192.0.2.11", "n1"),
    ("unpin", "192.0.2.11"),
    ("weight", "n1", "2"),
    ("pause",),
    ("resume",),
    ("pool", "add", "192.0.2.11"),
    ("pool", "set", "192.0.2.11", "--prefer", "n1"),
    ("pool", "remove", "192.0.2.11"),
    ("node", "forget", "n1"),
)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """The exit status, and what is on standard error; nothing is to be on standard output."""
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    out, err = capsys.readouterr()
    assert out == ""
    return status, err.splitlines()


@pytest.mark.parametrize("arguments", CHANGING, ids=" ".join)
def test_without_a_terminal_a_change_wants_yes(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, *arguments) == (
        2,
        ["yaim: say --yes: there is no terminal on which you could be asked (or --plan)"],
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("drain", "yaim drain: the following arguments are required: NODE"),
        (
            "drain a/b",
            "argument NODE: 'a/b' is not the name of a node: `yaim node list` shows them",
        ),
        ("drain n1 --for 60", "'60' is not a time such as 90s, 30m, 2h, 7d or 1h30m: say 60s"),
        ("drain n1 --timeout soon", "argument --timeout: 'soon' is not a time"),
        ("move n1 192.0.2.11", "argument ADDRESS: 'n1' is not an IPv4 or IPv6 address"),
        ("move 192.0.2.11", "the following arguments are required: NODE"),
        ("weight n1 101", "argument WEIGHT: '101' is not a weight: expected 1 to 100"),
        ("pool add 192.0.2.11/24", "say 192.0.2.11 --prefix 24"),
        ("pool add 2001:DB8::1", "say 2001:db8::1"),
        ("pool add 10.0.0.1-10.0.9.1", "2305 addresses; at most 256 at once"),
        ("pool add 192.0.2.11 --prefix 129", "'129' is not a prefix length"),
        ("pool add 192.0.2.11 --prefix 64 --yes", "--prefix 64: 192.0.2.11 has 32 bits"),
        ("pool add 192.0.2.11 --prefer n1,,n2", "'' is not the name of a node"),
        ("pool set 192.0.2.11 --yes", "say what to set: --interface, --prefix, --prefer"),
        ("pool delete 192.0.2.11", "there is no command 'delete'"),
        ("plan --weight n1", "'n1' is not NODE=N"),
        ("plan --weight n1=x", "'x' is not a weight"),
        ("history --since yesterday", "'yesterday' is not a time such as 2h (ago)"),
        ("history --svg --json", "--svg is a picture of what has been"),
        ("history --follow --until 2h", "--follow has no end"),
        ("drian n1", "there is no command 'drian': did you mean drain?"),
    ],
)
def test_wrong_input_says_what_to_write(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = said(capsys, *line.split())
    assert (status, len(lines)) == (2, 1)
    assert told in lines[0]


def test_a_reason_is_one_line_of_what_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = said(capsys, "drain", "n1", "--reason", "\x1b[2J")
    assert (status, len(lines)) == (2, 1)
    assert "a reason is one line of at most 200 characters" in lines[0]
    assert "\x1b" not in lines[0]


def test_each_command_has_a_help_of_a_screen() -> None:
    names = {"drain", "undrain", "move", "pin", "unpin", "weight", "pause", "resume", "plan"}
    assert names | {"history", "pool", "node"} <= COMMANDS.keys()
    commands = next(
        action.choices
        for action in parser(names)._subparsers._group_actions  # type: ignore[union-attr]
    )
    assert commands is not None
    for name in sorted(names):
        assert len(commands[name].format_help().splitlines()) < 40, name  # type: ignore[index]
