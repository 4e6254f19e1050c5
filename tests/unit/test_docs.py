"""The documentation names what exists: links, keys of host data, files of a host, modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploys import manifest
from deploys.assessment import next_boot
from deploys.assessment import reboot_attempt as attempt
from deploys.assessment.legacy_files import FORMER
from deploys.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "helpers/pcibind/README.md", *sorted((ROOT / "docs").glob("*.md"))]
# On a host, but made by systemd, by an operation, or by hand.
MADE = {
    manifest.RECORD,
    manifest.ARCHIVE,
    manifest.ARGUMENTS,
    manifest.STATE_DIRECTORY,
    attempt.FILE,
    next_boot.DROP_IN,
    *manifest.FILES,
}
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pages
def test_every_key_of_host_data_exists(page: Path) -> None:
    named = set(re.findall(r"\bgevulot_(\w+)\b", page.read_text(encoding="utf-8")))
    assert named <= set(Settings.model_fields)


@pages
def test_every_configuration_file_of_ours_is_one_that_is_written(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = MADE | set(FORMER) | {next_boot.OLD_DROP_IN, "/etc/gevulot/node-key.sha256"}
    named = set(re.findall(r"`(/(?:etc|usr/local/libexec)/[\w./-]*gevulot[\w./-]*\.[a-z]+)`", text))
    named |= set(re.findall(r"`(/var/lib/gevulot-deploy/\w+\.\w+)`", text))
    assert named <= known


@pages
def test_every_module_and_script_exists(page: Path) -> None:
    for path in re.findall(r"(?<![\w/.-])((?:deploys|facts|tests|inventories)/[\w/-]+\.py)\b", page.read_text("utf-8")):
        assert (ROOT / path).exists() or path == "inventories/group_data/nodes.py", path


def test_every_page_is_found_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[2:] if f"(docs/{page.name}" not in text] == []


def test_the_readme_names_no_file_of_an_earlier_version() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path for path in (*FORMER, next_boot.OLD_DROP_IN) if path in text] == []
