"""What the preflight says of boards: pcibind's own judgement, in the words of who writes an inventory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploys.preflight import HostState, Verdict, judge
from deploys.settings import Settings, SettingsError, read
from facts.claims import Claim, ClaimKind
from facts.kernel import CommandLines, KernelModules
from facts.platform import parse
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.request import OVERRIDABLE_GUARDS, Selector
from pcibind.read import evidence_text
from pcibind.remote import topology_text
from tests.unit.deploys.recorded import (
    ARGUMENTS,
    BOUND,
    DEBIAN,
    NIC,
    NVME,
    PASSPHRASE,
    Pci,
    evidence,
    gpu,
    modules,
    opened,
    platform,
    topology,
)

PORT = "pci0000:00/0000:00:01.0"
RUNS = CommandLines(tuple(ARGUMENTS.split()), ())
DISK_BESIDE = Pci("pci0000:00/0000:00:0a.0", 0x144D, 0xA80A, 0x010802, "nvme", 12)


def asked(**keys: object) -> Settings:
    return Settings(psk_passphrase=PASSPHRASE, **keys)  # type: ignore[arg-type]


def verdict(
    *functions: Pci,
    more: tuple[str, ...] = (),
    overridden: tuple[str, ...] = (),
    lines: CommandLines | None = RUNS,
    record: Record | None = None,
    claims: tuple[Claim, ...] = (),
    settings: Settings | None = None,
) -> Verdict:
    """The verdict on a host with these functions; ``more`` are lines of evidence, ``overridden`` are on vfio-pci's."""
    usage = evidence()
    there = topology(*functions)
    text = [
        line.replace("(null)", "vfio-pci") if any(line.startswith(f"./{each}/driver_override") for each in overridden)
        else line
        for line in there
    ]  # fmt: skip
    state = HostState(
        parse(platform(DEBIAN)),
        KernelModules().process(modules()),
        topology_text.parse(text),
        evidence_text.parse([*usage[:-1], *more, usage[-1]]),
        record,
        lines=lines,
        claims=claims,
    )
    return judge(state, settings or asked())


def recorded(*functions: Pci) -> Record:
    boards = topology_text.parse(topology(*functions)).boards()
    return Record(tuple(RecordedBoard.of(board, Selector.parse(board.model), None) for board in boards))


SNAPPED = gpu(1, 1, drivers=("vfio-pci", "snd_hda_intel"), group=12)
OPEN = opened("/dev/nvidia0", 900, "python3")
ON_NVIDIA = gpu(1, 1, drivers=("nvidia", "snd_hda_intel"), group=12)


# What pcibind would refuse is refused before anything is changed.


def test_a_device_of_the_host_in_the_boards_group_is_refused_by_name() -> None:
    outcome = verdict(*gpu(1, 1, group=12), DISK_BESIDE, NIC, NVME)
    (refusal,) = outcome.refusals
    assert "IOMMU group 12 also holds 0000:00:0a.0 144d:a80a" in refusal
    assert "choose that board too in gevulot_boards" in refusal
    assert outcome.of_host == outcome.refusals


def test_boards_that_share_a_group_are_taken_together_or_not() -> None:
    pair = (*gpu(1, 1, group=12), *gpu(2, 2, group=12))
    assert verdict(*pair, NIC, NVME).refusals == ()
    settings = asked(boards=["0000:01:00.0"])
    refusals = verdict(*pair, NIC, NVME, settings=settings).refusals
    assert any("also holds 0000:02:00.0" in refusal for refusal in refusals)


def test_a_board_that_a_stale_initramfs_took_is_refused_when_chosen_and_reported_when_not() -> None:
    early = ("early 0000:01:00.0",)
    functions = gpu(1, 1, group=12)
    (refusal,) = verdict(*functions, more=early, overridden=("0000:01:00.0",)).refusals
    assert "stale-initramfs: 0000:01:00.0 is not on record" in refusal
    assert refusal.endswith("Rebuild the initramfs, reboot the host, then run again.")
    outcome = verdict(*functions, more=early, overridden=("0000:01:00.0",), settings=asked(boards=[]))
    assert outcome.refusals == ()
    assert any("is not chosen, but an older list in the initramfs" in warning for warning in outcome.warnings)
    known = recorded(*functions)
    assert verdict(*functions, more=early, overridden=("0000:01:00.0",), record=known).refusals == ()


# What a reboot ends.


@pytest.mark.parametrize("reboot", ["when-needed", "never"])
def test_a_program_that_has_the_board_open_is_named_and_refuses_nothing_that_the_reboot_binds(reboot: str) -> None:
    outcome = verdict(*ON_NVIDIA, NIC, NVME, more=OPEN, settings=asked(reboot=reboot))
    assert outcome.refusals == ()
    (warning,) = [each for each in outcome.warnings if "nvidia-open" in each]
    assert "/dev/nvidia0 is open: process 900 (python3)" in warning
    assert "Nothing is unbound before the reboot, which ends this use." in warning


def test_a_group_that_is_open_refuses_a_board_that_would_be_unbound_at_once() -> None:
    used = opened("/dev/vfio/12", 900, "qemu")
    (refusal,) = verdict(*SNAPPED, NIC, NVME, more=used).refusals
    assert "vfio-open: /dev/vfio/12 is open: process 900 (qemu)" in refusal
    assert refusal.endswith("Stop what uses it, then run again.")
    # Without the arguments on the kernel's line, a reboot comes first.
    assert verdict(*SNAPPED, NIC, NVME, more=used, lines=CommandLines((), ())).refusals == ()


def test_a_display_that_the_firmware_draws_on_refuses_though_a_reboot_comes() -> None:
    memory = ("iomem   c0000000-cfffffff : 0000:01:00.0", "iomem     c0000000-c02fffff : BOOTFB")
    (refusal,) = verdict(*gpu(1, 1), NIC, NVME, more=memory, lines=CommandLines((), ())).refusals
    assert "framebuffer" in refusal
    assert refusal.endswith('; or, to accept it, add "framebuffer" to gevulot_board_guards_allowed.')
    allowed = asked(board_guards_allowed=["framebuffer"])
    assert verdict(*gpu(1, 1), NIC, NVME, more=memory, settings=allowed).refusals == ()


def test_a_board_that_hangs_in_the_kernel_is_refused_unless_a_reboot_comes_first() -> None:
    there = [
        line
        for line in topology(*SNAPPED, NIC, NVME)
        if not line.startswith("./0000:01:00.0/driver_override") and line != "pcibind-topology end"
    ]
    known, usage = KernelModules().process(modules()), evidence_text.parse(evidence())
    partial = topology_text.parse([*there, "pcibind-topology late", "pcibind-topology end"])
    state = HostState(parse(platform(DEBIAN)), known, partial, usage, lines=RUNS)
    (refusal,) = judge(state, asked()).of_host
    assert "is blocked by a kernel operation that does not end" in refusal
    assert judge(replace(state, lines=CommandLines((), ())), asked()).refusals == ()


def test_a_host_that_was_booted_without_its_boards_is_refused_alone_until_it_is_rebooted() -> None:
    there = (*gpu(1, 1), NIC, NVME)
    off = replace(RUNS, live=(*RUNS.live, "pcibind=off"))
    outcome = verdict(*there, lines=off)
    (refusal,) = outcome.of_host
    assert refusal.startswith("this host was booted with pcibind=off")
    assert "Reboot it without that argument, then run again." in refusal
    assert outcome.refusals == outcome.of_host
    assert verdict(*there, lines=off, settings=asked(boards=[])).refusals == ()


# Messages name the inventory's keys.


@pytest.mark.parametrize("guard", OVERRIDABLE_GUARDS)
def test_every_guard_of_pcibind_can_be_allowed_by_the_inventory(guard: str) -> None:
    data = {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_board_guards_allowed": [guard]}
    assert read("host", data).board_guards_allowed == (guard,)


def test_a_guard_that_pcibind_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(SettingsError, match=r"gevulot_board_guards_allowed.*framebuffer.*nvidia-open"):
        read("host", {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_board_guards_allowed": ["vfio-open"]})


ZFS = ("mount 30 1 0:40 / /tank rw - zfs tank/data rw",)


def test_a_root_on_zfs_refuses_no_board_without_a_disk() -> None:
    assert verdict(*gpu(1, 1, group=12), NIC, NVME, more=ZFS).refusals == ()
    disk = replace(DISK_BESIDE, group=13)
    settings = asked(boards=["0000:00:0a.0"], gpu_functions="all")
    refusals = verdict(disk, NIC, NVME, more=ZFS, settings=settings).refusals
    assert any("disk: cannot tell: /tank is zfs" in refusal for refusal in refusals)
    assert all("allow list" not in refusal for refusal in refusals)


def test_an_absent_board_on_a_new_host_sends_nobody_to_a_program_that_is_not_installed() -> None:
    for selector in ("0000:81:00.0", "0000:00/09.0/00", "10de:2204"):
        (refusal,) = verdict(*gpu(1, 1), NIC, NVME, settings=asked(boards=[selector])).refusals
        assert "pcibind" not in refusal
        assert "Correct gevulot_boards" in refusal
        assert "0000:01:00.0 (10de:2684, 0000:00/01.0/00)" in refusal


def test_a_recorded_board_that_is_gone_is_refused_with_the_way_to_go_on_without_it() -> None:
    outcome = verdict(*gpu(2, 2, group=13), NIC, NVME, record=recorded(*gpu(1, 1), *gpu(2, 2)))
    (refusal,) = outcome.of_host
    assert "0000:00/01.0/00 is absent: nothing is there, last seen as 0000:01:00.0" in refusal
    assert "run `pcibind release 0000:00/01.0/00` on the host" in refusal


# Which refusals are of one host.


@pytest.mark.parametrize(
    "more",
    [
        (f"config 0000:01:00.0 {' '.join(['ffffffff'] * 16)}",),
        ("memory 0000:01:00.0 1 0x0 0x1ffffffff 0x2014220c",),
        ("reserved iommu_groups/12/reserved_regions:0x1 0x2 direct",),
    ],
    ids=["no answer", "no address", "reserved"],
)
@pytest.mark.parametrize("drivers", [("nouveau", "snd_hda_intel"), BOUND], ids=["free", "bound"])
def test_hardware_that_no_guest_could_have_is_refused_for_its_host_only(
    more: tuple[str, ...], drivers: tuple[str, ...]
) -> None:
    outcome = verdict(*gpu(1, 1, drivers=drivers, group=12), NIC, NVME, more=more)
    assert len(outcome.refusals) == 1
    assert outcome.of_host == outcome.refusals


def test_what_contradicts_in_the_inventory_is_refused_for_all_hosts() -> None:
    twice = verdict(*gpu(1, 1), settings=asked(boards=["0000:01:00.0", "0000:00/01.0/00"]))
    nothing = verdict(NIC, NVME, replace(NIC, place="pci0000:00/0000:00:1d.0"), settings=asked(boards=["0000:00:1d.0"]))
    for outcome in (twice, nothing):
        assert outcome.refusals
        assert set(outcome.refusals) - set(outcome.of_host)


def test_one_dead_board_keeps_no_other_from_the_node_at_a_boot() -> None:
    assert verdict(*gpu(1, 1), NIC, NVME).config.require_boards == "any"


# Others who want the boards.


def claim(kind: ClaimKind, source: str, **changes: object) -> Claim:
    return replace(Claim(kind, source, frozenset({"0000:01:00.0"})), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rival", "words"),
    [
        (claim(ClaimKind.DRIVERCTL, "/etc/driverctl.d/0000:01:00.0", driver="nvidia"), "driverctl unset-override"),
        (
            claim(ClaimKind.LIBVIRT, "/etc/libvirt/qemu/autostart/games.xml", acts_at_boot=True),
            "autostart --disable games",
        ),
        (claim(ClaimKind.PROXMOX, "/etc/pve/qemu-server/100.conf", acts_at_boot=True), "qm set 100 --onboot 0"),
    ],
)
def test_who_takes_a_chosen_board_away_is_refused_for_its_host(rival: Claim, words: str) -> None:
    outcome = verdict(*gpu(1, 1), NIC, NVME, claims=(rival,))
    (refusal,) = outcome.of_host
    assert rival.source in refusal
    assert words in refusal
    assert "0000:01:00.0" in refusal
    assert verdict(*gpu(1, 1), NIC, NVME, claims=(rival,), settings=asked(boards=[])).refusals == ()


@pytest.mark.parametrize(
    "rival",
    [
        claim(ClaimKind.DRIVERCTL, "/etc/driverctl.d/0000:01:00.0", driver="vfio-pci"),
        claim(ClaimKind.LIBVIRT, "/etc/libvirt/qemu/games.xml"),
        claim(ClaimKind.PROXMOX, "/etc/pve/qemu-server/100.conf", places=frozenset({"0000:01:00"})),
        claim(ClaimKind.FILE, "/etc/initramfs-tools/scripts/init-top/vfio", driver="vfio-pci"),
        claim(ClaimKind.FILE, "/etc/modprobe.d/own.conf", places=frozenset(), models=frozenset({"10de:22ba"})),
    ],
)
def test_who_may_take_a_chosen_board_is_named_in_a_warning(rival: Claim) -> None:
    outcome = verdict(*gpu(1, 1), NIC, NVME, claims=(rival,))
    assert outcome.refusals == ()
    (warning,) = [each for each in outcome.warnings if rival.source in each]
    assert "of board 0000:01:00.0" in warning
    elsewhere = verdict(*gpu(1, 5), NIC, NVME, claims=(replace(rival, models=frozenset()),))
    assert not any(rival.source in each for each in elsewhere.warnings if rival.places)


def test_a_file_that_computes_what_it_binds_is_named_where_boards_are_chosen() -> None:
    rival = Claim(ClaimKind.FILE, "/usr/local/bin/bind-all")
    assert any(rival.source in each for each in verdict(*gpu(1, 1), NIC, NVME, claims=(rival,)).warnings)
    none = verdict(*gpu(1, 1), NIC, NVME, claims=(rival,), settings=asked(boards=[]))
    assert not any(rival.source in each for each in none.warnings)


def test_ids_that_the_inventory_asks_for_are_no_rival() -> None:
    rival = Claim(ClaimKind.FILE, "/proc/cmdline", models=frozenset({"10de:2684"}), driver="vfio-pci")
    assert any("/proc/cmdline" in each for each in verdict(*gpu(1, 1), NIC, NVME, claims=(rival,)).warnings)
    quiet = verdict(*gpu(1, 1), NIC, NVME, claims=(rival,), settings=asked(vfio_ids=True))
    assert not any("/proc/cmdline" in each for each in quiet.warnings)
