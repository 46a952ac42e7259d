"""docs/checks.md: its examples are right, and it leaves nothing out."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import make_certificates
from tests.checks.pgbouncer_server import pooling
from tests.checks.postgres_server import PASSWORD, Installation, running
from yaim.checks.kinds import KINDS
from yaim.checks.once import check_once
from yaim.checks.verdict import Healthy
from yaim.config.checks import KIND_OF, TIMING_KEYS
from yaim.config.config import Config
from yaim.config.load import Purpose, load
from yaim.wiring import check_plans_of

PAGE = (Path(__file__).parents[2] / "docs/checks.md").read_text()
EXAMPLES = re.findall(r"(?s)```yaml\n(.*?)```", PAGE)


def loaded(example: str, directory: Path) -> Config:
    """Loads the example, with a file for each that it names."""
    if (tls := directory / "tls").exists():
        shutil.rmtree(tls)
    tls.mkdir()
    certificates = make_certificates(tls)
    password = directory / "password"
    password.write_text(PASSWORD)
    for pattern, real in {
        r"[a-z]+\.password": password,
        r"[a-z]+-ca\.pem": certificates.ca,
        r"[a-z]+-client\.pem": certificates.leaf,
        r"[a-z]+-client\.key": certificates.key,
    }.items():
        example = re.sub(f"/etc/yaim/{pattern}", str(real), example)
    file = directory / "yaim.yml"
    file.write_text(example)
    return load({}, {}, file, Purpose.CHECKS)


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_a_good_configuration(example: str, tmp_path: Path) -> None:
    assert loaded(example, tmp_path).checks


def test_there_is_an_example_of_each_kind(tmp_path: Path) -> None:
    shown = {each.kind for example in EXAMPLES for each in loaded(example, tmp_path).checks}
    assert shown == KINDS.keys()
    assert re.findall(r"(?m)^## ([a-z]+)$", PAGE) == list(KINDS)


def test_the_pace_and_its_defaults_are_told(tmp_path: Path) -> None:
    rows = dict(re.findall(r"(?m)^\| (`[^|]*`) \| ([^|]*) \|", PAGE))
    told = {
        name.strip("` "): value.strip()
        for names, values in rows.items()
        for name, value in zip(names.split(","), values.split(","), strict=True)
    }
    config = loaded("checker-type: shell\nshell-command: 'true'\n", tmp_path)
    real = {name: str(getattr(config, name.replace("-", "_"))) for name in TIMING_KEYS}
    assert told == {**real, "timeout": "the ttl"}


def test_every_key_that_the_page_names_is_one() -> None:
    named = re.findall(rf"\b((?:{'|'.join(KINDS)})-[a-z-]+)\b", PAGE)
    files = re.compile(r".*-(ca|client)$")
    assert {name for name in named if not files.fullmatch(name)} <= KIND_OF.keys() | {"http-ca"}


# --- run -----------------------------------------------------------------------------------------


@contextmanager
def services(postgres: Installation) -> Iterator[dict[str, str]]:
    """Those of the examples, and what has to be written instead of their places."""
    with running(postgres.new()) as server, pooling(server, "pooler") as pooler:
        server.sql(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'")
        yield {
            "host=/run/postgresql": f"host={server.directory} port={server.port}",
            "port=6432": f"port={pooler.port}",
        }


def test_the_examples_with_postgresql_and_pgbouncer_work(
    postgres: Installation, tmp_path: Path
) -> None:
    with services(postgres) as places:
        for example in EXAMPLES:
            if not any(place in example for place in places):
                continue
            for place, real in places.items():
                example = example.replace(place, real)
            for found in check_once(check_plans_of(loaded(example, tmp_path))):
                assert isinstance(found.result.verdict, Healthy), found
