"""Table, JSON and page of one look, and what an operator may ask for."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from deploys.assessment.status_document import Activity, HostStatus, Program, Severity, document, down, worst
from deploys.fleet import output, table
from deploys.settings import SettingsError

pytestmark = pytest.mark.commands

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
HOSTS = (
    HostStatus("b-ok", verified="2026-01-02T09:00:00Z"),
    HostStatus("a-wrong", Severity.WRONG, ("the IOMMU is off",)),
    down("c-down", "no route to host"),
    HostStatus("d-attention", Severity.ATTENTION, drift=("Podman is 5.5, was 5.4",)),
)


def test_the_worst_come_first_with_their_reasons() -> None:
    lines = [click.unstyle(line) for line in table.render(HOSTS, NOW)]
    rows = [line.split()[0] for line in lines[1:-1] if not line.startswith(" ")]
    assert rows == ["c-down", "a-wrong", "d-attention", "b-ok"]
    assert lines[2] == "    no route to host"
    assert "    since the state that was kept: Podman is 5.5, was 5.4" in lines
    assert "3 h ago" in lines[-2]
    assert lines[-1] == "4 hosts: 1 down, 1 wrong, 1 attention, 1 ok"


def test_a_row_says_what_the_node_does_and_how_many_programs_run() -> None:
    doing = (Activity("busy", (Program(4, 2, 90), Program(5, 2, 3))), Activity("no execution", ()), None)
    _, *rows, _ = table.render([HostStatus("host", activity=each) for each in doing], NOW)
    assert [words in click.unstyle(row) for words, row in zip(("busy (2)", "no execution"), rows, strict=False)] == [
        True
    ] * 2


def test_control_characters_of_a_host_do_not_reach_the_terminal() -> None:
    lines = table.render([HostStatus("h\x1b[2J", Severity.WRONG, ("\x1b]0;title\x07",))], NOW)
    assert "\x1b" not in click.unstyle("\n".join(lines))
    assert "?[2J" in lines[1]


def test_the_document_is_worst_first_and_has_its_schema() -> None:
    written = document(HOSTS, NOW)
    assert (written["schema"], written["generated"]) == ("gevulot-fleet/1", "2026-01-02T12:00:00Z")
    assert [host["severity"] for host in written["hosts"]] == ["down", "wrong", "attention", "ok"]


def test_the_exit_code_is_the_worst_ones() -> None:
    assert [worst(HOSTS[:count]).exit_code for count in range(4)] == [0, 0, 4, 5]


def test_options_come_from_data_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEVULOT_STATUS_OUTPUT", "json")
    assert output.options({}).output == "json"
    assert output.options({"status_output": "html", "ssh_user": "root"}).output == "html"


@pytest.mark.parametrize("data", [{"status_output": "pdf"}, {"status_colour": "no"}, {"status_keep": True}])
def test_options_that_cannot_be_used_are_named(data: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=str(next(iter(data)))):
        output.options(data)


def test_a_wrong_value_is_reported_with_the_expected_one() -> None:
    with pytest.raises(SettingsError, match=r"^status_keep is 'perhaps': .*; expected .*status_keep \(yes or no\)$"):
        output.options({"status_keep": "perhaps"})


def test_a_typo_is_reported_with_the_intended_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"^staus_output: unknown; did you mean status_output\?; expected "):
        output.options({"staus_output": "json"})
    monkeypatch.setenv("GEVULOT_STATUS_OUTPT", "json")
    with pytest.raises(SettingsError, match="GEVULOT_STATUS_OUTPT: unknown; did you mean GEVULOT_STATUS_OUTPUT"):
        output.options({})


@pytest.mark.parametrize("kind", ["table", "json", "html"])
def test_each_output_can_go_to_a_file(tmp_path: Path, kind: str) -> None:
    asked = output.options({"status_output": kind, "status_file": str(tmp_path / "out")})
    output.write(HOSTS, asked, NOW)
    text = (tmp_path / "out").read_text()
    assert "c-down" in text
    assert "\x1b" not in text
    if kind == "json":
        assert len(json.loads(text)["hosts"]) == 4


def test_drift_makes_an_ok_host_want_attention_and_keeps_it_when_asked(tmp_path: Path) -> None:
    asked = output.options({"status_known": str(tmp_path), "status_keep": "yes"})
    first = HostStatus("host", podman="5.4", topology={"functions": []})
    assert output.with_drift([first], asked) == [first]
    second = HostStatus("host", podman="5.5", topology={"functions": []})
    (status,) = output.with_drift([second], asked)
    assert (status.severity, status.drift) == (Severity.ATTENTION, ("Podman is 5.5, was 5.4",))
    (again,) = output.with_drift([second], asked)
    assert again.drift == ()


def test_a_host_that_is_down_keeps_its_state(tmp_path: Path) -> None:
    asked = output.options({"status_known": str(tmp_path), "status_keep": "yes"})
    output.with_drift([HostStatus("host", podman="5.4", topology={"functions": []}), down("host", "gone")], asked)
    assert "5.4" in (tmp_path / "host.json").read_text()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploys.fleet", *arguments], capture_output=True, text=True, check=False
    )


def test_the_script_answers_when_no_host_can_be_reached() -> None:
    done = run("@ssh/host.invalid,@ssh/other.invalid", "--output", "json")
    written = json.loads(done.stdout)
    assert done.returncode == 5
    assert [host["severity"] for host in written["hosts"]] == ["down", "down"]
    assert all(host["reasons"] for host in written["hosts"])


def test_the_script_looks_at_a_host_that_answers_beside_one_that_does_not() -> None:
    done = run("@local,@ssh/host.invalid")
    rows = [line.split()[:2] for line in done.stdout.splitlines()[1:-1] if not line.startswith(" ")]
    assert rows[0] == ["@ssh/host.invalid", "down"]
    assert rows[1][0] == "@local"
    assert rows[1][1] != "down"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.py",), "no such inventory"),
        (("@local", "--limit", "x"), "no such host or group"),
        (("@local", "--keep"), "status_known"),
        (("@local", "--data", "x"), "expected KEY=VALUE"),
    ],
)
def test_the_script_names_what_it_cannot_use(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", '{"schema": "gevulot-kept/1", "functions": [{}]}'])
def test_a_kept_state_that_cannot_be_used_is_one_hosts_reason_and_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    asked = output.options({"status_known": str(tmp_path), "status_keep": "yes"})
    hosts = [HostStatus("bad", topology={"functions": []}), HostStatus("good", topology={"functions": []})]
    bad, good = output.with_drift(hosts, asked)
    assert (bad.severity, good.severity) == (Severity.ATTENTION, Severity.OK)
    assert "kept state cannot be used" in bad.reasons[0]
    assert (tmp_path / "bad.json").read_text() == text


def test_a_host_that_was_not_read_wholly_keeps_its_state(tmp_path: Path) -> None:
    asked = output.options({"status_known": str(tmp_path), "status_keep": "yes"})
    output.with_drift([HostStatus("host", podman="5.4", topology={"functions": []})], asked)
    half = HostStatus("host", topology={"functions": []}, unreadable=("units: no answer within 40 s",))
    (status,) = output.with_drift([half], asked)
    assert status.drift == ()
    assert status.reasons[0].startswith("its state was not kept")
    assert "5.4" in (tmp_path / "host.json").read_text()


def test_a_host_of_which_no_state_is_kept_says_so(tmp_path: Path) -> None:
    asked = output.options({"status_known": str(tmp_path)})
    (status,) = output.with_drift([HostStatus("host", topology={"functions": []})], asked)
    assert (status.severity, status.reasons) == (Severity.ATTENTION, (f"no state of it is kept in {tmp_path}",))


def test_a_directory_that_cannot_be_written_is_a_reason_and_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = output.options({"status_known": str(tmp_path / "file/known"), "status_keep": "yes"})
    (status,) = output.with_drift([HostStatus("host", topology={"functions": []})], asked)
    assert status.reasons


def test_what_a_host_says_is_printable_and_narrow_in_every_cell() -> None:
    odd = HostStatus("host", podman="\x1b]0;title\x07" + "x" * 100, verified="2099-01-01T00:00:00Z")
    lines = [click.unstyle(line) for line in table.render([odd], NOW)]
    assert "\x1b" not in "".join(lines)
    assert len(lines[1]) < 250
    assert "in the future" in lines[1]


def test_a_name_that_cannot_be_one_hides_no_other_host() -> None:
    done = run("@local,@ssh/bad..name")
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert "@local" in done.stdout


def test_an_inventory_without_hosts_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("nodes = []\n")
    done = run(str(tmp_path / "empty.py"))
    assert (done.returncode, "no host" in done.stderr) == (2, True)


def test_a_mistake_in_the_data_of_a_host_that_is_down_is_reported_beside_it(tmp_path: Path) -> None:
    data = {"ssh_hostname": "127.0.0.1", "ssh_port": 1, "gevulot_bords": []}
    (tmp_path / "nodes.py").write_text(f"nodes = [('gone', {data!r})]\n")
    done = run(str(tmp_path / "nodes.py"), "--output", "json")
    (host,) = json.loads(done.stdout)["hosts"]
    assert (done.returncode, host["severity"]) == (5, "down")
    assert "port 1" in host["reasons"][0]
    assert "gevulot_bords" in host["reasons"][1]


def test_an_inventory_that_is_no_python_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "nodes.py").write_text("nodes = [\n")
    done = run(str(tmp_path / "nodes.py"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nodes.py: the inventory cannot be read: SyntaxError" in done.stderr


@pytest.mark.parametrize(("key", "message"), [("known", "is no directory"), ("file", "there is no directory")])
def test_places_that_cannot_be_written_are_reported_before_any_host_is_asked(
    tmp_path: Path, key: str, message: str
) -> None:
    (tmp_path / "plain").write_text("")
    path = tmp_path / "plain" if key == "known" else tmp_path / "none" / "x.html"
    with pytest.raises(SettingsError, match=message):
        output.options({f"status_{key}": str(path)})
