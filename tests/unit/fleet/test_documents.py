"""The made-up fleets are what their names say."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.corpus import machines
from tests.fleet import documents

needs_corpus = pytest.mark.skipif(
    not machines.path(documents.DGX_STATION).exists(),
    reason=f"the corpus of real machines is not at {machines.DIRECTORY}",
)


def functions(host: documents.Json) -> list[documents.Json]:
    """The functions of a host."""
    return list(host["topology"]["functions"])


def test_the_lab_keeps_the_twin_of_its_boards_for_the_host() -> None:
    host = documents.lab()
    wanted = {board["path"] for board in host["boards"]["list"]}
    slots = Counter(each["path"].rpartition(".")[0] for each in functions(host) if each["path"].count("/") == 2)
    assert set(slots.values()) == {4}
    assert len(wanted) == 2
    assert len(set(slots) - wanted) == 1


def test_the_server_has_eight_boards_on_two_nodes_and_about_two_hundred_functions() -> None:
    host = documents.eight_gpu_server()
    boards = {board["path"] for board in host["boards"]["list"]}
    on = Counter(each["numa_node"] for each in functions(host) if each["path"].rpartition(".")[0] in boards)
    assert (len(boards), on[0], on[1]) == (8, 8, 8)
    assert 180 <= len(functions(host)) <= 220


@needs_corpus
def test_the_station_says_what_of_it_is_synthesised() -> None:
    host = documents.dgx_station()
    assert len(functions(host)) == 146
    assert host["boards"]["bound"] == 4
    assert "synthesised" in host["lint"][0]


@pytest.mark.parametrize("host", [documents.lab(), documents.eight_gpu_server()], ids=["lab", "server"])
def test_each_function_is_there_once(host: documents.Json) -> None:
    for key in ("address", "path"):
        assert max(Counter(each[key] for each in functions(host)).values()) == 1


def test_a_fleet_has_every_severity_and_is_always_the_same() -> None:
    fleet = documents.fleet(100)
    assert fleet == documents.fleet(100)
    assert set(Counter(host["severity"] for host in fleet["hosts"])) == {"ok", "attention", "wrong", "down"}
    assert len({host["name"] for host in fleet["hosts"]}) == 100
    assert all(host["reasons"] for host in fleet["hosts"] if host["severity"] != "ok")
