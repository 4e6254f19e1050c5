"""The emulator is the cache's own, and nothing of it reaches what it starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab import emulator, qemu
from tests.lab.emulator import IMAGE, SYSTEM, Emulator, EmulatorError


def test_its_libraries_are_named_to_its_loader_and_not_in_the_environment(tmp_path: Path) -> None:
    qemu = Emulator(tmp_path, "QEMU 11")
    words = qemu.command(SYSTEM)
    assert words[0] == str(tmp_path / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    assert words[words.index("--library-path") + 1] == str(tmp_path / "usr/lib/x86_64-linux-gnu")
    added = set(qemu.environment) - set(os.environ)
    assert added <= {"QEMU_MODULE_DIR"}
    assert not any(name.startswith("LD_") for name in added)


def test_every_path_is_its_own(tmp_path: Path) -> None:
    words = Emulator(tmp_path, "").command(SYSTEM)
    assert all(word.startswith(str(tmp_path)) for word in words if word.startswith("/"))
    assert "-L" not in Emulator(tmp_path, "").command(IMAGE)


def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmdebstrap: str) -> None:
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "mmdebstrap").write_text(f"#!/bin/sh\n{mmdebstrap}\n")
    (folder / "mmdebstrap").chmod(0o755)
    (folder / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (folder / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GEVULOT_LAB_CACHE", str(tmp_path / "cache"))


def test_an_extraction_that_fails_says_why_and_the_next_one_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools(tmp_path, monkeypatch, "echo 'E: no mirror' >&2; exit 7")
    for _ in range(2):
        with pytest.raises(EmulatorError, match=r"(?s)trixie-backports:.*E: no mirror"):
            emulator.ensure()


def test_what_does_not_run_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    programs = ("usr/bin/qemu-img", "usr/bin/qemu-system-x86_64")
    for path in (*programs, "usr/share/qemu/x", "usr/share/seabios/x", "usr/share/ovmf/x"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text("")
    loader = source / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.write_text("#!/bin/sh\necho 'Exec format error' >&2; exit 126\n")
    loader.chmod(0o755)
    tools(tmp_path, monkeypatch, f"exec tar -c -C {source} ./usr")
    with pytest.raises(EmulatorError, match="does not run here: Exec format error"):
        emulator.ensure()


@pytest.mark.parametrize("text", ["two", "0", "-1", "1.5", ""])
def test_a_wrong_number_of_processors_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(qemu.PROCESSORS, text)
    with pytest.raises(EmulatorError, match=r"^GEVULOT_LAB_PROCESSORS is '.*'; expected a number of processors"):
        qemu.processors()
