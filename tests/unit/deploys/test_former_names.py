"""Files and the record under the names of earlier versions: which are ours, and how the record moves."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from deploys import manifest
from deploys.assessment import legacy_files
from deploys.preflight.state import FilesState
from deploys.steps import baseline
from facts import state_directory
from facts.baseline import Baseline, BaselineRecord
from facts.file import FileText, FileTexts
from tests.unit.deploys import recorded as r
from tests.unit.deploys.test_gpu_host import FORMER, REQUEST, verdicts


@pytest.mark.parametrize(
    "made",
    [(), ("failed-units",), ("failed-units.new",), ("failed-units", "failed-units.new"), ("failed-units", "mine")],
)
def test_the_directory_moves_as_a_whole_and_over_nothing_of_others(tmp_path: Path, made: tuple[str, ...]) -> None:
    """The command itself, with other paths."""
    former, current = tmp_path / "former", tmp_path / "current"
    former.mkdir()
    for name in ("before.json", "before.tar", "access-0a1b"):
        (former / name).write_text(name)
    for name in made:
        current.mkdir(exist_ok=True)
        (current / name).write_text(name)
    text = baseline.MOVE.replace(FORMER, str(former)).replace(manifest.STATE_DIRECTORY, str(current))
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True)
    if "mine" in made:
        assert (done.returncode != 0, "not empty" in done.stderr) == (True, True)
        assert f"{current} is in the way of the record in {former}" in done.stderr
        assert f"mv {current} {current}.old" in done.stderr
        assert (former / "before.json").exists()
        return
    assert (done.returncode, done.stderr, former.exists()) == (0, "", False)
    moved = {"before.json", "before.tar", "access-0a1b", "renaming", *made} - {"failed-units.new"}
    assert {each.name for each in current.iterdir()} == moved


@pytest.mark.parametrize("what", ["a file", "a link to a directory", "a link to nothing"])
def test_what_is_no_directory_is_in_the_way_of_the_move_and_stays(tmp_path: Path, what: str) -> None:
    former, current = tmp_path / "former", tmp_path / "current"
    former.mkdir()
    (former / "before.json").write_text("{}")
    if what == "a file":
        current.write_text("mine")
    else:
        current.symlink_to(tmp_path if what == "a link to a directory" else tmp_path / "nothing")
    text = baseline.MOVE.replace(FORMER, str(former)).replace(manifest.STATE_DIRECTORY, str(current))
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"mv {current} {current}.old" in done.stderr
    assert (current.is_symlink(), (former / "before.json").exists()) == (what != "a file", True)


RENDERED = "\n".join(line.removeprefix("text ") for line in REQUEST[1:]) + "\n"


def test_a_file_of_the_operators_that_pcibind_refuses_beside_ours_is_refused_before_ours_is_written() -> None:
    for mine, message in (
        (RENDERED, "model 10de:2684 is also chosen at /etc/pcibind/gevulot.toml"),
        ("[[cards]]", "/etc/pcibind/gevulot.toml:1: cards: unknown key"),
    ):
        more = {"files": FilesState(requests={legacy_files.REQUEST: mine})}
        for verdict in verdicts(more=more, boards=["10de:2684"]):
            (refusal,) = verdict.refusals
            assert message in refusal
            assert "move it out of /etc/pcibind" in refusal


def test_files_that_agree_with_ours_and_those_that_this_run_takes_away_are_no_refusal() -> None:
    own = {manifest.PCIBIND_BOARDS.path: RENDERED, "/etc/pcibind/mine.toml": '[[board]]\nmodel = "10de:2204"\n'}
    former = {legacy_files.REQUEST: RENDERED}
    for requests in (own, former, {}):
        files = FilesState(
            requests=requests, past=PAST, texts=texts(legacy_files.REQUEST) if requests is former else {}
        )
        assert [each.refusals for each in verdicts(more={"files": files}, boards=["10de:2684"])] == [(), ()]


def texts(*paths: str) -> dict[str, FileText]:
    contents: dict[str, FileText] = FileTexts().process(list(r.FORMER_NAMED))
    return {path: contents[path] for path in paths or contents}


PAST = Baseline((), (), "running", ())


NAMED = tuple(manifest.FORMER_NAMES.values())


def test_a_file_of_an_earlier_version_is_recognized_by_its_text_wherever_the_record_is() -> None:
    for directory in (manifest.STATE_DIRECTORY, FORMER):
        assert set(
            legacy_files.ours(texts(), replace(PAST, directory=directory, is_former=directory == FORMER))
        ) == set(NAMED)
    assert legacy_files.ours(texts(), None) == (), "there is no record"


@pytest.mark.parametrize("path", NAMED)
def test_a_file_that_somebody_changed_is_ours_only_where_nobody_but_an_earlier_version_was(path: str) -> None:
    changed = {path: FileText(f"{texts(path)[path].content}# mine\nsomething\n")}
    assert legacy_files.ours(changed, PAST) == ()
    assert legacy_files.ours(changed, replace(PAST, directory=FORMER, is_former=True)) == (path,)
    linked = {path: replace(texts(path)[path], link="/srv/mine")}
    assert legacy_files.ours(linked, replace(PAST, directory=FORMER, is_former=True)) == ()


@pytest.mark.parametrize("path", NAMED)
def test_what_a_killed_move_left_is_ours_as_it_was_before_the_move(path: str) -> None:
    changed = {path: FileText("# mine\n")}
    first, *rest = r.before(deployed="node")
    half = baseline_of([first, "renaming", *rest])
    assert (half.is_former, half.renaming) == (False, True)
    assert legacy_files.ours(changed, half) == (path,)
    assert legacy_files.ours(changed, baseline_of([first, *rest])) == ()


def baseline_of(lines: list[str]) -> Baseline:
    recorded_host = BaselineRecord().process(lines).past
    assert recorded_host is not None
    return recorded_host


def test_files_of_others_are_left_alone_once_any_present_name_was_written() -> None:
    rule = "/etc/udev/rules.d/99-vfio.rules"
    text = FileText('SUBSYSTEM=="vfio", OWNER="root", GROUP="kvm"\n')
    assert legacy_files.ours({rule: text}, PAST) == (rule,)
    for newer_name in ("/etc/modprobe.d/gevulot-boards.conf", manifest.BLACKLIST.path):
        assert rule not in legacy_files.ours({rule: text, newer_name: FileText("")}, PAST)


def test_the_record_is_read_where_it_is_and_the_present_place_wins(tmp_path: Path) -> None:
    current, former = tmp_path / "current", tmp_path / "former"
    script = f"{state_directory.CHOSEN}\necho $directory"

    def chosen() -> str:
        words = ["sh", "-c", script, "x", str(current), str(former)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    assert chosen() == str(current), "none yet"
    former.mkdir()
    (former / "before.json").write_text("{}")
    assert chosen() == str(former)
    current.mkdir()
    assert chosen() == str(former), "a directory alone is no record"
    (current / "before.json").write_text("{}")
    assert chosen() == str(current)


def test_a_file_of_the_directory_has_its_former_place_and_no_other_has_one() -> None:
    assert manifest.former_path(f"{manifest.STATE_DIRECTORY}/access-0a1b") == "/var/lib/gevulot-deploy/access-0a1b"
    assert manifest.former_path(manifest.STATE_DIRECTORY) == FORMER
    for other in ("/var/lib/gpu-hosts", "/tmp/before.tar"):
        assert manifest.former_path(other) == other
