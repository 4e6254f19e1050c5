"""Which drivers offer themselves for display functions, read by the fact's own command from a laid out host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError

from facts.aliases import DisplayDrivers, DriverAliases

GPU = "devices/pci0000:00/0000:00:01.0/0000:01:00.0"
SOUND = "devices/pci0000:00/0000:00:01.0/0000:01:00.1"
TWIN = "devices/pci0000:00/0000:00:02.0/0000:02:00.0"
HOST_SOUND = "devices/pci0000:00/0000:00:1f.3"
BOARD = "devices/platform/tegra gpu"


class HostTables:
    """A /sys and a /lib/modules to which devices and tables are added."""

    def __init__(self, root: Path) -> None:
        self.sys, self.modules = root / "sys", root / "modules"
        (self.sys / "devices").mkdir(parents=True)
        self.modules.mkdir()

    def device(self, path: str, modalias: str, driver: str = "", bus: str = "pci") -> None:
        place = self.sys / path
        place.mkdir(parents=True)
        (place / "modalias").write_text(f"{modalias}\n")
        if driver:
            home = self.sys / f"bus/{bus}/drivers/{driver}"
            home.mkdir(parents=True, exist_ok=True)
            if not (home / "module").is_symlink():
                (home / "module").symlink_to(f"../../../../module/{driver.replace('-', '_')}")
            (place / "driver").symlink_to(os.path.relpath(home, place))

    def kernel(self, release: str, *aliases: str, needs: tuple[str, ...] = ()) -> None:
        place = self.modules / release
        place.mkdir()
        (place / "modules.alias").write_text("".join(f"alias {each}\n" for each in ("# a comment", *aliases)))
        (place / "modules.dep").write_text("".join(f"{each}\n" for each in needs))

    def read(self, awk: str = "") -> DriverAliases:
        environment = os.environ | {"PCIBIND_SYS": str(self.sys), "PCIBIND_MODULES": str(self.modules)}
        if awk:
            (self.modules.parent / "bin").mkdir()
            (self.modules.parent / "bin/awk").symlink_to(awk)
            environment["PATH"] = f"{self.modules.parent}/bin:{environment['PATH']}"
        done = subprocess.run(["sh", "-c", DisplayDrivers().command()], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return DisplayDrivers().process(done.stdout.splitlines())


@pytest.fixture
def host(tmp_path: Path) -> HostTables:
    machine = HostTables(tmp_path)
    machine.device(GPU, "pci:v000010DEd00002684sv00001043sd000088E2bc03sc00i00", "nouveau")
    machine.device(SOUND, "pci:v000010DEd000022BAsv00001043sd000088E2bc04sc03i00", "snd_hda_intel")
    machine.device(HOST_SOUND, "pci:v00008086d00007AD0sv00001043sd00008769bc04sc03i00", "snd_hda_intel")
    return machine


NOUVEAU = "pci:v000010DEd*sv*sd*bc03sc*i* nouveau"
NVIDIA = "pci:v000010DEd*sv*sd*bc03sc0[02]i00* nvidia_current"
SOUND_CLASS = "pci:v*d*sv*sd*bc04sc03i* snd_hda_intel"


@pytest.mark.parametrize("awk", [offers for name in ("mawk", "gawk", "original-awk") if (offers := shutil.which(name))])
def test_what_any_installed_kernel_offers_for_a_display_function_is_named(host: HostTables, awk: str) -> None:
    host.kernel("6.12", NOUVEAU, SOUND_CLASS)
    host.kernel(
        "6.13",
        NVIDIA,
        needs=(
            "updates/dkms/nvidia-current.ko.xz:",
            "updates/dkms/nvidia-current-drm.ko.xz: updates/dkms/nvidia-current.ko.xz kernel/drm.ko",
        ),
    )
    offers = host.read(awk)
    assert offers.tables == 2
    assert offers.offers == {"nouveau": {f"/{GPU}"}, "nvidia_current": {f"/{GPU}"}}
    assert offers.needs == {"nvidia_current_drm": {"nvidia_current"}}
    assert offers.drives == {"nouveau": {f"/{GPU}"}}


def test_a_module_of_other_functions_of_a_board_is_not_among_them(host: HostTables) -> None:
    host.kernel("6.12", NOUVEAU, SOUND_CLASS)
    assert "snd_hda_intel" not in host.read().offers


def test_a_module_is_listed_with_the_other_devices_that_it_offers_itself_for_and_has(host: HostTables) -> None:
    host.device(TWIN, "pci:v000010DEd00002684sv00001458sd000040BFbc03sc00i00", "nvidia-current")
    host.device("devices/platform/57000000.gpu", "of:NgpuT(null)Cnvidia,gm20b")
    host.kernel("6.12", NOUVEAU, NVIDIA, "of:N*T*Cnvidia,gm20b nouveau")
    aliases = host.read()
    assert aliases.offers["nouveau"] == {f"/{GPU}", f"/{TWIN}", "/devices/platform/57000000.gpu"}
    assert aliases.drives["nvidia_current"] == {f"/{TWIN}"}


def test_a_name_of_one_model_alone_is_matched_as_a_pattern(host: HostTables) -> None:
    host.kernel(
        "6.12",
        "pci:v000010DEd00002684sv*sd*bc*sc*i* own",
        "pci:v000010DEd00002685sv*sd*bc*sc*i* other",
        "pci:v*d*sv*sd*bc03sc00i0? any",
        "pci:v000010DEd00002684sv*sd*bc04sc*i* sound",
    )
    assert set(host.read().offers) == {"own", "any"}


def test_without_tables_nothing_is_known(host: HostTables) -> None:
    assert host.read() == DriverAliases(drives={})


@pytest.mark.parametrize(
    "lines", [[], ["offers nouveau /x"], ["tables many"], ["offers no-u;veau /x", "tables 1"], [""]]
)
def test_another_answer_is_refused(lines: list[str]) -> None:
    with pytest.raises(FactProcessError):
        DisplayDrivers().process(lines)
