"""What a host must be capable of: who is accepted, who is refused, and in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploys import settings
from deploys.assessment import reboot_attempt
from deploys.assessment.boards import request_boards
from deploys.manifest import MODULES, NODE_MODULES
from deploys.preflight import NFTABLES_MODULES, HostState, Verdict, judge, parse_release, warn_of_lost_reach
from deploys.preflight.services import Services
from deploys.settings import Settings
from facts.attempt import RebootAttempt, RebootHistory
from facts.installed_kernels import BootableKernels
from facts.kernel import MARK, KernelCommandLine, KernelModules
from facts.platform import parse
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.request import Selector
from pcibind.read import evidence_text
from pcibind.remote import topology_text
from tests.unit.deploys.recorded import (
    BOUND,
    DEBIAN,
    DEBIAN_12,
    DEBIAN_DRACUT,
    FEDORA,
    NIC,
    NVME,
    UBUNTU,
    Distribution,
    Pci,
    evidence,
    gpu,
    modules,
    platform,
    topology,
)

RTX_3090, RTX_2080, RADEON = 0x2204, 0x1E87, 0x744C


def asked(**keys: Any) -> Settings:
    return settings.read(
        "gpu1", {"gevulot_psk_passphrase": "the own one"} | {f"gevulot_{key}": keys[key] for key in keys}
    )


def verdict(
    distribution: Distribution = DEBIAN,
    functions: tuple[Pci, ...] = (*gpu(1, 1), NIC, NVME),
    *,
    used: list[str] | None = None,
    missing: tuple[str, ...] = (),
    record: Record | None = None,
    data_release: str | None = None,
    discovery: dict[str, str] | None = None,
    changes: dict[str, str | None] | None = None,
    more: dict[str, Any] | None = None,
    services: Services | None = None,
    **keys: Any,
) -> Verdict:
    state = HostState(
        parse(platform(distribution, **(changes or {}))),
        KernelModules().process(modules(missing)),
        topology_text.parse(topology(*functions)),
        evidence_text.parse(evidence() if used is None else used),
        record,
        data_release,
        discovery=discovery or {},
        **(more or {}),
        services=services or Services(),
    )
    return judge(state, asked(**keys))


def recorded(*functions: Pci, selector: str = "10de:2684") -> Record:
    boards = topology_text.parse(topology(*functions)).boards()
    return Record(tuple(RecordedBoard.of(board, Selector.parse(selector), None) for board in boards))


@pytest.mark.parametrize("distribution", [FEDORA, DEBIAN, DEBIAN_DRACUT, UBUNTU])
def test_each_family_is_accepted_without_a_warning(distribution: Distribution) -> None:
    outcome = verdict(distribution)
    assert outcome.family is not None
    assert (outcome.refusals, outcome.warnings) == ((), ())


def test_a_distribution_that_nobody_tried_is_warned_of_once() -> None:
    (warning,) = verdict(replace(FEDORA, version="45", name="Fedora Linux 45")).warnings
    assert warning.startswith("Fedora Linux 45 is not among the distributions")


@pytest.mark.parametrize(
    ("distribution", "words"),
    [
        (DEBIAN_12, "Podman 4.3.1 is installed; expected 4.7 or newer"),
        (replace(DEBIAN, offered="4.3.1+ds1-8"), "Podman 4.3.1+ds1-8 is offered by the distribution"),
        (replace(FEDORA, podman="", offered="4.6.2"), "Podman 4.6.2 is offered by the distribution"),
        (replace(FEDORA, boot=("grub2", "ostree")), "the host runs from an image"),
    ],
)
def test_what_cannot_work_is_refused_by_name(distribution: Distribution, words: str) -> None:
    assert any(words in refusal for refusal in verdict(distribution).refusals)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"virtualisation": None}, "neither vmx nor svm"),
        ({"iommu_table": None}, "no IOMMU table (ACPI DMAR or IVRS)"),
        ({"systemd": None}, "systemd does not run this host"),
    ],
)
def test_what_the_hardware_lacks_is_refused_with_the_way_out(changes: dict[str, str | None], words: str) -> None:
    (refusal,) = verdict(changes=changes).refusals
    assert words in refusal
    assert refusal.endswith(("firmware.", "systemd."))


def test_a_podman_that_hangs_is_refused() -> None:
    (refusal,) = verdict(replace(FEDORA, podman="")).refusals
    assert "did not print its version" in refusal


def test_a_fedora_that_offers_a_podman_which_is_new_enough_is_accepted() -> None:
    without = tuple(tool for tool in FEDORA.tools if tool != "podman")
    outcome = verdict(replace(FEDORA, podman="", offered="5.3.1", tools=without))
    assert (outcome.refusals, outcome.warnings) == ((), ())


def test_a_missing_module_is_refused_by_its_name() -> None:
    (refusal,) = verdict(missing=("vhost_vsock",)).refusals
    assert refusal.startswith("the running kernel has no module vhost_vsock; expected all of")


def test_a_kernel_whose_nftables_cannot_tell_the_nodes_sockets_is_refused() -> None:
    (text,) = verdict(changes={"kernel": "5.12.22-generic"}).refusals
    assert "the kernel is 5.12.22-generic; expected 5.13 or newer" in text
    assert verdict(changes={"kernel": "5.13.0"}).refusals == ()


@pytest.mark.parametrize("name", NFTABLES_MODULES)
def test_a_kernel_without_a_module_of_nftables_is_refused_by_its_name(name: str) -> None:
    known = KernelModules().process([*modules(), f"{name} missing -"])
    host, state = parse(platform(DEBIAN)), topology_text.parse(topology(*gpu(1, 1), NIC, NVME))
    (text,) = judge(HostState(host, known, state, evidence_text.parse(evidence())), asked()).refusals
    assert f"no module {name}; expected" in text


def test_a_host_with_the_first_version_of_cgroups_is_refused() -> None:
    (text,) = verdict(changes={"legacy_cgroups": "yes"}).refusals
    assert "uses cgroups version 1; expected version 2 alone" in text


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        # As RHEL 9 has them, whose Podman and kernel would do.
        ({"systemd_release": "252"}, "systemd is 252; expected 253 or newer"),
        ({"python": "3.9"}, "/usr/bin/python3 is 3.9; expected 3.11 or newer"),
    ],
)
def test_a_host_whose_systemd_or_python_is_too_old_is_refused(changes: dict[str, str], refusal: str) -> None:
    (text,) = verdict(changes=changes).refusals
    assert refusal in text


@pytest.mark.parametrize(
    "changes", [{"systemd_release": ""}, {"python": ""}, {"systemd_release": "253", "python": "3.11"}]
)
def test_a_host_whose_systemd_and_python_are_new_enough_or_not_there_yet_goes_on(changes: dict[str, str]) -> None:
    assert verdict(changes=changes).refusals == ()


def test_a_node_that_peers_reached_by_an_earlier_default_is_warned_that_they_lose_it() -> None:
    text = warn_of_lost_reach(asked(), "0.0.0.0:9999")
    assert text is not None
    assert "listens at 0.0.0.0:9999 until this run, and only at 127.0.0.1:9999 afterwards" in text
    assert "set gevulot_p2p_listen to '0.0.0.0:9999', and gevulot_peers" in text
    assert warn_of_lost_reach(asked(), "[::]:9999") is not None


@pytest.mark.parametrize("listened", ["", "127.0.0.1:9999", "[::1]:9999", "\x1b[31m0.0.0.0:9999", "elsewhere"])
def test_a_node_that_nobody_reached_loses_no_reach(listened: str) -> None:
    assert warn_of_lost_reach(asked(), listened) is None


def test_loopback_that_was_asked_for_is_not_warned_of() -> None:
    assert warn_of_lost_reach(asked(p2p_listen="127.0.0.1:9999"), "0.0.0.0:9999") is None
    assert warn_of_lost_reach(asked(p2p_listen="0.0.0.0:9999", peers=["10.0.0.0/8"]), "0.0.0.0:9999") is None


def test_a_node_that_is_open_to_everybody_is_warned_of_what_strangers_can_read() -> None:
    warnings = verdict(p2p_listen="0.0.0.0:9999", peers=["any"]).warnings
    (text,) = [each for each in warnings if "gevulot_peers is 'any'" in each]
    assert "any file that its process can read" in text
    assert not any("gevulot_peers" in each for each in verdict().warnings)


def test_an_absent_board_is_refused_and_the_present_ones_are_named() -> None:
    (refusal,) = verdict(boards=["0000:81:00.0"]).refusals
    assert "address 0000:81:00.0" in refusal
    assert "0000:01:00.0 (10de:2684, 0000:00/01.0/00)" in refusal


def test_an_interface_with_the_default_route_is_refused() -> None:
    refusals = verdict(boards=["0000:00:1f.0"]).refusals
    assert any("default-route: 0000:00:1f.0 is in use: eno1 carries the default route" in each for each in refusals)


def test_the_controller_of_a_mounted_disk_is_refused() -> None:
    refusals = verdict(boards=["0000:00:1e.0"]).refusals
    assert any("disk: 0000:00:1e.0 is in use: nvme0n1p2 is mounted at /" in each for each in refusals)


def test_a_display_that_the_console_uses_is_refused_unless_that_is_allowed() -> None:
    functions = tuple(replace(each, boot_vga=each.code == 0x030000) for each in gpu(1, 1))
    assert any("boot-display" in each for each in verdict(functions=functions).refusals)
    assert verdict(functions=functions, board_guards_allowed=["boot-display"]).refusals == ()


def test_a_board_that_is_named_by_its_address_is_taken_whatever_its_class() -> None:
    second_nic = replace(NIC, place="pci0000:00/0000:00:1d.0")
    outcome = verdict(functions=(NIC, NVME, second_nic), boards=["0000:00:1d.0"], gpu_functions="all")
    assert outcome.refusals == ()


def test_a_board_without_a_display_function_is_refused_when_only_display_functions_are_listed() -> None:
    second_nic = replace(NIC, place="pci0000:00/0000:00:1d.0")
    (refusal,) = verdict(functions=(NIC, NVME, second_nic), boards=["0000:00:1d.0"]).refusals
    assert "board 0000:00:1d.0 (8086:10d3) has no display function" in refusal
    assert "Set gevulot_gpu_functions to 'all'" in refusal


def test_a_board_of_a_class_that_hosts_need_is_refused_when_only_its_model_is_named() -> None:
    second_nic = replace(NIC, place="pci0000:00/0000:00:1d.0")
    refusals = verdict(functions=(second_nic,), boards=["8086:10d3"]).refusals
    assert any("class: 0000:00:1d.0" in each for each in refusals)


def test_a_use_that_cannot_be_read_is_refused() -> None:
    known, there = KernelModules().process(modules()), topology_text.parse(topology(*gpu(1, 1)))
    outcome = judge(HostState(parse(platform(DEBIAN)), known, there, None), asked())
    assert any("whether the host uses it could not be read" in each for each in outcome.refusals)


def test_a_board_that_is_handed_over_already_is_not_questioned() -> None:
    functions = gpu(1, 1, drivers=BOUND, group=12)
    used = [*evidence()[:-1], "unreadable vfio-open cannot be read", "pcibind-evidence end"]
    assert verdict(functions=tuple(functions), used=used).refusals == ()


def test_postgres_data_of_another_release_is_refused() -> None:
    (refusal,) = verdict(data_release="15").refusals
    assert refusal.startswith("/var/lib/gevulot/postgres holds data of Postgres 15; expected release 16.")


def test_postgres_data_of_the_same_release_is_accepted() -> None:
    image = "docker.io/library/postgres:15"
    assert verdict(data_release="15", postgres_release=15, postgres_image=image).refusals == ()
    assert verdict(data_release="15", postgres_url="postgres://a:b@c/d").refusals == ()


@pytest.mark.parametrize("state", ["lost", "changed", "size", "dangling", "legacy-size"])
def test_a_key_that_is_not_the_nodes_is_refused_before_anything_is_changed(state: str) -> None:
    (refusal,) = verdict(services=Services(key_state=state)).refusals
    assert "node.key" in refusal
    assert any(word in refusal.lower() for word in ("restore", "mount"))


@pytest.mark.parametrize(("state", "notes"), [("legacy", 1), ("unrecorded", 1), ("missing", 0), ("ok", 0), ("mode", 0)])
def test_a_key_that_is_taken_over_is_reported_and_not_refused(state: str, notes: int) -> None:
    outcome = verdict(services=Services(key_state=state))
    assert (outcome.refusals, len(outcome.warnings)) == ((), notes)


@pytest.mark.parametrize(
    ("line", "value", "words"),
    [
        ("cores", "8", ("cores", ": 8", "64")),
        ("memory_kib", str(64 * 1024**2), ("memory", ": 64", "512")),
        ("disk_kib", str(200 * 1024**2), ("disk under /var/lib/gevulot", ": 200", "1 TB")),
    ],
)
def test_a_host_below_the_minimum_is_warned_of_and_refused_on_request(
    line: str, value: str, words: tuple[str, ...]
) -> None:
    (warning,) = verdict(changes={line: value}).warnings
    assert [word for word in words if word not in warning] == []
    enforced = verdict(changes={line: value}, enforce_minimum=True)
    assert enforced.warnings == ()
    assert any(words[0] in refusal and words[2] in refusal for refusal in enforced.refusals)


def test_a_model_that_the_guide_does_not_support_is_warned_of() -> None:
    outcome = verdict(functions=tuple(gpu(1, 1, RTX_2080)), boards=["10de:1e87"])
    assert outcome.refusals == ()
    assert "board 0000:01:00.0 (10de:1e87) is not a model that the guide supports." in outcome.warnings


def test_a_host_without_supported_boards_is_warned_of() -> None:
    outcome = verdict(functions=(NIC, NVME))
    assert outcome.refusals == ()
    assert any("no supported GPU (RTX 3090, 4090) was found" in warning for warning in outcome.warnings)


@pytest.mark.parametrize(
    ("table", "arguments"), [("DMAR", ("intel_iommu=on", "iommu=pt")), ("IVRS", ("iommu=pt",)), (None, ())]
)
def test_the_firmware_table_decides_the_kernel_arguments(table: str | None, arguments: tuple[str, ...]) -> None:
    assert verdict(changes={"iommu_table": table}).kernel_arguments == arguments


LINES = KernelCommandLine().process(
    ["live root=UUID=0a1b", "menu /boot/grub/grub.cfg", "file /boot/grub/grub.cfg", "|menuentry a {",
     "|linux /boot/vmlinuz-6.99.0 root=UUID=0a1b quiet", "|}", "made quiet", "planned quiet gpu-host.here"]
)  # fmt: skip


def test_an_argument_that_defeats_the_node_is_refused() -> None:
    lines = replace(LINES, planned=("nointremap", MARK))
    (refusal,) = verdict(more={"lines": lines}).refusals
    assert "the kernel's argument nointremap defeats the node" in refusal


def test_the_kernel_that_boots_next_is_judged_beside_the_one_that_runs() -> None:
    kernels = BootableKernels({"6.99.0": ("vhost_vsock",), "6.12.0": ()})
    (refusal,) = verdict(more={"lines": LINES, "kernels": kernels}).refusals
    assert "the next boot takes the kernel 6.99.0" in refusal
    assert "vhost_vsock" in refusal


def test_a_full_boot_is_refused_on_a_new_host_and_reported_on_a_node() -> None:
    full = BootableKernels(images={"/boot/initrd.img-1": 90_000}, boot_free_kib=10_000)
    assert "/boot has 9 MiB free" in verdict(more={"kernels": full}).refusals[0]
    there = verdict(more={"kernels": full, "attempts": RebootHistory(deployed=True)})
    assert (there.refusals, "/boot has 9 MiB free" in there.warnings[0]) == ((), True)


def test_a_reboot_in_vain_is_refused_unless_no_reboot_is_allowed_or_a_board_changed() -> None:
    wanted = ("intel_iommu=on", "iommu=pt")
    boards = tuple(each.path for each in verdict().boards)
    last = RebootAttempt(
        ("the kernel does not run with intel_iommu=on iommu=pt",),
        "today",
        reboot_attempt.digest(LINES, wanted, boards, None),
    )
    more = {"lines": LINES, "attempts": RebootHistory(True, last)}
    assert "was for this and did not help" in verdict(more=more).refusals[0]
    assert verdict(more=more, reboot="never").refusals == ()
    assert verdict(more=more, functions=(*gpu(2, 1), NIC, NVME)).refusals == ()


def test_a_second_whole_menu_of_grub_is_reported() -> None:
    two = replace(DEBIAN, boot=("grub", "grub-efi"))
    assert any("/boot/efi/EFI/*/grub.cfg" in each for each in verdict(two, more={"lines": LINES}).warnings)


def test_only_modules_that_need_loading_are_listed() -> None:
    assert verdict().all_modules == tuple(name for name in MODULES if name != "kvm")
    assert verdict().node_modules == NODE_MODULES


def test_all_supported_boards_are_chosen_by_default() -> None:
    functions = (*gpu(1, 1), *gpu(2, 2, RTX_3090), *gpu(3, 3, RTX_2080), *gpu(4, 4, RADEON, vendor=0x1002))
    assert [str(board.address) for board in verdict(functions=functions).boards] == ["0000:02:00.0", "0000:01:00.0"]


def test_the_default_keeps_what_the_node_follows_already() -> None:
    config = request_boards(topology_text.parse(topology(*gpu(2, 2, RTX_3090))), asked(), recorded(*gpu(1, 1)))
    assert [str(board.selector) for board in config.boards] == ["model 10de:2204", "model 10de:2684"]


@pytest.mark.parametrize("selector", ["0000:01:00.0", "0000:00/01.0/00"])
def test_the_default_does_not_name_a_board_twice_that_was_recorded_by_its_place(selector: str) -> None:
    functions = gpu(1, 1)
    outcome = verdict(functions=tuple(functions), record=recorded(*functions, selector=selector))
    assert outcome.refusals == ()
    assert [str(board.address) for board in outcome.boards] == ["0000:01:00.0"]
    assert [str(board.selector) for board in outcome.config.boards] == ["model 10de:2684"]


def test_the_default_keeps_an_unsupported_board_that_was_recorded_by_its_place() -> None:
    functions = (*gpu(1, 1), *gpu(2, 2, RTX_2080))
    outcome = verdict(functions=functions, record=recorded(*gpu(2, 2, RTX_2080), selector="0000:02:00.0"))
    assert outcome.refusals == ()
    assert {str(board.address) for board in outcome.boards} == {"0000:01:00.0", "0000:02:00.0"}


def test_a_recorded_board_that_is_gone_is_missed_aloud() -> None:
    outcome = verdict(functions=tuple(gpu(2, 2, RTX_3090)), record=recorded(*gpu(1, 1)))
    assert any("0000:00/01.0/00 is absent" in refusal for refusal in outcome.refusals)


def test_a_recorded_board_is_followed_when_its_bus_is_numbered_anew() -> None:
    outcome = verdict(functions=(*gpu(1, 5), NIC), record=recorded(*gpu(1, 1)))
    assert outcome.refusals == ()
    assert [str(board.address) for board in outcome.boards] == ["0000:05:00.0"]


def test_a_board_that_is_named_twice_is_refused() -> None:
    assert any("same board" in each for each in verdict(boards=["0000:01:00.0", "0000:00/01.0/00"]).refusals)


@pytest.mark.parametrize(
    ("version", "release"),
    [("5.4.2", (5, 4)), ("4.9.3+ds1-1ubuntu0.2", (4, 9)), ("1:4.3.1+ds1-8", (4, 3)), ("5.0-rc1", (5, 0)),
     ("", (0, 0)), ("unknown", (0, 0))],
)  # fmt: skip
def test_a_version_is_read_up_to_its_minor_number(version: str, release: tuple[int, int]) -> None:
    assert parse_release(version) == release


@given(st.text(max_size=20))
def test_no_version_text_breaks_the_reading(version: str) -> None:
    assert len(parse_release(version)) == 2


def test_discovery_addresses_that_do_not_answer_are_a_warning_with_each_reason() -> None:
    silent = {"a.example.net:9999": "its name is not found", "203.0.113.7:9999": "connection refused"}
    outcome = verdict(discovery=silent)
    (warning,) = outcome.warnings
    assert "a.example.net:9999: its name is not found; 203.0.113.7:9999: connection refused" in warning
    assert outcome.refusals == ()


def test_one_discovery_address_that_answers_is_enough() -> None:
    answers = {"a.example.net:9999": "its name is not found", "203.0.113.7:9999": "answers"}
    assert verdict(discovery=answers).warnings == verdict(discovery={}).warnings == ()
