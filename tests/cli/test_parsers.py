"""What the program says of a word that it does not know, and what its help shows."""

import argparse

import pytest

from yaim.cli.main import parser
from yaim.cli.options import add_config_options
from yaim.cli.parsers import Parser, number_from
from yaim.config.load import Purpose


def said(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        parser(given).parse_args(given)
    out, errors = capsys.readouterr()
    return ended.value.code, out, errors


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("stauts",), "yaim: there is no command 'stauts': did you mean status? (yaim --help)"),
        (
            ("lab", "statsu"),
            "yaim lab: there is no command 'statsu': did you mean status? (yaim lab --help)",
        ),
        (
            ("config", "xyz"),
            "yaim config: there is no command 'xyz': there are check, show, keys"
            " (yaim config --help)",
        ),
        (("status", "--node", "n1"), "yaim status: there is no option --node (yaim status --help)"),
        (
            ("status", "--jsn"),
            "yaim status: there is no option --jsn: did you mean --json? (yaim status --help)",
        ),
        (
            ("run", "--intervall=5"),
            "yaim run: there is no option --intervall: did you mean --interval? (yaim run --help)",
        ),
        (("run", "more"), "yaim run: 'more' is a word too many (yaim run --help)"),
        (
            ("lab", "up", "--nodes", "0"),
            "yaim lab up: argument --nodes: got '0', expected a number from 1 to 20"
            " (yaim lab up --help)",
        ),
    ],
    ids=str,
)
def test_a_wrong_word_costs_a_line_that_tells_what_is_close_to_it(
    given: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, *given) == (2, "", f"{expected}\n")


@pytest.mark.parametrize("given", [("status",), ("check",), ("run",), ("config", "show"), ()])
def test_a_help_fits_on_a_screen_and_shows_no_keys(
    given: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, errors = said(capsys, *given, "--help")
    assert (status, errors) == (0, "")
    assert len(out.splitlines()) <= 60
    assert "--http-url" not in out and "--config FILE" in out and "yaim config keys" in out


def test_a_key_is_a_flag_all_the_same() -> None:
    given = ("config", "show", "--http-url=http://a/")
    assert parser(given).parse_args(given).http_url == "http://a/"


def test_an_option_of_a_commands_own_goes_before_a_key_of_that_name() -> None:
    """It is told in the help, and nobody takes it for the key."""
    made = Parser(prog="yaim drain")
    made.add_argument("--timeout", dest="wait_within", metavar="TIME", help="how long it waits")
    add_config_options(made, Purpose.CHECKS)
    assert vars(made.parse_args(["--timeout=60s"])) == {"wait_within": "60s"}
    assert "--timeout TIME" in made.format_help() and "--interval" not in made.format_help()


def test_to_look_at_a_cluster_only_its_own_keys_are_flags() -> None:
    made = Parser()
    add_config_options(made, Purpose.CLUSTER)
    assert made.parse_args(["--dcs-clustername=pg"]).dcs_clustername == "pg"
    with pytest.raises(SystemExit):
        made.parse_args(["--shell-command=true"])


@pytest.mark.parametrize("text", ["0", "4", "-1", "٣", "1.0", ""])
def test_a_number_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number from 1 to 3"):
        number_from(1, 3)(text)


@pytest.mark.parametrize("words", [("status",), ("config", "show"), ()])
def test_help_of_a_command_is_what_its_own_help_shows(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("help", *words)
    options = parser(given).parse_args(given)
    with pytest.raises(SystemExit) as ended:
        options.command(options)
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out, shown.err) == said(capsys, *words, "--help")


def test_help_of_a_command_that_is_not_there_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("help", "stauts")
    options = parser(given).parse_args(given)
    with pytest.raises(SystemExit) as ended:
        options.command(options)
    assert (ended.value.code, capsys.readouterr().err) == (
        2,
        "yaim: there is no command 'stauts': did you mean status? (yaim --help)\n",
    )
