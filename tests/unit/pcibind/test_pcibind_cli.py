"""The command line, and accesses that do not come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from topologies import unused
from tree import Machine

import pcibind
from pcibind.__main__ import main
from pcibind.commands.apply import apply
from pcibind.commands.text import DEBUG, attempt
from pcibind.model.errors import MEANINGS, ExitCode
from pcibind.model.report import Report

pytestmark = pytest.mark.commands

SOURCE = Path(pcibind.__file__).parent.parent


def pcibind_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    # As on a node: the directory itself is run, isolated from whatever else is installed.
    return subprocess.run([sys.executable, "-I", str(SOURCE), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["plan", "apply", "status", "release", "list", "add", "remove"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_exit_codes(command: str, flag: str) -> None:
    done = pcibind_command(command, flag)
    assert done.returncode == 0
    for code, meaning in MEANINGS.items():
        assert f"{code:d}  {meaning}" in done.stdout


def test_status_answers_in_json(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    apply(machine.host)
    done = pcibind_command("--root", str(machine.root), "status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["command"] == "status"
    assert [board["state"] for board in document["boards"]] == ["bound", "bound"]


def test_errors_have_codes_of_their_own(machine: Machine) -> None:
    root = ("--root", str(machine.root))
    assert pcibind_command(*root, "apply").returncode == 2
    assert pcibind_command("explode").returncode == 2
    assert pcibind_command(*root, "apply", "--next-boot", "--recorded").returncode == 2
    machine.configure('[[board]]\naddress = "0000:00:03.0"\n')
    done = pcibind_command(*root, "plan", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["refusals"][0]["guard"] == "default-route"
    machine.configure('[[board]]\naddress = "0000:09:00.0"\n')
    assert pcibind_command(*root, "plan").returncode == 4
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    assert pcibind_command(*root, "status").returncode == 5
    assert pcibind_command(*root, "plan").returncode == 8


@pytest.mark.parametrize(
    ("arguments", "command", "message"),
    [
        (("frob",), "", "No such command 'frob'"),
        (("plan", "--frob"), "plan", "No such option"),
        (("add",), "add", "Missing argument"),
        (("apply", "--next-boot", "--recorded"), "apply", "exclude each other"),
    ],
)
def test_a_wrong_command_line_is_a_document_where_one_was_asked_for(
    arguments: tuple[str, ...], command: str, message: str
) -> None:
    done = pcibind_command(*arguments, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit_code"], document["command"]) == (2, 2, command)
    assert message in document["errors"][0]
    plain = pcibind_command(*arguments)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert message in plain.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--debug", "release", "--this-boot"),
        ("release", "--debug", "--this-boot", "--json"),
        ("release", "--this-boot", "--json", "--debug"),
    ],
)
def test_a_command_of_a_unit_takes_the_options_of_all_commands(arguments: tuple[str, ...]) -> None:
    done = pcibind_command(*arguments)
    # This computer was not started with pcibind=off.
    assert (done.returncode, done.stderr) == (2, "")
    assert "the kernel command line lacks pcibind=off" in done.stdout


@pytest.mark.parametrize("arguments", [("--debug", "plan"), ("plan", "--debug")])
def test_a_traceback_is_asked_for_before_or_after_a_command(machine: Machine, arguments: tuple[str, ...]) -> None:
    done = pcibind_command("--root", str(machine.root), *arguments)
    assert (done.returncode, done.stderr) == (2, "")
    assert "no *.toml file" in done.stdout


def explode() -> Report:
    raise KeyError("what nobody thought of")


def test_an_unexpected_error_is_a_document_and_a_traceback_only_where_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = attempt("plan", explode)
    assert report.exit_code is ExitCode.UNEXPECTED
    assert "KeyError: 'what nobody thought of'" in json.loads(report.to_json())["errors"][0]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(DEBUG, "1")
    attempt("plan", explode)
    assert "Traceback" in capsys.readouterr().err


def test_a_configuration_that_is_a_directory_is_a_document(machine: Machine) -> None:
    (machine.root / "etc/pcibind/boards.toml").mkdir()
    done = pcibind_command("--root", str(machine.root), "plan", "--json")
    assert (done.returncode, json.loads(done.stdout)["exit_code"], done.stderr) == (2, 2, "")


@pytest.mark.parametrize("arguments", [("plan", "--json"), ("plan",), ("--help",)])
def test_a_closed_pipe_is_no_traceback(machine: Machine, arguments: tuple[str, ...]) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    end, pipe = os.pipe()
    os.close(end)
    command = [sys.executable, "-I", str(SOURCE), "--root", str(machine.root), *arguments]
    with os.fdopen(pipe, "w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    # Of what click prints itself, click chooses the code.
    assert (done.returncode, done.stderr) == (1 if arguments == ("--help",) else 8, "")


@pytest.mark.parametrize("arguments", [["--recorded"], ["--recorded", "--json"]])
def test_what_the_unit_runs_imports_neither_click_nor_pyudev(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys; from pcibind.commands import system; from pcibind.read.files import Paths;"
        f"system.System.__init__.__defaults__ = (Paths({str(tmp_path)!r}), None);"
        f"sys.argv = ['pcibind', 'apply', *{arguments!r}];"
        "from pcibind.__main__ import main\ntry: main()\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'click', 'pyudev', 'typing', 'tomllib', 'subprocess', 'dataclasses', 'pathlib', 'socket'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


MODULES_AT_BOOT = 22
"""Reading a module takes longer than what a boot does with it: those that belong together are one."""


def test_a_boot_that_has_nothing_to_do_reads_few_modules(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    assert apply(unused(machine)).exit_code is ExitCode.OK
    code = (
        "import sys; from pcibind.commands import system; from pcibind.read.files import Paths;"
        f"system.System.__init__.__defaults__ = (Paths({str(machine.root)!r}), None);"
        "sys.argv = ['pcibind', 'apply', '--recorded'];"
        "from pcibind.__main__ import main\ntry: main()\nexcept SystemExit as end: assert end.code == 0\n"
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] == 'pcibind'))"
    )
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True
    )
    assert "nothing to do" in done.stdout
    names = done.stdout.splitlines()[-1].split()
    assert len(names) <= MODULES_AT_BOOT, names


def test_output_that_cannot_be_written_is_one_line_and_no_success(machine: Machine) -> None:
    command = [sys.executable, "-I", str(SOURCE), "--root", str(machine.root), "status"]
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "pcibind: standard output: No space left on device\n")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_the_terminal_cannot_show_is_no_traceback(machine: Machine, encoding: str) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\nname = "größe"\n')
    (machine.root / os.fsdecode(b"etc/pcibind/\xff.toml")).write_text("nonsense")
    command = [sys.executable, str(SOURCE), "--root", str(machine.root)]
    # Strict, as in every locale but C.
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    for arguments in (["plan"], ["release", os.fsdecode(b"\xff")]):
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (2, b"")
        assert b"\\udcff" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["--json", "list"], ["--json", "--debug", "status"], ["--json", "status", "--all"]]
)
def test_an_option_before_the_command_is_refused_whether_there_is_more_to_parse_or_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pcibind", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == ExitCode.CONFIGURATION
    assert "--json stands after the command" in json.loads(capsys.readouterr().out)["errors"][0]


@pytest.mark.parametrize("arguments", [["apply"], ["status", "--json"], ["apply", "--next-boot"]])
def test_an_interrupted_command_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pcibind.commands.system.System.topology", interrupted)
    monkeypatch.setattr("pcibind.commands.system.System.locked", interrupted)
    monkeypatch.setattr(sys, "argv", ["pcibind", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
