"""The README is short, and says what is true now."""

from __future__ import annotations

import re
import warnings

import pytest

from deploys.assessment import next_boot, platforms
from deploys.assessment.legacy_files import FORMER
from tests.browser import screenshot
from tests.unit import documents
from tests.unit.documents import ROOT, section, text

README = text("README.md")


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.split()) <= 1000


def test_the_readme_shows_twelve_lines_of_the_demo() -> None:
    (shown,) = documents.blocks(section("README.md", "Demo"), "console")
    (whole,) = documents.blocks(section("docs/lab.md", "The demo"), "console")
    assert len(shown) == 12
    lines = iter(whole)
    assert all(line in lines for line in shown), "in the order of the whole output"


def test_the_quick_start_has_five_steps_and_the_inventory_to_copy() -> None:
    steps = section("README.md", "Quick start")
    assert re.findall(r"^(\d)\. ", steps, re.MULTILINE) == ["1", "2", "3", "4", "5"]
    assert "Back up each node's key" in steps
    (shown,) = documents.blocks(steps, "python")
    assert "\n".join(line.removeprefix("   ") for line in shown) in text("examples/quick_start.py")
    assert "cp examples/quick_start.py inventories/hosts.py" in steps


@pytest.mark.filterwarnings("default")
def test_the_picture_shows_the_fleets_page() -> None:
    """`python -m tests.browser.screenshot` makes it anew."""
    assert screenshot.PATH.relative_to(ROOT).as_posix() in README
    assert screenshot.size(screenshot.PATH.read_bytes()) == screenshot.SIZE
    if screenshot.SOURCE.read_text().strip() != screenshot.source():
        warnings.warn("the fleet's page has changed since its picture was taken", stacklevel=1)


def test_the_readme_says_that_the_devnet_is_archived() -> None:
    assert "The public devnet that the guide was written for is archived." in README.replace("\n", " ")


def test_the_support_names_every_distribution_that_goes_on_without_a_warning() -> None:
    names = {"debian": "Debian", "ubuntu": "Ubuntu", "fedora": "Fedora"}
    names |= {
        "rhel": "RHEL",
        "almalinux": "AlmaLinux",
        "rocky": "Rocky",
        "centos": "CentOS Stream",
        "ol": "Oracle Linux",
    }
    families = documents.rows(text("docs/support.md").partition("## Refused")[0])
    for identifier, releases in platforms.TRIED.items():
        for release in releases:
            assert any(names[identifier] in row[0] and release in row[0] for row in families), (identifier, release)


def test_the_readme_has_no_place_left_to_fill_in() -> None:
    assert "@@" not in README


def test_the_readme_names_no_file_of_an_earlier_version() -> None:
    assert [path for path in (*FORMER, next_boot.OLD_DROP_IN) if path in README] == []
