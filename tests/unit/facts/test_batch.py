"""Several facts in one command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from pyinfra.api import FactBase, Host
from pyinfra.api.exceptions import FactError, FactProcessError

from facts.batch import FactBatch, Part, Unreadable, ask


class Echo(FactBase[list[str]]):
    @staticmethod
    def default() -> list[str]:
        return ["nothing"]

    def command(self, text: str) -> str:
        return text

    def process(self, output: list[str]) -> list[str]:
        return output


class Absent(Echo):
    def requires_command(self, text: str) -> str:
        return "no-such-program"


class Refusing(Echo):
    def process(self, output: list[str]) -> list[str]:
        raise FactProcessError("this is no answer")


def run(*parts: Part, lines: int | None = None) -> dict[str, Any]:
    together = FactBatch()
    command = together.command(parts=parts)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    return together.process(done.stdout.splitlines()[:lines])


@dataclass
class Shell:
    """Of a host, what `ask` needs: it answers facts by a shell here, and knows which it was asked for."""

    asked: list[type[FactBase[Any]]] = field(default_factory=list)
    name: str = "gpu1"
    print_prefix: str = ""

    def get_fact(self, fact: type[FactBase[Any]], _timeout: float | None = None, **arguments: Any) -> Any:
        self.asked.append(fact)
        # Nobody waits for ever for what was too slow, or hung, among others.
        assert fact is FactBatch or _timeout
        known = fact()
        done = subprocess.run(["sh", "-c", known.command(**arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise FactError(f"{fact.__name__}: {done.stderr}")
        return known.process(done.stdout.splitlines())


def part(name: str, text: str, fact: type[Echo] = Echo) -> Part:
    return Part(name, fact, {"text": text})


def test_each_part_has_its_own_output() -> None:
    answers = run(part("one", "echo a; echo; echo b"), part("two", "printf without"), part("three", "cd /; exit 0"))
    assert answers == {"one": ["a", "", "b"], "two": ["without"], "three": ["nothing"]}


def test_one_that_fails_takes_no_other_with_it() -> None:
    answers = run(part("bad", "echo half; exit 7"), part("odd", "echo x", Refusing), part("good", "echo a"))
    assert answers["bad"] == Unreadable("its command ended with 7")
    assert answers["odd"] == Unreadable("this is no answer")
    assert answers["good"] == ["a"]


def test_the_last_line_of_a_failed_part_is_reported() -> None:
    talk = "echo out; echo 'a warning' >&2; echo >&2; echo 'Error: no such \\001 thing' >&2; echo >&2"
    answers = run(part("bad", f"{talk}; exit 125"), part("good", f"{talk}"), part("quiet", "exit 1"))
    assert answers["bad"] == Unreadable("its command ended with 125: Error: no such \x01 thing")
    assert answers["good"] == ["out"]
    assert answers["quiet"] == Unreadable("its command ended with 1")
    long = run(part("bad", "seq -s ' ' 1000 >&2; exit 1"), part("good", "echo a"))
    assert len(long["bad"].reason) < 400
    assert long["good"] == ["a"]


def test_a_program_that_is_not_there_gives_the_default() -> None:
    assert run(part("absent", "echo a", Absent)) == {"absent": ["nothing"]}


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_an_answer_that_was_cut_short_is_reported(lines: int) -> None:
    answers = run(part("one", "echo a; echo b"), part("two", "echo c"), lines=lines)
    assert isinstance(answers["one"], Unreadable)
    assert isinstance(answers["two"], Unreadable)
    assert "the connection ended" in answers["two"].reason


def test_what_is_no_text_in_any_encoding_is_left_out() -> None:
    command = FactBatch().command(parts=(part("one", "printf 'a\\377b\\n'"), part("two", "echo c")))
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    together = FactBatch()
    together.command(parts=(part("one", ""), part("two", "")))
    answers = together.process(done.stdout.decode("utf-8").splitlines())
    assert answers["one"][0] in ("ab", "a?b")
    assert answers["two"] == ["c"]


def test_what_is_asked_for_together_takes_one_command() -> None:
    host = Shell()
    answers = ask(cast(Host, host), part("one", "echo a"), part("two", "echo b"))
    assert answers == {"one": ["a"], "two": ["b"]}
    assert host.asked == [FactBatch]


def test_what_could_not_be_read_is_asked_for_alone_and_fails_as_any_fact(tmp_path: Path) -> None:
    host, first = Shell(), tmp_path / "first"
    once = f"test -e {first} || {{ touch {first}; exit 7; }}; echo b"
    assert ask(cast(Host, host), part("one", "echo a"), part("two", once)) == {"one": ["a"], "two": ["b"]}
    assert host.asked == [FactBatch, Echo]
    with pytest.raises(FactError):
        ask(cast(Host, host), part("one", "echo a"), part("two", "exit 7"))


def test_a_part_whose_beginning_is_missing_is_unreadable() -> None:
    together = FactBatch()
    together.command(parts=(part("one", "echo a"),))
    assert together.process(["a", "\x01one 0"]) == {"one": Unreadable("its answer has no beginning")}
