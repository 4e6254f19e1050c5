"""One host in a browser: its findings, its boards, and the drawing of its PCI tree."""

from __future__ import annotations

import re

import pytest

from tests.browser.page import Page
from tests.corpus import machines
from tests.fleet import documents

SERVER = documents.eight_gpu_server()


def opened(page: Page, host: documents.Json, width: int = 1400) -> documents.Json:
    """Show one host, opened."""
    page.open(documents.document(host), f"#open={host['name']}", width)
    return host


def card(page: Page, text: str) -> str:
    """The text of the first board that has this in it."""
    return next(shown for shown in page.texts(".board") if text in shown)


def unfold_all(page: Page) -> None:
    """Unfold everything, and what comes to light with it."""
    while page.count('.unfold[aria-expanded="false"]'):
        page.click('.unfold[aria-expanded="false"]')


def test_the_details_show_findings_and_facts(page: Page) -> None:
    opened(page, documents.lab(severity="wrong", reasons=["it broke"], drift=["a file"], lint=["a key"], podman=None))
    assert page.texts(".details h2") == [
        "Reasons",
        "Drift",
        "Lint",
        "Host",
        "Boards of the node",
        "PCI devices 22 functions",
    ]
    facts = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert facts["Storage"] == "/var/lib/gevulot: 1.2 TiB free of 1.9 TiB"
    assert facts["Node's unit"] == "active since 2026-11-10 22:40 UTC"
    assert "Podman" not in facts


def test_boards_are_a_table(page: Page) -> None:
    host = opened(page, SERVER)
    rows = page.texts(".details tbody th")
    assert rows == [board["name"] for board in host["boards"]["list"]]
    assert page.attributes(".details thead th", "scope") == ["col"] * 7
    text = page.texts(".details tbody tr")[6]
    for part in ("gpu7", "refused", "10de:2bb5", "0000:ba:00.0", "not viable", "nvidia-persistenced"):
        assert part in text


def test_a_drawing_leaves_out_what_nobody_asks_about(page: Page) -> None:
    """Of two hundred functions the boards, networks and disks are shown; all are there once everything is unfolded."""
    host = opened(page, SERVER)
    addresses = page.texts(".function code")
    assert len(addresses) == 16 + 4 + 8 + 4
    unfold_all(page)
    everything = page.texts(".function code") + [
        f"0000:{match[0]}"
        for text in page.texts(".hop")
        if (match := re.search(r"[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", text))
    ]
    assert sorted(everything) == sorted(each["address"] for each in host["topology"]["functions"])


def test_unfolding_says_what_it_does(page: Page) -> None:
    opened(page, SERVER)
    before = page.count(".function")
    label = page.texts(".unfold")[-1]
    assert re.match(r"9 more 4 system, .*…", label)
    page.run("[...document.querySelectorAll('.unfold')].at(-1).click()")
    assert page.attributes(".unfold", "aria-expanded")[-1] == "true"
    assert page.count(".function") > before
    page.run("[...document.querySelectorAll('.unfold')].at(-1).click()")
    assert len(page.texts(".function code")) == before


def test_numa_nodes_are_side_by_side_and_what_says_none_is_last(page: Page) -> None:
    opened(page, SERVER)
    titles = page.texts(".area h3")
    assert titles == ["NUMA node 0 4 boards of the node", "NUMA node 1 4 boards of the node", "NUMA node unknown"]
    boxes = page.run(
        """return [...document.querySelectorAll(".area")].map((area) => area.getBoundingClientRect())
        .map((box) => [box.left, box.right, box.top])"""
    )
    assert boxes[0][1] <= boxes[1][0]
    assert boxes[0][2] == boxes[1][2]


def test_a_chain_of_bridges_takes_one_place(page: Page) -> None:
    opened(page, SERVER)
    assert page.texts(".hops")[0] == "bus 16 IOMMU group 14 16:01.0 root port IOMMU group 15 17:00.0 switch"


def test_a_functions_line_says_all_of_it(page: Page) -> None:
    opened(page, SERVER)
    line = card(page, "0000:1c:00.0")
    assert line == "IOMMU group 29 0000:1c:00.0 NVMe SSD Controller PM173X nvme 16 GT/s ×4"


def test_boards_of_the_node_stand_out_with_name_and_state(page: Page) -> None:
    opened(page, SERVER)
    assert page.count(".board.wanted") == 8
    assert page.count(".board.wanted.bad") == 2
    assert "RTX PRO 6000 Blackwell Server Edition" in card(page, "gpu1")
    assert "● bound" in card(page, "gpu1")
    assert "◆ refused" in card(page, "gpu7")


def test_a_link_below_its_maximum_is_marked(page: Page) -> None:
    opened(page, SERVER)
    assert "32 GT/s ×16" in page.texts(".board.wanted .link")[0]
    (narrow,) = page.texts(".link.narrow:not(.legend *)")
    assert narrow == "▼ below its maximum: 32 GT/s ×8 of ×16"
    assert set(page.texts(".link.slow")) == {"▼ below its maximum: 8 of 16 GT/s ×4"}


def test_another_driver_than_the_wanted_one_is_marked(page: Page) -> None:
    opened(page, SERVER)
    assert "◆ snd_hda_intel wanted vfio-pci" in card(page, "gpu5")
    assert "◆ no driver wanted vfio-pci" in card(page, "gpu7")


def test_functions_of_one_group_have_one_colour_and_number(page: Page) -> None:
    opened(page, documents.lab())
    tags = page.run(
        """return [...document.querySelectorAll(".board.wanted .group")]
        .map(e => [e.lastChild.data, getComputedStyle(e).backgroundColor])"""
    )
    assert [number for number, _ in tags] == ["9"] * 4 + ["10"] * 4
    assert len({color for _, color in tags}) == 2


def test_a_twin_that_is_the_hosts_is_not_taken_for_the_nodes(page: Page) -> None:
    opened(page, documents.lab())
    assert "left to the host" in card(page, "0000:01:00.0")
    assert page.count(".board.wanted") == 2


def test_an_absent_board_keeps_its_place(page: Page) -> None:
    host = documents.lab()
    path = host["boards"]["list"][1]["path"]
    host["topology"]["functions"] = [
        each for each in host["topology"]["functions"] if not each["path"].startswith(path)
    ]
    host["boards"]["list"][1].update(verdict="absent", state="unbound", address=None, model=None, groups=[])
    opened(page, host)
    (absent,) = page.texts(".board.absent")
    assert "gpu2" in absent
    assert "◆ absent" in absent
    assert path in absent
    assert page.run("return document.querySelector('.board.absent').closest('.chain').innerText").count("00:05.0") == 1


def test_who_shares_a_group_with_a_board_is_drawn_and_named(page: Page) -> None:
    host = documents.lab()
    for each in host["topology"]["functions"]:
        if each["address"] == "0000:00:1f.3":
            each["iommu_group"] = 9
    host["boards"]["list"][0]["viable"] = False
    opened(page, host)
    assert "◆ shares its group with 00:1f.3" in card(page, "gpu1")


@pytest.mark.skipif(
    not machines.path(documents.DGX_STATION).exists(),
    reason=f"the corpus of real machines is not at {machines.DIRECTORY}",
)
def test_a_real_machine_is_drawn(page: Page) -> None:
    opened(page, documents.dgx_station(wanted=3))
    assert page.count(".board.wanted") == 3
    assert "left to the host" in card(page, "0000:0f:00.0")
    assert page.texts(".unfold")[-1].startswith("125 more")
    unfold_all(page)
    assert len(page.texts(".function code")) + page.count(".hop:not(.bus)") == 146
