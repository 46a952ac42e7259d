"""yaim-helper audit verify: tells all that is wrong with records (verify.py finds it)."""

import argparse

from yaim_helper.tools.findings import Findings, say, verification_of
from yaim_helper.tools.records import CannotRead, Chain, chains, instant, open_chain, printable
from yaim_helper.tools.verify import Verification, not_read


def verify(options: argparse.Namespace) -> int:
    findings = Findings(False)
    for directory, files in chains(options.paths):
        before = findings.kinds.total()
        try:
            chain = open_chain(directory, files)
        except CannotRead as error:
            findings.add(not_read(error))
            continue
        verification = verification_of(chain, findings, options)
        for _ in verification.records():
            pass
        wrong = findings.kinds.total() - before
        say(_summary(chain, verification, wrong))
    return findings.gravest or 0


def _summary(chain: Chain, verification: Verification, wrong: int) -> str:
    told = "intact" if not wrong else f"{wrong} finding{'s' if wrong > 1 else ''}"
    last = verification.last
    if last is None or verification.first_at is None:
        return f"{chain}: no records: {told}"
    return (
        f"{chain}: {verification.count} records of {printable(last.host)}, from"
        f" {instant(verification.first_at)} to {instant(last.at)}, head seq={last.seq}"
        f" hash={last.hash}: {told}"
    )
