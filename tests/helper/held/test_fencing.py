"""Whether there is a fence: what a start finds out."""

import errno
import os
from typing import NoReturn

import pytest
from yaim_helper.held.fencing import FIRST, LAST, Fencing, begin
from yaim_helper.kernel.addresses import KernelError
from yaim_helper.kernel.fence import Fence, Ruleset

from yaim.lab.namespaces import Namespace

OFF = {"in_force": False, "reason": "helper.yml says fence: off"}


def refuse(*_: object) -> NoReturn:
    raise KernelError(errno.EOPNOTSUPP, "the kernel has no nf_tables")


def test_there_is_a_fence_where_the_kernel_can_do_it(network: Namespace) -> None:
    with network.entered():
        fencing = begin(is_wanted=True)
        assert fencing.told == {"in_force": True, "reason": ""}
        assert fencing.fences is not None and fencing.changes is not None
        assert (fencing.earlier, Ruleset().tables()) == ([], [])


def test_there_is_none_if_it_is_not_wanted_and_earlier_ones_are_known(network: Namespace) -> None:
    with network.entered():
        Fence(Ruleset(), "yaim-7").make((), ())
        fencing = begin(is_wanted=False)
    assert (fencing.told, fencing.earlier, fencing.fences) == (OFF, ["yaim-7"], None)
    assert fencing.tables is not None and not fencing.tables.is_live("yaim-7")


@pytest.mark.parametrize("is_wanted", [True, False])
def test_there_is_none_without_nf_tables(
    network: Namespace, monkeypatch: pytest.MonkeyPatch, is_wanted: bool
) -> None:
    monkeypatch.setattr(Ruleset, "__init__", refuse)
    with network.entered():
        fencing = begin(is_wanted=is_wanted)
    told = {"in_force": False, "reason": "the kernel has no nf_tables"}
    assert fencing == Fencing(str(told["reason"] if is_wanted else OFF["reason"]))
    assert fencing.told == (told if is_wanted else OFF)


def test_there_is_none_if_the_kernel_cannot_do_all_of_it(
    network: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yaim_helper.held.fencing.probe", refuse)
    with network.entered():
        assert begin(is_wanted=True).why_not == "the kernel has no nf_tables"


def test_tables_begin_where_many_numbers_are_free(
    network: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another helper, say."""
    drawn = [0, 999, 1000, LAST - FIRST - 1]
    numbers = iter(drawn)
    monkeypatch.setattr(os, "urandom", lambda n: next(numbers).to_bytes(n, "big"))
    with network.entered():
        Fence(Ruleset(), f"yaim-{FIRST + 999}").make((), ())
        fencing = begin(is_wanted=True)
    assert fencing.fences is not None
    assert (fencing.fences._next, list(numbers)) == (FIRST + 1000, drawn[3:])
