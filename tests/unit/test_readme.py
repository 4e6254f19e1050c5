"""The README says what is now true."""

from __future__ import annotations

from pathlib import Path

from deploys import settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_table_of_settings_as_it_is() -> None:
    """`python -m deploys.settings` prints the table."""
    assert settings.table() in README


def test_the_readme_has_no_place_left_to_fill_in() -> None:
    assert "@@" not in README
