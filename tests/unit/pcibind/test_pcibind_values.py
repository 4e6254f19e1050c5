"""Our named tuples and those of `typing`, which they stand in for."""

from __future__ import annotations

import copy
import pickle
import typing

import pytest

from pcibind.model import values


class Ours(values.NamedTuple):
    kind: str
    groups: tuple[int, ...]
    name: str | None = None
    allow: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        return self.name or self.kind

    def __str__(self) -> str:
        return f"board {self.label}"


class Theirs(typing.NamedTuple):
    kind: str
    groups: tuple[int, ...]
    name: str | None = None
    allow: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        (("path", (1, 2)), {}),
        (("path", (1, 2), "left"), {"allow": frozenset({"class"})}),
        ((), {"groups": (), "kind": "path", "allow": frozenset()}),
    ],
)
def test_one_is_made_and_read_as_those_of_typing(
    positional: tuple[typing.Any, ...], named: dict[str, typing.Any]
) -> None:
    ours, theirs = Ours(*positional, **named), Theirs(*positional, **named)
    assert tuple(ours) == tuple(theirs)
    assert (ours.kind, ours.groups, ours.name, ours.allow) == theirs
    assert ours._fields == theirs._fields == Ours._fields
    assert ours._asdict() == theirs._asdict()
    assert tuple(ours._replace(name="right")) == tuple(theirs._replace(name="right"))
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert hash(ours) == hash(theirs)


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        (("path",), {}),
        (("path", (), None, frozenset(), "more"), {}),
        (("path", ()), {"kind": "address"}),
        (("path", ()), {"colour": "red"}),
    ],
)
def test_wrong_fields_are_refused(positional: tuple[typing.Any, ...], named: dict[str, typing.Any]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(*positional, **named)


def test_one_cannot_be_changed_and_an_unknown_field_not_replaced() -> None:
    one = Ours("path", ())
    with pytest.raises(AttributeError):
        one.kind = "address"  # type: ignore[misc]
    with pytest.raises(TypeError):
        one._replace(colour="red")  # type: ignore[call-arg]


def test_one_has_its_own_methods_and_can_be_copied_pickled_and_matched() -> None:
    one = Ours("path", (1,), "left")
    assert (str(one), one.label) == ("board left", "left")
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    match one:
        case Ours(kind, groups):
            assert (kind, groups) == ("path", (1,))
