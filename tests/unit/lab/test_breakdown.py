"""A broken machine is detected by its console, its process and the room on the disk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab import breakdown
from tests.lab.breakdown import Breakdown, Console
from tests.lab.host import VirtualHost
from tests.lab.qemu import Accelerator, Hardware, Process, started_at
from tests.lab.topology import named

PANIC = "[    2.4] ---[ end Kernel panic - not syncing: Fatal exception in interrupt ]---\r\n"
LOGIN = "\x1b[?2004h\r\nDebian GNU/Linux 13 lab ttyS0\r\n\r\nlab login: "


def console(tmp_path: Path, text: str) -> Console:
    path = tmp_path / "console.log"
    read = Console(path)
    path.write_text(text)
    return read


def test_a_panic_is_detected_with_its_reason(tmp_path: Path) -> None:
    panicked = console(tmp_path, f"[    2.3] Oops: int3: 0000 [#1] SMP\r\n{PANIC}")
    assert panicked.panic() == "Kernel panic - not syncing: Fatal exception in interrupt ]---"


@pytest.mark.parametrize("text", ["", "[    1.0] WARNING: CPU: 0 PID: 1\r\n", "[  9.0] watchdog: BUG: soft lockup\r\n"])
def test_what_a_kernel_survives_is_no_panic(tmp_path: Path, text: str) -> None:
    assert console(tmp_path, text).panic() is None


def test_a_panic_before_the_power_cut_is_forgotten(tmp_path: Path) -> None:
    panicked = console(tmp_path, PANIC)
    panicked.forget()
    assert panicked.panic() is None
    with (tmp_path / "console.log").open("a") as log:
        log.write(PANIC)
    assert panicked.panic()


def test_a_login_prompt_is_detected_through_its_escapes(tmp_path: Path) -> None:
    assert console(tmp_path, LOGIN).login()
    assert not console(tmp_path, "systemd[1]: Last login: never\r\n").login()


def test_last_words_name_the_file_and_hold_no_escapes(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_text("\n".join(f"\x1b[0;32m line {number}\r" for number in range(100)))
    words = breakdown.last_words(path, tmp_path / "missing.log")
    assert words.splitlines()[1] == f"  {path} ends:"
    assert words.splitlines()[-1] == "   line 99"
    assert "\x1b" not in words
    assert len(words.splitlines()) < 16


def test_a_full_disk_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert breakdown.full(tmp_path) is None
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(breakdown.shutil, "disk_usage", lambda _: usage._replace(free=5 * 2**20))
    assert breakdown.full(tmp_path) == (
        f"this computer's disk is full: only 5 MiB are free for {tmp_path}; free some space, "
        "or set GEVULOT_LAB_CACHE to a directory on another disk"
    )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VirtualHost:
    monkeypatch.setenv("GEVULOT_LAB_CACHE", str(tmp_path))
    made = VirtualHost("lab-1", Hardware(named("no-boards"), 512, 1, Accelerator("tcg", "max")))
    made.directory.mkdir(parents=True)
    return made


def sleeping(host: VirtualHost) -> subprocess.Popen[bytes]:
    """A process in QEMU's place."""
    child = subprocess.Popen(["sleep", "60"])
    host._process = Process(child.pid, started_at(child.pid) or -1)
    return child


def test_a_host_without_power_is_not_broken(host: VirtualHost) -> None:
    host.console.write_text(PANIC)
    host.check()


def test_a_host_whose_qemu_ends_is_broken(host: VirtualHost) -> None:
    child = sleeping(host)
    host.check()
    child.kill()
    child.wait()
    (host.directory / "qemu.log").write_text("qemu: something was wrong\n")
    with pytest.raises(Breakdown, match="lab-1 is broken: QEMU ended") as raised:
        host.check()
    assert "qemu: something was wrong" in str(raised.value)


def test_a_host_that_panicked_is_broken_though_qemu_runs(host: VirtualHost) -> None:
    child = sleeping(host)
    host.console.write_text(PANIC)
    with pytest.raises(Breakdown, match="its kernel panicked: Kernel panic - not syncing: Fatal"):
        host.check()
    child.kill()
    child.wait()
