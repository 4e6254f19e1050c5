"""The cache keeps what is used, and nothing for ever; what a killed maker left is removed."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.lab import cache

DAY = 24 * 3600


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEVULOT_LAB_CACHE", str(tmp_path))
    return tmp_path


def make(path: Path, *, days: float = 0.0, text: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    moment = time.time() - days * DAY
    os.utime(path, (moment, moment))
    return path


def qcow2(base: Path) -> bytes:
    """The header of a disk that lies over another one."""
    name = os.fsencode(base)
    return struct.pack(">4sIQI", b"QFI\xfb", 3, 32, len(name)).ljust(32, b"\0") + name


def test_what_was_not_used_for_two_weeks_is_removed(home: Path) -> None:
    old, new = make(home / "warm/old.qcow2", days=15), make(home / "warm/new.qcow2", days=13)
    assert cache.prune() == [old]
    assert (old.exists(), new.exists()) == (False, True)


def test_use_is_noted(home: Path) -> None:
    old = make(home / "warm/old.qcow2", days=15)
    assert cache.holds(old)
    assert cache.prune() == []
    assert not cache.holds(home / "warm/none.qcow2")


def test_beyond_its_size_the_longest_unused_goes_first_and_what_was_just_used_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [make(home / f"warm/{days}.qcow2", days=days, text=b"x" * 100_000) for days in (3, 2, 1, 0)]
    monkeypatch.setattr(cache, "KEPT_GIB", 250_000 / 2**30)
    assert cache.prune() == paths[:2]
    monkeypatch.setattr(cache, "KEPT_GIB", 0)
    assert cache.prune() == paths[2:3]


def test_an_image_stays_as_long_as_a_machine_lies_over_it(home: Path) -> None:
    disk = make(home / "images/0123/disk.raw", days=20)
    os.utime(disk.parent, (0, 0))
    machine = make(home / "machines/lab/disk.qcow2", text=qcow2(disk))
    assert cache.prune() == []
    machine.unlink()
    assert cache.prune() == [disk.parent]


def test_what_a_killed_maker_left_is_removed_and_what_is_being_made_is_not(home: Path) -> None:
    left, made = (home / f"images/{name}.1.unfinished" for name in ("left", "made"))
    make(left / "root/etc/passwd")
    make(made / "root/etc/passwd")
    held = os.open(home / "images/made.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert cache.prune() == [left]
    assert made.exists()
    os.close(held)
    assert cache.prune() == [made]


def test_a_new_maker_starts_from_nothing(home: Path) -> None:
    left = make(home / "images/key.1.unfinished/root/file")
    half = cache.unfinished(home / "images/key")
    assert not left.exists()
    assert not half.exists()
    # A child of the killed maker that still writes must not write into the new one.
    assert half != home / "images/key.1.unfinished"


def test_a_lock_is_held_by_one_at_a_time_though_its_file_is_removed_meanwhile(home: Path) -> None:
    inside, most = 0, 0

    def worker() -> None:
        nonlocal inside, most
        for _ in range(50):
            with cache.locked(home / "thing"):
                inside += 1
                most = max(most, inside)
                inside -= 1
            with cache.locked_if_free(home / "thing") as free:
                if free:
                    inside += 1
                    most = max(most, inside)
                    inside -= 1

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_lock_that_is_held_is_not_free(home: Path) -> None:
    with cache.locked(home / "thing"), cache.locked_if_free(home / "thing") as free:
        assert not free
    with cache.locked_if_free(home / "thing") as free:
        assert free
    assert not (home / "thing.lock").exists()


def test_a_stage_keeps_the_image_below_its_disk(home: Path) -> None:
    disk = make(home / "images/0123/disk.raw", days=20)
    os.utime(disk.parent, (0, 0))
    make(home / "stages/node-0123/disk.qcow2", text=qcow2(disk))
    assert cache.prune() == []


def test_what_is_mounted_below_an_entry_is_not_emptied(home: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    elsewhere = tmp_path / "elsewhere"
    make(elsewhere / "file")
    half = home / "images/key with a blank.1.unfinished"
    (half / "root/mnt").mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(elsewhere), str(half / "root/mnt")], check=True)
    assert cache.prune() == [half]
    assert (elsewhere / "file").exists()


def test_a_removal_that_is_killed_leaves_no_half_of_an_entry_under_its_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(home / "emulators/key/usr/bin/qemu", days=20).parents[2]
    os.utime(old, (0, 0))

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.prune()
    assert not cache.holds(old)
    monkeypatch.undo()
    monkeypatch.setenv("GEVULOT_LAB_CACHE", str(home))
    cache.prune()
    assert [each.name for each in (home / "emulators").iterdir()] == []


def test_what_a_machine_serves_and_an_image_under_another_spelling_are_kept(home: Path, tmp_path: Path) -> None:
    served = make(home / "containers/key/index.json", days=20).parent
    disk = make(home / "images/0123/disk.raw", days=20)
    for each in (served, disk.parent):
        os.utime(each, (0, 0))
    link = tmp_path / "link"
    link.symlink_to(home)
    make(home / "machines/lab/disk.qcow2", text=qcow2(link / "images/0123/disk.raw"))
    assert cache.prune(kept=[link / "containers/key"]) == []


@pytest.mark.parametrize("where", ["/proc/none", "/etc/passwd"])
def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEVULOT_LAB_CACHE", where)
    with pytest.raises(cache.CacheError, match=f"cannot be kept in {where}: .*Set GEVULOT_LAB_CACHE to"):
        cache.directory()
