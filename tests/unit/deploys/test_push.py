"""How a file takes its place on a host: by the shell programs that are sent, as root of a directory of the test's."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from deploys.assessment import legacy_files
from deploys.manifest import BLACKLIST, FILES, HOST_FILES, NODE_FILES
from deploys.operations.files import TEMPLATES, upload_path
from facts.baseline import ArchivedFile, Baseline
from facts.file import FileText, FileTexts

SCRIPTS = Path(__file__).parents[3] / "deploys/scripts"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to root")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "before.tar"
    subprocess.run(["tar", "-C", "/", "-cf", path, "etc/hostname"], check=True)
    return path


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = ["sh", "-c", (SCRIPTS / script).read_text(), script, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


def push(path: Path, archive: Path, content: str = "ours\n") -> None:
    for script, arguments in (
        ("make_room.sh", (path, archive)),
        ("put_file.sh", ("644", path, upload_path(str(path)))),
    ):
        if script == "put_file.sh":
            Path(upload_path(str(path))).write_text(content)
        done = run(script, *arguments)
        assert (done.returncode, done.stderr) == (0, "")


def undo(path: Path, archive: Path) -> None:
    subprocess.run(["tar", "-C", "/", "-xpf", archive, str(path).lstrip("/")], check=True)


def state(path: Path, archive: Path) -> str:
    command = ArchivedFile().command(archive=str(archive), former=str(archive), path=str(path))
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.strip()


def test_a_new_file_and_its_directory_are_roots_own(tmp_path: Path, archive: Path) -> None:
    path = tmp_path / "new/directory/file.conf"
    push(path, archive)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == ("ours\n", 0o644, 0)
    assert [each.name for each in path.parent.iterdir()] == ["file.conf"]


def test_a_file_that_a_killed_run_left_on_its_way_is_no_file_of_its_directory() -> None:
    for path in FILES:
        left = Path(upload_path(path))
        assert (left.parent, left.name[0]) == (Path(path).parent, ".")
        assert left.suffix not in (".conf", ".container", ".rules", ".service")


@pytest.mark.parametrize("target", ["theirs.conf", "nowhere.conf", "loop.conf"])
def test_a_link_is_kept_for_the_undo_and_nothing_is_written_through_it(
    tmp_path: Path, archive: Path, target: str
) -> None:
    theirs, path = tmp_path / "theirs.conf", tmp_path / "loop.conf"
    theirs.write_text("theirs\n")
    path.symlink_to(target)
    push(path, archive)
    assert not path.is_symlink()
    assert (path.read_text(), theirs.read_text()) == ("ours\n", "theirs\n")
    assert not (tmp_path / "nowhere.conf").exists()
    undo(path, archive)
    assert (os.readlink(path), theirs.read_text()) == (target, "theirs\n")
    assert state(path, archive) == "same"


def test_a_link_that_comes_back_replaces_no_link_that_was_kept_first(tmp_path: Path, archive: Path) -> None:
    path = tmp_path / "ours.conf"
    for target in ("first", "second"):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        push(path, archive)
    undo(path, archive)
    assert os.readlink(path) == "first"


def test_a_link_without_an_archive_stays_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ours.conf"
    path.symlink_to("theirs")
    done = run("make_room.sh", path, tmp_path / "none.tar")
    assert done.returncode == 1
    assert f"{path} is a link, and {tmp_path}/none.tar" in done.stderr
    assert path.is_symlink()


def test_of_a_file_with_several_names_only_ours_changes(tmp_path: Path, archive: Path) -> None:
    path, other = tmp_path / "ours.conf", tmp_path / "other.conf"
    other.write_text("theirs\n")
    path.hardlink_to(other)
    push(path, archive)
    assert (path.read_text(), other.read_text()) == ("ours\n", "theirs\n")


def test_a_directory_that_is_a_link_stays_one(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    push(tmp_path / "linked/ours.conf", archive)
    assert (tmp_path / "real/ours.conf").read_text() == "ours\n"
    assert (tmp_path / "linked").is_symlink()


def test_a_file_that_was_only_touched_is_what_it_was(tmp_path: Path, archive: Path) -> None:
    path = tmp_path / "file.conf"
    path.write_text("theirs\n")
    subprocess.run(["tar", "-C", "/", "-rf", archive, str(path).lstrip("/")], check=True, stderr=subprocess.DEVNULL)
    os.utime(path, (1, 1))
    assert state(path, archive) == "same"
    path.chmod(0o600)
    assert state(path, archive) == "different"
    path.unlink()
    assert state(path, archive) == "different"


def test_every_template_but_grubs_lands_on_a_path_of_the_manifest() -> None:
    templates = {f"/{path.relative_to(TEMPLATES)}"[:-3] for path in TEMPLATES.rglob("*.j2")}
    assert {path for path in templates if not path.startswith("/etc/default/grub.d/")} <= set(FILES)


def test_nobody_else_has_a_file_of_our_names_where_everybodys_files_are() -> None:
    shared = ("/etc/modprobe.d/", "/etc/modules-load.d/", "/etc/udev/rules.d/", "/etc/containers/", "/etc/systemd/")
    of_host = [path for path in HOST_FILES if path.startswith(shared)]
    of_node = [path for path in NODE_FILES if path.startswith(shared)]
    assert [path for path in of_host if "gpu-host" not in path and "pcibind" not in path] == []
    assert [path for path in of_node if "gevulot" not in path] == []
    assert set(FILES) == {*HOST_FILES, *NODE_FILES}


# --- files of earlier versions

PAST = Baseline((), (), "running", ())
WRITTEN = {
    "/etc/modprobe.d/nvidia.conf": "# The boards belong to virtual machines: keep the host's drivers off them.\n"
    "blacklist nvidia\nblacklist nvidia-drm\nblacklist nova_core\n",
    "/etc/modprobe.d/vfio.conf": "# Binding is per device, by pcibind's driver override.\n",
    "/etc/modules-load.d/vfio.conf": "# PCI passthrough for the Gevulot node. Only modules that this kernel has.\n"
    "vfio\nvfio_pci\n",
    "/etc/modules-load.d/vsock.conf": "# Sockets between the Gevulot node and its virtual machines. Only modules that "
    "this kernel has.\nvsock\n",
    "/etc/udev/rules.d/99-vfio.rules": 'SUBSYSTEM=="vfio", OWNER="root", GROUP="kvm"\n',
}
IDS = "# Asked for by gevulot_vfio_ids: every card of these models goes to vfio-pci, one added later included.\n"
STAYS = (
    "# The boards belong to virtual machines: keep the host's drivers off them.\n"
    "# An NVIDIA board stays with the host, so nothing is blacklisted here; pcibind's driver override decides alone.\n"
)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        *WRITTEN.items(),
        ("/etc/modprobe.d/nvidia.conf", STAYS),
        ("/etc/modprobe.d/vfio.conf", f"{WRITTEN['/etc/modprobe.d/vfio.conf']}{IDS}options vfio-pci ids=10de:2684\n"),
    ],
)
def test_what_an_earlier_version_wrote_is_ours_where_the_host_has_a_record(path: str, content: str) -> None:
    texts = {path: FileText(content)}
    assert legacy_files.ours(texts, PAST) == (path,)
    assert legacy_files.ours(texts, None) == ()


@pytest.mark.parametrize("path", WRITTEN)
@pytest.mark.parametrize("added", ["options nvidia NVreg_EnableMSI=1\n", "# mine\n"])
def test_what_somebody_added_to_or_wrote_under_that_name_is_not_ours(path: str, added: str) -> None:
    assert legacy_files.ours({path: FileText(WRITTEN[path] + added)}, PAST) == ()
    assert legacy_files.ours({path: FileText(added)}, PAST) == ()


def test_a_host_that_was_converted_has_no_former_files_of_ours() -> None:
    path = "/etc/udev/rules.d/99-vfio.rules"
    assert legacy_files.ours({path: FileText(WRITTEN[path]), BLACKLIST.path: FileText("")}, PAST) == ()


def test_a_link_that_an_earlier_version_wrote_through_stays_and_is_reported() -> None:
    path = "/etc/modprobe.d/nvidia.conf"
    texts = {path: FileText(WRITTEN[path], "/etc/nvidia/current/nvidia-modprobe.conf")}
    assert legacy_files.ours(texts, PAST) == ()
    (sentence,) = legacy_files.written_through(texts, PAST)
    assert "wrote through it into /etc/nvidia/current/nvidia-modprobe.conf" in sentence
    assert legacy_files.written_through({path: FileText("options nvidia-current a=1\n", "/x")}, PAST) == ()


def test_texts_of_files_and_of_links_are_read(tmp_path: Path) -> None:
    (tmp_path / "it's.conf").write_text("one\n\ntwo")
    (tmp_path / "link.conf").symlink_to("it's.conf")
    (tmp_path / "empty.conf").touch()
    paths = tuple(str(tmp_path / name) for name in ("it's.conf", "link.conf", "empty.conf", "none.conf"))
    done = subprocess.run(["sh", "-c", FileTexts().command(paths=paths)], capture_output=True, text=True, check=True)
    assert FileTexts().process(done.stdout.splitlines()) == {
        paths[0]: FileText("one\n\ntwo\n"),
        paths[1]: FileText("one\n\ntwo\n", paths[0]),
        paths[2]: FileText(""),
    }
