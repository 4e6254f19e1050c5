"""A report against its schema, for tests: the keys of its JSON, and its text for people."""

from __future__ import annotations

import json

from pcibind.commands.text import describe, shorten
from pcibind.model.errors import ExitCode
from pcibind.model.record import Verdict
from pcibind.model.report import BoardState, Report

_KEYS = """
document: schema command exit_code require_boards boards refusals errors notes
boards: name path address model selector verdict state changed detail groups steps users bridges functions
bridges: address path vendor device iommu_group
functions: address path vendor device subsystem_vendor subsystem_device class driver driver_override wanted_driver
    original_driver iommu_group verdict
refusals: board guard address found remedy
"""


KEYS = {
    name: set(words.split())
    for name, _, words in (line.partition(":") for line in _KEYS.replace("\n  ", "").splitlines())
}


def check_report(report: Report) -> None:
    """Assert that a report follows its schema and can be read by people."""
    document = json.loads(report.to_json())
    assert document.keys() == KEYS["document"]
    assert document["exit_code"] in set(ExitCode)
    for name in ("boards", "refusals"):
        assert all(item.keys() == KEYS[name] for item in document[name])
    for board in document["boards"]:
        assert board["verdict"] in set(Verdict)
        assert board["state"] in set(BoardState)
        for name in ("bridges", "functions"):
            assert all(item.keys() == KEYS[name] for item in board[name])
        assert bool(board["functions"]) == (board["address"] is not None) == (board["model"] is not None)
        assert all(f["path"].startswith(f"{board['path']}.") for f in board["functions"])
    text = describe(report)
    assert text
    for board in report.boards:
        for function in board.board.functions if board.board else ():
            assert text.count(f"- {shorten(str(function.address), report.topology)}  ") == 1
