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


def test_no_password_of_a_url_is_shown() -> None:
    assert printable("cannot open postgres://gevulot:hunter2@db:5432/x", 80) == (
        "cannot open postgres://gevulot:…@db:5432/x"
    )
