"""The README says what is now true."""

from __future__ import annotations

from pathlib import Path

from deploys import settings
from deploys.assessment import platforms

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_table_of_settings_as_it_is() -> None:
    """`python -m deploys.settings` prints the table."""
    assert settings.table() in README


def test_the_readme_names_every_distribution_that_goes_on_without_a_warning() -> None:
    names = {"debian": "Debian", "ubuntu": "Ubuntu", "fedora": "Fedora"}
    names |= {
        "rhel": "RHEL",
        "almalinux": "AlmaLinux",
        "rocky": "Rocky",
        "centos": "CentOS Stream",
        "ol": "Oracle Linux",
    }
    support = README.partition("## Support")[2].partition("## Settings")[0]
    for identifier, releases in platforms.TRIED.items():
        rows = [row for row in support.splitlines() if names[identifier] in row and "refused" not in row]
        for release in releases:
            assert any(release in row for row in rows), (identifier, release)


def test_the_readme_has_no_place_left_to_fill_in() -> None:
    assert "@@" not in README
