"""How the page looks: telephones, paper, the dark, and what a screen reader announces."""

from __future__ import annotations

import base64
import re

import pytest

from tests.browser.page import Page
from tests.fleet import documents

SERVER = documents.document(documents.eight_gpu_server())
FLEET = documents.fleet(20)
PAGES = {
    "fleet": (FLEET, ""),
    "lab": (documents.document(documents.lab()), "#open=lab-01"),
    "server": (SERVER, "#open=gpu-server"),
    "hostile": (documents.hostile(), ""),
}


@pytest.mark.parametrize("width", [360, 768, 1024, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_never_scrolls_sideways(page: Page, name: str, width: int) -> None:
    document, fragment = PAGES[name]
    page.open(document, fragment, width)
    page.run("document.querySelectorAll('.unfold, .open[aria-expanded=false]').forEach((button) => button.click())")
    assert page.run("return document.documentElement.scrollWidth") <= width


def test_on_a_telephone_a_host_is_a_card_of_what_is_wrong_with_it(page: Page) -> None:
    page.open(FLEET, width=360)
    name = next(each["name"] for each in FLEET["hosts"] if each["severity"] == "wrong")
    card = page.run(
        """const row = [...document.querySelectorAll("tr.host")].find(r => r.innerText.includes(arguments[0]));
        return row.innerText.split(/\\s*\\n\\s*/)""",
        name,
    )
    assert card[:2] == [name, "◆ wrong"]
    assert all("–" not in line and "5.4.2" not in line for line in card)


@pytest.mark.parametrize("width", [360, 1400])
def test_a_table_stays_a_table_for_a_screen_reader(page: Page, width: int) -> None:
    page.open(FLEET, width=width)
    roles = page.accessible_roles()
    assert roles.count("table") == 1
    assert roles.count("columnheader") == 15
    assert roles.count("rowheader") == 20
    assert roles.count("searchbox") == 1


def test_every_control_has_a_name_and_says_its_state(page: Page) -> None:
    page.open(SERVER, "#open=gpu-server")
    assert page.run("return [...document.querySelectorAll('button')].every(b => b.innerText.trim() || b.hidden)")
    assert page.run("return document.getElementById('query').labels[0].innerText") == "Filter"
    assert None not in page.attributes(".unfold, .open", "aria-expanded")
    assert None not in page.attributes("th", "scope")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["fleet", "server"])
def test_text_can_be_read_in_either_scheme(page: Page, scheme: str, name: str) -> None:
    """WCAG 2 asks for 4.5."""
    document, fragment = PAGES[name]
    page.open(document, fragment, prefers_color_scheme=scheme)
    dark = page.run("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    contrasts = page.contrasts()
    assert len(contrasts) > 10
    assert [(round(ratio, 2), text, color) for ratio, text, color in contrasts if ratio < 4.5] == []


def test_paper_has_the_table_and_the_opened_host_and_no_controls(page: Page) -> None:
    page.open(FLEET, "#open=" + FLEET["hosts"][0]["name"], 1000, "print", prefers_color_scheme="dark")
    assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("return getComputedStyle(document.querySelector('tr.host')).display") == "table-row"
    assert len(page.hosts()) == 20
    assert page.count(".details") == 1
    assert page.texts("#query, #filter label") == []
    assert page.run("return document.documentElement.scrollWidth") <= 1000


def test_a_hundred_hosts_are_a_few_sheets_of_paper(page: Page) -> None:
    page.open(documents.fleet(100))
    pdf = base64.b64decode(page.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 5
