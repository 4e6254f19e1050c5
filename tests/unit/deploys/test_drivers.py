"""Which display drivers are blacklisted on a host, and what would miss them."""

from __future__ import annotations

import pytest

from deploys.assessment.verdict import Findings
from deploys.preflight.drivers import judge_drivers, select_drivers
from facts.aliases import DriverAliases
from facts.driver_users import DriverService, DriverUsage
from pcibind.model.pci import Board
from pcibind.remote import topology_text
from tests.unit.deploys.recorded import Pci, gpu, topology

ROOT = "/devices/pci0000:00"
CHOSEN = f"{ROOT}/0000:00:01.0/0000:01:00.0"
TWIN = f"{ROOT}/0000:00:02.0/0000:02:00.0"
NOBODY: frozenset[str] = frozenset()


def boards(*functions: Pci) -> tuple[Board, ...]:
    return tuple(each for each in topology_text.parse(topology(*functions)).boards() if each.display_functions)


CARD = boards(*gpu(1, 1))


def offers(**modules: tuple[str, ...]) -> dict[str, frozenset[str]]:
    return {name: frozenset(paths) for name, paths in modules.items()}


def host(
    offered: dict[str, frozenset[str]], drives: dict[str, frozenset[str]] | None = None, **needs: tuple[str, ...]
) -> DriverAliases:
    return DriverAliases(offered, drives or {}, offers(**needs), tables=1)


def test_every_driver_that_offers_itself_for_a_display_function_is_kept_off_with_what_needs_it() -> None:
    drivers = select_drivers(
        host(offers(nouveau=(CHOSEN,), nvidia_current=(CHOSEN,)), nvidia_drm=("nvidia_current",)), CARD
    )
    assert drivers.blacklist == ("nouveau", "nvidia_current", "nvidia_drm")
    assert drivers.spared == ()


@pytest.mark.parametrize(
    "other",
    [TWIN, f"{ROOT}/0000:00:14.0/usb1/1-1", "/devices/platform/57000000.gpu", f"{ROOT}/0000:00:01.0/0000:01:01.0"],
)
def test_a_driver_that_offers_itself_for_another_device_of_the_host_is_not(other: str) -> None:
    drivers = select_drivers(host(offers(nouveau=(CHOSEN, other), nvidia=(CHOSEN,))), CARD)
    assert (drivers.blacklist, drivers.spared) == (("nvidia",), ("nouveau",))
    assert drivers.others == (other.rpartition("/")[2],)


def test_a_driver_that_another_device_has_is_not_whatever_it_offers_itself_for() -> None:
    drivers = select_drivers(host(offers(nvidia=(CHOSEN,)), offers(nvidia=(TWIN,))), CARD)
    assert (drivers.blacklist, drivers.spared) == ((), ("nvidia",))


def test_what_is_below_a_chosen_function_is_no_other_device() -> None:
    bus = f"{CHOSEN}/i2c-4/4-0050"
    assert select_drivers(host(offers(nouveau=(CHOSEN, bus))), CARD).blacklist == ("nouveau",)


def test_a_chosen_twin_is_no_other_device() -> None:
    both = boards(*gpu(1, 1), *gpu(2, 2))
    assert select_drivers(host(offers(nouveau=(CHOSEN, TWIN))), both).blacklist == ("nouveau",)


def test_what_a_spared_module_needs_and_what_needs_one_is_spared_with_it() -> None:
    aliases = host(offers(nvidia=(CHOSEN,), nvidia_drm=(TWIN,)), nvidia_drm=("nvidia",), nvidia_uvm=("nvidia",))
    drivers = select_drivers(aliases, CARD)
    assert (drivers.blacklist, drivers.spared) == ((), ("nvidia", "nvidia_drm", "nvidia_uvm"))


@pytest.mark.parametrize("aliases", [None, host({}), host(offers(amdgpu=(TWIN,)))])
def test_nothing_is_kept_off_where_nothing_offers_itself(aliases: DriverAliases | None) -> None:
    assert select_drivers(aliases, CARD).blacklist == ()
    assert select_drivers(host(offers(nouveau=(CHOSEN,))), ()).blacklist == ()


# --- what would miss it


def judged(users: DriverUsage, *, driver: bool = True, offered: tuple[str, ...] = (CHOSEN,)) -> Findings:
    findings = Findings()
    aliases = host(offers(nvidia=offered), offers(nvidia=(CHOSEN,)) if driver else {}, nvidia_uvm=("nvidia",))
    judge_drivers(aliases, users, CARD, findings)
    return findings


def unit(program: str, name: str = "gpu-power.service", runs: bool = True) -> DriverUsage:
    return DriverUsage({}, (DriverService(name, runs, (program,)),))


@pytest.mark.parametrize(
    "program",
    ["/usr/bin/nvidia-persistenced", "/usr/bin/nv-hostengine", "/usr/bin/nv-fabricmanager", "/nvidia-smi"],
)
def test_an_enabled_unit_that_would_fail_is_refused_with_the_command_that_helps(program: str) -> None:
    (refusal,) = judged(unit(program)).refusals
    assert f"gpu-power.service runs {program}, which needs the driver nvidia" in refusal
    assert refusal.endswith("systemctl disable --now gpu-power.service")


def test_a_unit_that_may_fail_is_warned_of() -> None:
    findings = judged(unit("/opt/monitor", name="nvidia-monitor.service"))
    assert findings.refusals == []
    assert "nvidia-monitor.service (/opt/monitor) seems to use the driver nvidia" in findings.warnings[0]


@pytest.mark.parametrize(
    ("users", "driver"),
    [
        (unit("/usr/bin/nvidia-persistenced"), False),  # the boards were handed over already
        (unit("/usr/bin/nvidia-persistenced", runs=False), True),  # it fails, or is skipped, without us
        (unit("/usr/sbin/sshd", name="ssh.service"), True),
    ],
)
def test_a_unit_from_which_nothing_is_taken_is_not_mentioned(users: DriverUsage, driver: bool) -> None:
    findings = judged(users, driver=driver)
    assert (findings.refusals, findings.warnings) == ([], [])


def test_where_a_board_of_that_driver_stays_its_units_stay() -> None:
    findings = judged(unit("/usr/bin/nvidia-persistenced"), offered=(CHOSEN, TWIN))
    assert findings.refusals == []
    assert "0000:02:00.0 stays with the host" in findings.warnings[0]


def test_a_line_that_loads_a_blacklisted_module_is_named() -> None:
    (warning,) = judged(DriverUsage({"/etc/modules-load.d/cuda.conf": ("nvidia_uvm", "loop")})).warnings
    assert "/etc/modules-load.d/cuda.conf loads nvidia_uvm" in warning


def test_a_graphical_login_without_a_display_is_named() -> None:
    (warning,) = judged(DriverUsage({}, (), "gdm.service")).warnings
    assert "gdm.service" in warning
    assert "systemctl set-default multi-user.target" in warning


def test_without_any_table_a_warning_says_that_the_override_alone_protects() -> None:
    findings = Findings()
    assert judge_drivers(DriverAliases(), DriverUsage({}), CARD, findings) == ()
    assert "no /lib/modules/*/modules.alias could be read" in findings.warnings[0]
