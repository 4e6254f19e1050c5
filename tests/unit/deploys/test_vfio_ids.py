"""The models that vfio-pci gets: the operator's stay, ours come and go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploys.assessment import vfio_ids
from deploys.assessment.pending_reboot import added
from facts.baseline import Baseline, parse
from facts.kernel import CommandLines
from pcibind.remote import topology_text
from tests.unit.deploys import recorded as r

BOARDS = topology_text.parse(r.topology(*r.gpu(1, 1))).boards()
OURS, THEIRS = "vfio-pci.ids=10de:2684,10de:22ba", "vfio-pci.ids=1000:0072"
PAST = Baseline(("ro",), (("ro",),), "running", (), arguments=(OURS,))
OF_BEFORE = replace(PAST, configured=(("ro", THEIRS),))


def lines(*arguments: str) -> CommandLines:
    return CommandLines(("ro", *arguments), (("ro", *arguments),))


@pytest.mark.parametrize(
    ("baseline", "ids"),
    [
        (None, []),  # never deployed: a hand-made argument for the same card is the operator's
        (PAST, [OURS]),
        (replace(PAST, arguments=()), []),
        (replace(PAST, arguments=None), [OURS]),  # an earlier version kept no record
        (replace(PAST, arguments=None, configured=(("ro", OURS),)), []),
    ],
)
def test_an_argument_is_ours_where_the_record_says_so(baseline: Baseline | None, ids: list[str]) -> None:
    assert vfio_ids.ours(("ro", OURS, THEIRS), baseline, BOARDS) == ids


@pytest.mark.parametrize(
    ("ids", "baseline", "options", "own"),
    [
        (lines(), None, {}, ()),
        (lines(THEIRS), None, {}, ("1000:0072",)),
        (lines("vfio_pci.ids=1000:0072"), PAST, {}, ("1000:0072",)),
        (lines(), None, {"/a.conf": ("ids=1000:0072,8086:1533", "disable_vga=1")}, ("1000:0072", "8086:1533")),
        (lines(THEIRS, OURS), PAST, {}, ("1000:0072",)),
        # grubby put one that holds both in its place.
        (lines("vfio-pci.ids=1000:0072,10de:2684"),
         replace(OF_BEFORE, arguments=("vfio-pci.ids=1000:0072,10de:2684",)), {}, ("1000:0072",)),
        # The operator took it away since.
        (lines(OURS), OF_BEFORE, {}, ()),
        (None, None, {}, ()),
    ],
)  # fmt: skip
def test_the_operators_own_models_are_found_wherever_they_are_set(
    ids: CommandLines | None, baseline: Baseline | None, options: dict[str, tuple[str, ...]], own: tuple[str, ...]
) -> None:
    assert vfio_ids.own(ids, baseline, options, BOARDS) == own


@pytest.mark.parametrize(
    ("models", "theirs", "built_in", "expected"),
    [
        ((), ("1000:0072",), True, ()),
        (("10de:2684",), (), False, ()),
        (("10de:2684",), (), True, ("vfio-pci.ids=10de:2684",)),
        (("10de:2684",), ("1000:0072", "10de:2684"), False, ("vfio-pci.ids=1000:0072,10de:2684",)),
    ],
)
def test_one_argument_holds_both_and_only_where_a_file_cannot(
    models: tuple[str, ...], theirs: tuple[str, ...], built_in: bool, expected: tuple[str, ...]
) -> None:
    assert vfio_ids.argument(models, theirs, built_in) == expected


def test_an_undo_takes_away_what_is_on_record_and_nothing_else() -> None:
    line = ("ro", "iommu=pt", OURS, THEIRS)
    assert added(line, ("ro",), ("iommu=pt", OURS)) == ["iommu=pt", OURS]
    assert added(line, ("ro", "iommu=pt"), ("iommu=pt", OURS)) == [OURS]
    assert added(line, ("ro",), ()) == []
    assert added(line, ("ro",)) == ["iommu=pt", OURS, THEIRS], "an earlier version kept no record"


def test_the_record_of_the_arguments_is_read_beside_that_of_the_host() -> None:
    record = parse(r.before(f"iommu=pt {OURS}")).past
    assert record is not None
    assert record.arguments == ("iommu=pt", OURS)
    former = parse(r.before(None)).past
    assert former is not None
    assert former.arguments is None
