"""The page as text: what is in it, and what its policy lets a browser do."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from deploys.fleet.page import embedded, render
from tests.fleet import documents

EMPTY: documents.Json = {"schema": "gevulot-fleet/1", "generated": "2026-11-22T22:40:00Z", "hosts": []}
NAMESPACE = "http://www.w3.org/2000/svg"


class Reader(HTMLParser):
    """A page as browsers read it: `elements` are tags with attributes, `texts` what is in style and scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = dict(attrs).get("type") or tag
            self.texts[self._inside] = ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.texts[self._inside] += data

    @property
    def policy(self) -> dict[str, str]:
        """The Content-Security-Policy: sources by directive."""
        (content,) = (
            attributes["content"] or ""
            for _, attributes in self.elements
            if attributes.get("http-equiv") == "Content-Security-Policy"
        )
        return dict(part.strip().partition(" ")[::2] for part in content.split(";"))


@pytest.fixture(scope="module")
def lab() -> Reader:
    """The page of the lab's host."""
    return Reader(render(documents.document(documents.lab())))


def test_the_page_holds_the_document(lab: Reader) -> None:
    assert json.loads(lab.texts["application/json"]) == documents.document(documents.lab())


@pytest.mark.parametrize("kind", ["style", "script"])
def test_the_policy_lets_run_and_paint_what_is_in_the_page_and_nothing_else(lab: Reader, kind: str) -> None:
    text = lab.texts["module" if kind == "script" else kind]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert lab.policy["default-src"] == "'none'"
    assert lab.policy[f"{kind}-src"] == f"'sha256-{digest}'"


def test_the_policy_lets_no_text_become_markup(lab: Reader) -> None:
    assert lab.policy["require-trusted-types-for"] == "'script'"
    assert lab.policy["trusted-types"] == "'none'"


def test_elements_carry_no_styles_and_no_handlers(lab: Reader) -> None:
    """The policy would not let them work."""
    attributes = {name for _, element in lab.elements for name in element}
    assert not {name for name in attributes if name == "style" or name.startswith("on")}


def test_the_page_names_no_other_place(lab: Reader) -> None:
    page = render(documents.document(documents.lab()))
    assert set(re.findall(r"""https?://[^\s'"]*""", page)) <= {NAMESPACE}
    named = [attributes[name] for _, attributes in lab.elements for name in ("src", "href") if attributes.get(name)]
    assert all((place or "").startswith("data:") for place in named)
    assert "url(" not in lab.texts["style"]
    assert "@import" not in lab.texts["style"]
    for way_out in ("fetch(", "XMLHttpRequest", "WebSocket", "EventSource", "sendBeacon", "import "):
        assert way_out not in lab.texts["module"]


def test_the_script_makes_no_markup_and_no_code_of_text(lab: Reader) -> None:
    for name in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "eval(",
        "new Function",
    ):
        assert name not in lab.texts["module"]


def test_nothing_in_style_and_script_ends_their_elements(lab: Reader) -> None:
    assert not re.search(r"</style|<!--", lab.texts["style"], re.IGNORECASE)
    assert not re.search(r"</script|<!--", lab.texts["module"], re.IGNORECASE)


@pytest.mark.parametrize(
    "text", ["</script>", "<!--", "<img onerror=x>", "&lt;", "a\u2028b\u2029c", "\udcff", "ü", '"\\']
)
def test_any_text_of_the_document_stays_text(text: str) -> None:
    document = {**EMPTY, "hosts": [{"name": text}]}
    plain = embedded(document)
    assert not set("<>&\u2028\u2029") & set(plain)
    assert plain.isascii()
    assert json.loads(plain) == document
    page = render(document)
    assert json.loads(Reader(page).texts["application/json"]) == document
    # A half of a surrogate pair could not be written to any file.
    page.encode()


def test_hostile_names_add_no_elements() -> None:
    def tags(document: documents.Json) -> list[str]:
        return [tag for tag, _ in Reader(render(document)).elements]

    assert tags(documents.hostile()) == tags(EMPTY)


def test_the_same_document_gives_the_same_page_in_whatever_order_its_keys_are() -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(each) for each in value] if isinstance(value, list) else value

    document = documents.fleet(5)
    assert render(document) == render(document) == render(turned(document))


@pytest.mark.parametrize(
    "document",
    [EMPTY, {**EMPTY, "hosts": [documents.unknown("gpu-01")]}, {**EMPTY, "hosts": [{"name": "gpu-01"}], "new": {}}],
    ids=["empty", "unknown", "other-fields"],
)
def test_a_page_is_made_of_little_too(document: documents.Json) -> None:
    assert json.loads(Reader(render(document)).texts["application/json"]) == document


def test_what_json_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        render({**EMPTY, "hosts": float("nan")})
    with pytest.raises(TypeError, match="set"):
        render({**EMPTY, "hosts": {1, 2}})
