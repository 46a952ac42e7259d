"""`yaim doctor`: tells what is missing on this node or wrong with it, and what to do."""

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from yaim.cli.options import add_config_options, add_process_options, config_file, load_config
from yaim.config.load import DEFAULT_FILES
from yaim.doctor.finding import Finding, Verdict
from yaim.text import parsable, shortened

MOST = 2000
"""A longer text is cut off in the table."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=run)
    parser.add_argument("--json", action="store_true", help="for programs")
    add_process_options(parser)
    add_config_options(parser)


def run(options: argparse.Namespace) -> int:
    from yaim.doctor.run import Subject, examine

    given = config_file(options)
    if not given:
        given = str(next(filter(os.path.lexists, DEFAULT_FILES), DEFAULT_FILES[0]))
    options.config = str(Path(given).absolute())
    subject = Subject(
        file=Path(options.config),
        load=lambda purpose: load_config(options, purpose),
        helper_config=options.helper_config.absolute(),
        user=options.user,
        helper_user=options.helper_user,
    )
    findings = examine(subject)
    print(as_json(findings) if options.json else as_table(findings))
    return exit_status(findings)


def exit_status(findings: Iterable[Finding]) -> int:
    return 1 if any(each.verdict is Verdict.PROBLEM for each in findings) else 0


def as_table(findings: Sequence[Finding]) -> str:
    verdicts = max((len(each.verdict.value) for each in findings), default=0)
    points = max((len(each.point) for each in findings), default=0)
    lines = []
    for each in findings:
        what = f"{each.verdict.value:{verdicts}}  {each.point:{points}}  "
        lines.append(what + shortened(each.text, MOST))
        if each.remedy:
            lines.append(" " * len(what) + "-> " + shortened(each.remedy, MOST))
    return "\n".join([*lines, "", _summary(findings)])


def _summary(findings: Sequence[Finding]) -> str:
    numbers = [
        (sum(each.verdict is verdict for each in findings), text)
        for verdict, text in (
            (Verdict.PROBLEM, "problems"),
            (Verdict.WARNING, "warnings"),
            (Verdict.NOT_LOOKED_AT, "not looked at"),
        )
    ]
    told = [
        f"{number} {text if number != 1 else text.removesuffix('s')}" for number, text in numbers
    ]
    return f"{', '.join(told)}."


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps(
        {
            "problems": sum(each.verdict is Verdict.PROBLEM for each in findings),
            "warnings": sum(each.verdict is Verdict.WARNING for each in findings),
            "findings": [
                {
                    "point": each.point,
                    "verdict": each.verdict.value,
                    "text": parsable(each.text),
                    "remedy": parsable(each.remedy),
                }
                for each in findings
            ],
        },
        indent=2,
    )
