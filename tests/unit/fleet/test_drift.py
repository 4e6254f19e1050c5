"""What changed, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploys.assessment.status_document import HostStatus, Image, Platform
from deploys.fleet import drift
from deploys.fleet.drift import KeptStateError


def function(path: str, **changed: Any) -> dict[str, Any]:
    number = path.rpartition(".")[2]
    return {
        "address": f"0000:41:00.{number}",
        "path": path,
        "vendor": "10de",
        "device": "2684" if number == "0" else "22ba",
        "subsystem_vendor": "10de",
        "subsystem_device": "16f4",
        "class": "030000" if number == "0" else "040300",
        "driver": "vfio-pci",
        "driver_override": "vfio-pci",
        "iommu_group": 12,
        "numa_node": 0,
        "slot": None,
        "device_name": None,
    } | changed


def kept(*functions: dict[str, Any], name: str | None = "gpu1", **changed: Any) -> dict[str, Any]:
    boards = [{"name": name, "path": functions[0]["path"].rpartition(".")[0], "state": "bound"}] if functions else []
    return drift.kept(HostStatus("host")) | {"boards": boards, "functions": list(functions)} | changed


def board(place: str, **changed: Any) -> list[dict[str, Any]]:
    return [function(f"{place}.{number}", **changed) for number in range(2)]


def test_nothing_changed_is_nothing() -> None:
    state = kept(*board("0000:00/01.0/00"))
    assert drift.changes(state, state) == ()


def test_a_board_that_moved_is_described_by_its_slots() -> None:
    old, new = kept(*board("0000:00/01.0/00", slot="4")), kept(*board("0000:00/02.0/00", slot="6"))
    assert drift.changes(old, new) == ("board gpu1 moved from slot 4 to slot 6",)


def test_a_board_that_is_gone_and_one_that_is_new_are_two() -> None:
    old = kept(*board("0000:00/01.0/00"))
    new = kept(*board("0000:00/01.0/00", subsystem_device="9999"))
    assert drift.changes(old, new) == (
        "board gpu1 at 0000:00/01.0/00 is gone",
        "board gpu1 at 0000:00/01.0/00 is new",
    )


def test_another_driver_is_reported_at_the_present_address() -> None:
    old = kept(*board("0000:00/01.0/00"))
    changed = board("0000:00/01.0/00")
    changed[1]["driver"] = "xhci_hcd"
    assert drift.changes(old, kept(*changed)) == ("driver of 0000:41:00.1 is xhci_hcd, was vfio-pci",)


def test_renumbered_buses_are_no_change() -> None:
    old = kept(*board("0000:00/01.0/00"))
    new = kept(*board("0000:00/01.0/00", address="0000:42:00.0", iommu_group=13))
    assert drift.changes(old, new) == ()


def test_values_are_reported_with_their_previous_values() -> None:
    platform = Platform("Debian GNU/Linux 13", "6.12.1", 64, 1)
    old = drift.kept(HostStatus("host", platform=platform, podman="5.4.2", image=Image("r", "sha256:a")))
    new = drift.kept(HostStatus("host", platform=platform, podman="5.5.0", image=Image("r", "sha256:b")))
    assert drift.changes(old, new) == ("Podman is 5.5.0, was 5.4.2", "the image is sha256:b, was sha256:a")


def test_a_state_is_kept_once_and_read_again(tmp_path: Path) -> None:
    host = HostStatus("@ssh/gpu1", podman="5.4.2", topology={"functions": board("0000:00/01.0/00")})
    assert drift.read(tmp_path / "known", host.name) is None
    assert drift.keep(tmp_path / "known", host)
    assert not drift.keep(tmp_path / "known", host)
    assert drift.read(tmp_path / "known", host.name) == drift.kept(host)
    assert [path.name for path in (tmp_path / "known").iterdir()] == ["@ssh%2Fgpu1.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other/1"}', '{"schema": "gevulot-kept/1"}'])
def test_a_file_that_is_no_state_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "host.json").write_text(text)
    with pytest.raises(KeptStateError, match=r"host\.json.*remove it"):
        drift.read(tmp_path, "host")


def test_what_is_not_known_has_not_changed() -> None:
    old = kept(*board("0000:00/01.0/00", driver_override="vfio-pci"), key={"state": "present", "public": "04"})
    new = kept(*board("0000:00/01.0/00", driver_override=None), key={"state": "unknown", "public": None})
    assert drift.changes(old, new, whole=False) == ()
    assert len(drift.changes(old, new)) > 0


def test_what_has_no_display_is_a_device() -> None:
    card = function("0000:00/03.0/00.0", **{"class": "020000", "device_name": None})
    assert drift.changes(kept(name=None), kept(card, name=None))[0].startswith("device ")
