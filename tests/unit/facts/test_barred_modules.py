"""Modules that files of modprobe's keep from being loaded: read from a made-up tree, and judged."""

from __future__ import annotations

import subprocess
from pathlib import Path

from deploys.assessment.verdict import Findings
from deploys.preflight.barred import judge_barred
from facts.barred_modules import BarredModules, ModuleBar
from facts.kernel import Module


def read(root: Path, **files: str) -> tuple[ModuleBar, ...]:
    for place, text in files.items():
        directory, _, name = place.partition("__")
        path = root / directory.replace("_", "/") / "modprobe.d" / f"{name}.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = subprocess.run(["sh", "-c", BarredModules().command(str(root))], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return BarredModules().process(done.stdout.splitlines())


def refusals(*bars: ModuleBar, modules: dict[str, Module] | None = None, boards: bool = True) -> list[str]:
    findings = Findings()
    judge_barred(bars, modules or {}, "vmx", boards, findings)
    return findings.refusals


def test_lines_that_keep_a_module_off_are_read_with_their_place(tmp_path: Path) -> None:
    text = "# install vsock /bin/true\nblacklist vfio-pci\ninstall vsock /usr/bin/false\ninstall kvm modprobe -i kvm\n"
    assert read(tmp_path, etc__own=text) == (
        ModuleBar("blacklist", "vfio_pci", f"{tmp_path}/etc/modprobe.d/own.conf:2"),
        ModuleBar("install", "vsock", f"{tmp_path}/etc/modprobe.d/own.conf:3"),
    )


def test_a_file_that_another_of_its_name_hides_is_not_read(tmp_path: Path) -> None:
    assert read(tmp_path, etc__hardening="", usr_lib__hardening="install vsock /bin/true\n") == ()


def test_a_module_of_the_nodes_that_is_kept_off_is_refused_with_its_place() -> None:
    (text,) = refusals(ModuleBar("install", "vsock", "/etc/modprobe.d/hardening.conf:7"))
    assert text.startswith("/etc/modprobe.d/hardening.conf:7 keeps the module vsock from being loaded (install)")
    assert len(refusals(ModuleBar("blacklist", "vfio_pci", "/a:1"), ModuleBar("install", "irqbypass", "/a:2"))) == 2


def test_what_does_not_concern_the_node_is_not_refused() -> None:
    assert refusals(ModuleBar("blacklist", "nouveau", "/a:1"), ModuleBar("blacklist", "irqbypass", "/a:2")) == []
    assert refusals(ModuleBar("blacklist", "vfio_pci", "/a:1"), boards=False) == []
    built_in = {"vfio_pci": Module("vfio_pci", "built-in", loaded=True)}
    assert refusals(ModuleBar("blacklist", "vfio_pci", "/a:1"), modules=built_in) == []
