"""What others wrote reaches a terminal as one plain line."""

from __future__ import annotations

import pytest

from facts.untrusted import printable


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a\x1b[1;31mb\x1b[0mc", "abc"),
        ("\x1b[1;31mred\x1b[0m\ttab\x07", "red tab"),
        ("\x1b]0;title\x07text", "text"),
        ("a\x1b]8;;http://x\x1b\\b", "ab"),
        ("a\x1bPq~\x07b\x1bc!", "ab!"),
        ("a\u202eb\u2028c\x85d", "a b c d"),
        ("a\x1b]never ended", "a"),
        (" a \t b ", "a b"),
    ],
)
def test_commands_to_a_terminal_are_removed(text: str, plain: str) -> None:
    assert printable(text, 80) == plain


def test_a_long_text_is_cut() -> None:
    assert printable("x" * 5000, 400) == "x" * 399 + "…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open postgres://gevulot:hunter2@db:5432/x", "cannot open postgres://gevulot:…@db:5432/x"),
        ("open postgres://gevulot:hun@ter2@db/x", "open postgres://gevulot:…@db/x"),
        ("open POSTGRES+TLS://gevulot:hunter2@db/x", "open POSTGRES+TLS://gevulot:…@db/x"),
        ("http://a:80/x by admin@b", "http://a:80/x by admin@b"),
    ],
)
def test_no_password_of_a_url_is_shown(text: str, shown: str) -> None:
    assert printable(text, 80) == shown
