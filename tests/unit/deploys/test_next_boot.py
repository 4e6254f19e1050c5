"""The next boot: what is refused before anything is changed, and what keeps a host from a reboot in vain."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from deploys.assessment import next_boot, reboot_attempt
from facts.attempt import RebootAttempts, RebootHistory
from facts.installed_kernels import BootableKernels, InstalledKernels
from facts.kernel import CommandLines, KernelCommandLine, Source
from facts.platform import parse
from tests.unit.deploys.recorded import DEBIAN, platform

WANTED = ("intel_iommu=on", "iommu=pt")
HOST = parse(platform(DEBIAN))
MENU = "/boot/grub/grub.cfg"
LOCAL = "/etc/default/grub.d/local.cfg"
LATE = "/etc/default/grub.d/zzz.cfg"


def lines(
    words: str = "quiet intel_iommu=on iommu=pt",
    *,
    made: str | None = None,
    planned: str | None = "gpu-host.here quiet gpu-host.here",
    sources: tuple[Source, ...] = (),
    script: str = "/etc/grub.d/10_linux",
    live: str = "root=UUID=0a1b",
    command: str = "linux /boot/vmlinuz-6.12.0 root=UUID=0a1b ro",
    more: tuple[str, ...] = (),
) -> CommandLines:
    """A host whose menu has one entry with these words. ``made`` is what its variables come to: by default the same."""
    text = f"{f'### BEGIN {script} ###' if script else '#'}\nmenuentry 'Debian' {{\n{command} {words}\n}}\n"
    variables = [] if planned is None else [f"made {words if made is None else made}", f"planned {planned}"]
    printed = [
        f"live {live} ro",
        f"menu {MENU}",
        f"file {MENU}",
        *(f"|{each}" for each in text.splitlines()),
        *variables,
    ]
    return replace(KernelCommandLine().process([*printed, *more]), sources=sources)


def refusals(configured: CommandLines, wanted: tuple[str, ...] = WANTED) -> list[str]:
    return next_boot.refusals(configured, wanted, HOST)


def problems(configured: CommandLines, kernels: BootableKernels | None = None) -> list[str]:
    return next_boot.problems(configured, WANTED, HOST, kernels)


# --- before anything is changed


def test_a_host_whose_arguments_will_hold_is_not_refused() -> None:
    assert refusals(lines("quiet")) == []


def test_an_argument_that_defeats_is_refused_with_its_place_and_the_command_that_removes_it() -> None:
    at = Source(LOCAL, 2, 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX intremap=off"')
    (refusal,) = refusals(lines("quiet", planned="intremap=off gpu-host.here", sources=(at,)))
    assert refusal == (
        "the kernel's argument intremap=off defeats the node: it keeps interrupt remapping off, and without it VFIO "
        "refuses every board; expected a line without it. It is set in /etc/default/grub.d/local.cfg:2. Remove it (sed "
        "-i '2s|intremap=off||' /etc/default/grub.d/local.cfg), then run again."
    )


def test_the_command_that_removes_an_argument_removes_that_one_alone(tmp_path: Path) -> None:
    file = tmp_path / "x.cfg"
    file.write_text('A="modprobe_blacklist=kvm"\nGRUB_CMDLINE_LINUX="modprobe.blacklist=kvm,a/b quiet"\n')
    at = Source(str(file), 2, file.read_text().splitlines()[1])
    (refusal,) = refusals(lines("quiet", planned="modprobe.blacklist=kvm,a/b gpu-host.here", sources=(at,)))
    command = refusal.partition("Remove it (")[2].partition("), then")[0]
    subprocess.run(["sh", "-c", command], check=True)
    assert file.read_text() == 'A="modprobe_blacklist=kvm"\nGRUB_CMDLINE_LINUX=" quiet"\n'


def test_an_argument_is_not_found_inside_of_another_one() -> None:
    at = (Source(LOCAL, 1, 'X="xiommu=off iommu=offset"'), Source(LOCAL, 2, "X=iommu=off"))
    (refusal,) = refusals(lines("quiet", planned="iommu=off gpu-host.here", sources=at))
    assert "It is set in /etc/default/grub.d/local.cfg:2." in refusal


def test_what_ours_undo_is_not_refused_and_what_comes_after_ours_is() -> None:
    assert refusals(lines("intel_iommu=off", planned="intel_iommu=off gpu-host.here")) == []
    (refusal,) = refusals(lines("quiet", planned="gpu-host.here intel_iommu=off"))
    assert "intel_iommu=off defeats the node" in refusal


def test_a_file_that_assigns_both_variables_after_ours_is_refused_by_its_lines() -> None:
    at = (Source(LATE, 1, "GRUB_CMDLINE_LINUX=quiet"), Source(LATE, 2, 'export GRUB_CMDLINE_LINUX_DEFAULT=""'),
          Source(LATE, 3, 'GRUB_CMDLINE_LINUX_DEFAULT="${GRUB_CMDLINE_LINUX_DEFAULT} more"'))  # fmt: skip
    (refusal,) = refusals(lines("quiet", planned="quiet", sources=at))
    assert refusal == (
        "the next boot would lack intel_iommu=on iommu=pt: after /etc/default/grub.d/zz-gpu-host.cfg, "
        "/etc/default/grub.d/zzz.cfg:1 and /etc/default/grub.d/zzz.cfg:2 give their variables a new value. Make them "
        "append to it."
    )


def test_an_argument_that_was_taken_out_of_the_variables_is_not_refused_though_the_menu_has_it_still() -> None:
    configured = lines("intremap=off", made="quiet", planned="quiet gpu-host.here")
    assert refusals(configured) == []
    assert "still has intremap=off" in next_boot.outdated(configured)[0]


def test_an_entry_that_no_variable_reaches_is_refused_with_the_script_that_has_it() -> None:
    at = Source("/etc/grub.d/40_custom", 7, "  linux /boot/vmlinuz-6.12.0 root=UUID=0a1b ro quiet")
    (refusal,) = refusals(lines("quiet", made="", script="/etc/grub.d/40_custom", sources=(at,)))
    assert "lacks intel_iommu=on iommu=pt: /etc/grub.d/40_custom:7 has the whole line" in refusal
    assert refusals(lines(made="", script="/etc/grub.d/40_custom")) == []


def test_a_host_without_grubs_variables_gets_the_command_of_grubby() -> None:
    (refusal,) = refusals(lines("iommu=off", planned=None))
    assert f"It is set in {MENU}:3. Remove it" not in refusal
    assert "grubby --update-kernel=ALL --remove-args=iommu=off" in refusal


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"command": "linux16 /memtest.bin"}, "could not match an entry"),
        (
            {"command": "linux /boot/vmlinuz root=UUID=beef"},
            "has root=UUID=beef, and this system runs with root=UUID=0",
        ),
        ({"command": "chainloader +1;"}, "starts no Linux kernel"),
        ({"command": "linux /boot/vmlinuz root=UUID=0a1b single"}, "starts a rescue shell"),
    ],
)
def test_an_entry_that_is_no_normal_boot_of_this_system_is_refused_and_not_for_missing_arguments(
    changes: dict[str, str], reason: str
) -> None:
    configured = lines(script="/etc/grub.d/40_custom", **changes)  # type: ignore[arg-type]
    for (messages,) in (refusals(configured), problems(configured)):
        assert reason in messages
        assert "lacks" not in messages


def test_a_node_without_boards_needs_no_iommu() -> None:
    assert refusals(lines("quiet", planned="iommu=off amd_iommu=off"), ()) == []
    (refusal,) = refusals(lines("quiet", planned="iommu=off module_blacklist=vhost_vsock"), ())
    assert "vhost_vsock" in refusal


def test_an_argument_that_variables_make_is_found_by_its_name() -> None:
    at = Source(LOCAL, 3, 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX iommu=$SWITCH"')
    (refusal,) = refusals(lines("quiet", made="iommu=off", planned="iommu=off gpu-host.here", sources=(at,)))
    assert "It is set in /etc/default/grub.d/local.cfg:3. Remove it (edit that line), then run again." in refusal


def test_a_menu_that_update_grub_will_replace_is_not_judged_by_its_old_entry() -> None:
    assert refusals(lines("quiet", script="", command="linux /boot/vmlinuz root=LABEL=cloud")) == []


# --- after the menu was written


def test_an_entry_that_has_all_is_no_problem() -> None:
    assert problems(lines()) == []


def test_an_entry_that_lacks_an_argument_is_named_with_its_line() -> None:
    (problem,) = problems(lines("quiet iommu=pt", sources=(Source("/etc/default/grub", 9, "GRUB_CMDLINE_LINUX=x"),)))
    assert problem.startswith(f"the entry that boots next, 'Debian' ({MENU}:3), lacks intel_iommu=on")
    assert "/etc/default/grub:9" in problem


def test_a_menu_without_entries_could_not_be_matched() -> None:
    configured = KernelCommandLine().process(["live root=UUID=1", f"menu {MENU}", f"file {MENU}", "|set timeout=5"])
    (problem,) = problems(configured)
    assert "could not match an entry" in problem


def test_a_menu_that_cannot_be_read_is_no_menu_without_arguments() -> None:
    (problem,) = problems(KernelCommandLine().process(["live ro", f"menu {MENU}", f"hidden {MENU}"]))
    assert problem == f"{MENU} cannot be read, so what boots next is not known. Connect as root or with sudo."


# --- whether update-grub is needed


def test_a_menu_is_current_by_its_contents() -> None:
    assert next_boot.outdated(lines()) == []
    assert "lacks splash" in next_boot.outdated(lines(made="quiet splash intel_iommu=on iommu=pt"))[0]
    assert "still has intel_iommu=on iommu=pt" in next_boot.outdated(lines(made="quiet"))[0]


def test_what_update_grub_would_not_change_does_not_make_it_run() -> None:
    assert next_boot.outdated(lines("quiet", made="splash", script="/etc/grub.d/40_custom")) == []
    assert next_boot.outdated(lines("quiet", planned=None)) == []


# --- the kernel of the next boot

KERNELS = BootableKernels(
    {"6.12.0": (), "6.17.1": ("vfio_pci", "vsock")}, links={"/vmlinuz": "6.17.1"}, boot_free_kib=10**6
)


def test_the_kernel_that_boots_next_has_the_modules_or_is_named() -> None:
    assert problems(lines(), KERNELS) == []
    (problem,) = problems(lines(command="linux /boot/vmlinuz-6.17.1 root=UUID=0a1b ro"), KERNELS)
    assert "the next boot takes the kernel 6.17.1" in problem
    assert "no module vfio_pci, vsock" in problem


@pytest.mark.parametrize(
    ("kernel", "release"),
    [
        ("/boot/vmlinuz-6.12.0", "6.12.0"),
        ("/vmlinuz-6.99.0", "6.99.0"),
        ("(hd0,gpt2)/BOOT/x@/vmlinuz-6.12.0", "6.12.0"),
        ("/vmlinuz", "6.17.1"),
        ("/0a1b/6.12.0/linux", "6.12.0"),
        ("/boot/bzImage", None),
    ],
)
def test_the_release_of_a_menus_kernel_is_read_from_its_name(kernel: str, release: str | None) -> None:
    assert KERNELS.release_of(kernel) == release


def test_a_kernel_without_its_files_is_named_and_an_unknown_one_is_not_judged() -> None:
    assert "6.99.0" in problems(lines(command="linux /vmlinuz-6.99.0 root=UUID=0a1b"), KERNELS)[0]
    assert problems(lines(command="linux /bzImage root=UUID=0a1b"), KERNELS) == []
    assert problems(lines(command="linux /vmlinuz-6.99.0 root=UUID=0a1b"), BootableKernels()) == []


@pytest.mark.parametrize(("free", "fits"), [(80, False), (114, True), (None, True)])
def test_boot_has_room_for_the_largest_new_image(free: int | None, fits: bool) -> None:
    images = {f"/boot/initrd.img-{number}": 90 * 1024 for number in range(2)}
    shortage = next_boot.shortage(BootableKernels(images=images, boot_free_kib=free and free * 1024))
    assert (shortage is None) is fits
    assert fits or (shortage or "").startswith(
        "/boot has 80 MiB free; expected 113, to rebuild 2 initramfs images of up"
    )


def test_kernels_are_read_from_their_lines() -> None:
    kernels = InstalledKernels().process(
        ["free 5", "link /vmlinuz 6.1", "image 2048 17 /boot/initrd.img-6.1", "kernel 6.1", "kernel 6.2 vfio kvm"]
    )
    assert kernels == BootableKernels(
        {"6.1": (), "6.2": ("vfio", "kvm")}, {"/boot/initrd.img-6.1": 3}, {"/boot/initrd.img-6.1": "2048 17"},
        {"/vmlinuz": "6.1"}, 5,
    )  # fmt: skip


# --- a reboot in vain

REASONS = ["the kernel does not run with intel_iommu=on iommu=pt"]


def last(state: CommandLines, boot: str) -> RebootHistory:
    """The record of a reboot that was to end the boot "first"; the host runs ``boot`` now."""
    digest = reboot_attempt.digest(state, WANTED, ("0000:00/01.0/00",), KERNELS)
    return RebootAttempts().process([f"boot {boot}", "deployed", reboot_attempt.render(REASONS, digest, "first")])


def again(
    state: CommandLines, reasons: list[str] = REASONS, kernels: BootableKernels = KERNELS, boot: str = "second"
) -> str | None:
    digest = reboot_attempt.digest(state, WANTED, ("0000:00/01.0/00",), kernels)
    return reboot_attempt.refusal(last(lines(), boot), reasons, digest)


def test_a_reboot_that_brought_nothing_is_not_repeated_and_says_what_it_was_for() -> None:
    refusal = again(lines())
    assert refusal is not None
    assert REASONS[0] in refusal
    assert reboot_attempt.FILE in refusal


def test_a_reboot_is_repeated_after_a_change_or_for_another_reason() -> None:
    assert again(lines("quiet intel_iommu=on iommu=pt splash")) is None
    assert again(lines(), kernels=replace(KERNELS, stamps={"/boot/initrd.img-6.12.0": "1 2"})) is None
    assert again(lines(), ["0000:01:00.0 is held by nouveau"]) is None
    assert again(lines(), []) is None


def test_a_reboot_that_never_happened_is_tried_again() -> None:
    assert again(lines(), boot="first") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"reasons": 1}', '{"reasons": ["a"], "when": "b"}', "null"])
def test_a_record_that_cannot_be_read_is_none(text: str) -> None:
    assert RebootAttempts().process(["deployed", text]) == RebootHistory(True, None)
