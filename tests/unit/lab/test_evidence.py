"""The table of the checks that passed on each platform: a row is written, replaced and read back; a gap is named."""

from __future__ import annotations

import warnings
from pathlib import Path

from tests.lab.platform import PLATFORMS
from tests.system import evidence

SAYS = {"kernel": "7.2.12+deb14-amd64", "systemd": "262", "Podman": "5.8.6"}


def test_a_row_is_written_and_replaced_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "evidence.md"
    evidence.note("debian14", SAYS, ("bare",), path)
    evidence.note("debian13", SAYS, evidence.CHECKS, path)
    evidence.note("debian14", SAYS, ("bare", "deployed"), path)
    rows = evidence.rows(path.read_text())
    assert list(rows) == ["debian13", "debian14"], "in the order of the platforms"
    assert [rows["debian14"][check] for check in evidence.CHECKS] == ["yes", "yes", *["-"] * 5]
    assert (rows["debian14"]["kernel"], rows["debian14"]["code"]) == (SAYS["kernel"], evidence.code())


def test_a_platform_without_a_row_or_with_a_gap_is_named(tmp_path: Path) -> None:
    path = tmp_path / "evidence.md"
    for name in list(PLATFORMS)[1:]:
        evidence.note(name, SAYS, evidence.CHECKS, path)
    evidence.note("debian14", SAYS, ("bare",), path)
    assert evidence.missing(path.read_text()) == ["debian13"]
    assert evidence.gaps(path.read_text()) == {"debian14": list(evidence.CHECKS[1:])}


def test_every_platform_has_a_row_and_the_support_page_lists_what_passed() -> None:
    """`make worlds` writes the rows and the table of docs/support.md."""
    text = evidence.PATH.read_text()
    assert evidence.missing(text) == []
    assert evidence.support(text) in (evidence.stage.ROOT / "docs/support.md").read_text()
    if gaps := evidence.gaps(text):
        warnings.warn(f"not every check passed: {gaps}", stacklevel=1)
    if stale := evidence.stale(text):
        warnings.warn(f"the code has changed since the runs of these platforms: {', '.join(stale)}", stacklevel=1)


def test_a_note_renews_the_table_of_platforms_and_nothing_else_of_its_page(tmp_path: Path) -> None:
    page = tmp_path / "support.md"
    page.write_text(
        "# Support\n\n| booted in the lab | versions |\n|---|---|\n| old | row |\n\n## Limits\n\n| a | b |\n"
    )
    path = tmp_path / "evidence.md"
    evidence.note("debian13", SAYS, evidence.CHECKS, path)
    table = evidence.support(path.read_text())
    assert page.read_text() == f"# Support\n\n{table}\n\n## Limits\n\n| a | b |\n"
