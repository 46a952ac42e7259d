"""Which kind of store or manager is chosen, where there are several."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from yaim.config.config import Config, own_keys
from yaim.config.file import Given, Issue
from yaim.config.kinds import chosen_kind, foreign_keys, group_of
from yaim.config.load import load
from yaim.config.values import Values
from yaim.config_keys import Fault, KeyGroup, any_text, group_within, key, keys_in, whole
from yaim.dcs.etcd.settings import EtcdSettings
from yaim.dcs.kinds import STORES
from yaim.managers.helper.settings import HelperSettings
from yaim.managers.kinds import MANAGERS

pytestmark = pytest.mark.quick


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSettings:
    place: str = key("where the one is", any_text, "here")
    number: int = key("how many", whole(1, 9), 1)

    def faults(self) -> Iterator[Fault]:
        yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherSettings:
    place: int = key("where the other is", whole(1, 9), 5)
    other_word: str | None = key("a word", any_text)

    def faults(self) -> Iterator[Fault]:
        yield from ()


@dataclass(frozen=True, slots=True)
class Kind:
    settings: type[KeyGroup]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    first: str = key("what comes first", any_text)
    kind: KeyGroup = group_within(OneSettings, OneSettings, OtherSettings)
    last: str = key("what comes last", any_text)


KINDS = {"one": Kind(OneSettings), "other": Kind(OtherSettings)}


def given(**texts: str) -> dict[str, Given]:
    return {
        name.replace("_", "-"): Given(f"file:{line}", text)
        for line, (name, text) in enumerate(texts.items(), 1)
    }


def values_of(kind: str, keys: Mapping[str, Given]) -> tuple[KeyGroup, list[Issue], Values]:
    issues: list[Issue] = []
    values = Values(keys_in(KINDS[kind].settings), keys, "nowhere", issues)
    return group_of(KINDS[kind], values), issues, values


def test_the_keys_of_groups_within_stand_at_their_place_and_the_first_of_a_name_is_told() -> None:
    keys = keys_in(Outer)
    assert list(keys) == ["first", "place", "number", "other-word", "last"]
    assert keys["place"].help == "where the one is"


@pytest.mark.parametrize(
    ("keys", "kind"),
    [(given(), "one"), (given(type="OTHER"), "other"), (given(type="third"), "one")],
)
def test_a_kind_that_is_not_named_or_wrong_is_the_default(
    keys: dict[str, Given], kind: str
) -> None:
    assert chosen_kind("type", KINDS, keys, "one") == kind


def test_a_value_is_read_as_the_chosen_kind_reads_it() -> None:
    keys = given(type="other", place="7", other_word="x")
    assert values_of("other", keys) == (OtherSettings(place=7, other_word="x"), [], {})
    keys = given(place="7")
    assert values_of("one", keys) == (OneSettings(place="7"), [], {})


def test_keys_that_only_another_kind_has_are_told_with_their_line() -> None:
    keys = given(type="other", place="7", number="3")
    assert list(foreign_keys("type", KINDS, "other", keys)) == [
        Issue("file:3", "number", "", "type one, or not this key")
    ]
    assert list(foreign_keys("type", KINDS, "one", given(place="x", number="1"))) == []


def test_the_kinds_there_are() -> None:
    config = Config(dcs_clustername="c", interface="lo", nodename="n", label="", timeout=1)
    assert (config.store, config.manager) == (EtcdSettings(), HelperSettings())
    assert {name: each.settings for name, each in STORES.items()} == {"etcd": EtcdSettings}
    assert {name: each.settings for name, each in MANAGERS.items()} == {"basic": HelperSettings}
    assert config.own_keys() == own_keys(EtcdSettings, HelperSettings)


@pytest.mark.parametrize(("name", "there_are"), [("dcs-type", "etcd"), ("manager-type", "basic")])
def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are(
    name: str, there_are: str
) -> None:
    flags = {"dcs-clustername": "c", "interface": "lo", "checker-type": "patroni", name: "x"}
    with pytest.raises(Exception, match=f"--{name}: {name}: got 'x', expected {there_are}$"):
        load(flags, {}, None)


def test_what_is_kept_of_another_configuration_may_be_of_the_store_and_of_the_manager() -> None:
    flags = {"dcs-clustername": "c", "interface": "lo", "checker-type": "patroni"}
    before = load({**flags, "etcd-user": "u", "etcd-password": "p"}, {}, None)
    after = load({**flags, "ttl": "9000", "helper-socket": "/x"}, {}, None)
    kept = after.keeping(["ttl", "helper-socket", "etcd-user"], before)
    assert (kept.ttl, kept.value("etcd-user"), kept.value("etcd-password")) == (5000, "u", None)
    assert kept.manager == before.manager
    assert after.keeping(["dcs-type"], before).store == before.store
