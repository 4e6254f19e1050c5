"""Boards that somebody uses, on a real kernel: by every path of pcibind, and inside the sandbox of its unit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress
from tests.system.binder import Binder, path

pytestmark = pytest.mark.soak

CLEAN = "clean"
HOST = {"bochs-drm", "snd_hda_intel", "xhci_hcd", "serial"}


@pytest.fixture(scope="module")
def installed(say: Progress) -> Iterator[Binder]:
    with Machine.start("ports", preparation=IOMMU, progress=say) as machine:
        binder = Binder.install(machine)
        machine.snapshot(CLEAN)
        yield binder


@pytest.fixture
def binder(installed: Binder) -> Binder:
    """Two boards at slots 4 and 5, the IOMMU on, nothing chosen."""
    installed.machine.restore(CLEAN)
    return installed


def start_unit(binder: Binder) -> tuple[int, str]:
    """Run the unit as a boot does; return the exit code of its program and what it printed."""
    done = binder.machine.ssh(
        "systemctl restart pcibind.service; id=$(systemctl show -P InvocationID pcibind.service); "
        "journalctl --sync; journalctl -o cat --no-pager _SYSTEMD_INVOCATION_ID=$id; "
        "systemctl show -P ExecMainStatus pcibind.service",
        check=False,
    )
    text, _, code = done.stdout.rstrip().rpartition("\n")
    return int(code), text


def drivers(binder: Binder, slot: int) -> set[str]:
    return {each.driver for each in binder.board(slot).values()}


def group(binder: Binder, slot: int) -> str:
    return next(iter(binder.board(slot).values())).group


def holders(binder: Binder, slot: int) -> tuple[str, str]:
    """How a process holds a board so that everybody sees it, and so that only the kernel knows."""
    return f"openly /dev/vfio/{group(binder, slot)}", f"vfio {group(binder, slot)} {next(iter(binder.board(slot)))}"


def test_the_unit_binds_and_then_has_nothing_to_do(binder: Binder) -> None:
    binder.choose(4, 5)
    assert binder.run("apply --next-boot").code == 0
    assert binder.bound() == set()
    code, text = start_unit(binder)
    assert (code, binder.bound()) == (0, {4, 5}), text
    before = binder.functions()
    code, text = start_unit(binder)
    assert (code, text.count("nothing to do")) == (0, 2), text
    assert binder.functions() == before
    assert "PCIBIND_BOARDS=2\n" in binder.handed_over()


def test_the_unit_gives_back_an_idle_board_that_is_still_on_vfio_pci(binder: Binder) -> None:
    binder.choose(4, 5)
    assert binder.run("apply").code == 0
    binder.choose(4)
    assert binder.run("apply --next-boot").code == 0
    assert binder.bound() == {4, 5}
    code, text = start_unit(binder)
    assert (code, binder.bound(), drivers(binder, 5)) == (0, {4}, HOST), text
    assert binder.run("status").code == 0
    assert "PCIBIND_BOARDS=1\n" in binder.handed_over()


def test_the_unit_leaves_a_board_that_is_in_use_and_does_not_fail_for_it(binder: Binder) -> None:
    binder.choose(4, 5)
    assert binder.run("apply").code == 0
    binder.choose(4)
    assert binder.run("apply --next-boot").code == 0
    before = binder.functions()
    for how in holders(binder, 5):
        binder.hold(how)
        code, text = start_unit(binder)
        assert code == 0, text
        assert f"/dev/vfio/{group(binder, 5)} is open" in text
        assert binder.functions() == before
        assert "PCIBIND_BOARDS=1\n" in binder.handed_over()
        assert binder.machine.ssh("systemctl is-active pcibind.service").stdout.strip() == "active"
        binder.let_go()
    code, text = start_unit(binder)
    assert (code, binder.bound(), drivers(binder, 5)) == (0, {4}, HOST), text


def test_the_unit_writes_to_no_board_in_use_that_is_bound_in_part(binder: Binder) -> None:
    binder.choose(4, 5)
    assert binder.run("apply").code == 0
    last = list(binder.board(5))[-1]
    binder.machine.ssh(f"echo {last} >/sys/bus/pci/drivers/vfio-pci/unbind")
    before = binder.functions()
    for how in holders(binder, 5):
        binder.hold(how)
        code, text = start_unit(binder)
        assert code == 3, text
        assert f"/dev/vfio/{group(binder, 5)} is open" in text
        assert binder.functions() == before
        binder.let_go()
    code, text = start_unit(binder)
    assert (code, binder.bound()) == (0, {4, 5}), text


@pytest.mark.parametrize("command", ["apply", "apply --recorded"])
def test_no_board_in_use_is_taken_apart_when_an_override_cannot_be_written(binder: Binder, command: str) -> None:
    binder.choose(4, 5)
    assert binder.run("apply").code == 0
    address = list(binder.board(4))[1]
    override = f"/sys/bus/pci/devices/{address}/driver_override"
    binder.machine.ssh(f"echo >{override}")
    before = binder.functions()
    for how in holders(binder, 4):
        binder.hold(how)
        binder.machine.ssh(f"mount --bind /dev/full {override}")
        answer = binder.run(command)
        binder.machine.ssh(f"umount {override}")
        assert answer.code == 3, answer.text
        assert answer.states() == {path(4): ("present", "refused"), path(5): ("present", "bound")}
        assert answer.guards() == {("vfio-open", "")}
        assert binder.functions() == before
        binder.let_go()
    # Nobody uses it now; what this run did not move stays where it is.
    binder.machine.ssh(f"mount --bind /dev/full {override}")
    answer = binder.run(command)
    binder.machine.ssh(f"umount {override}")
    assert (answer.code, answer.states()[path(4)]) == (5, ("present", "failed")), answer.text
    assert binder.functions() == before
    assert binder.run(command).code == 0
    assert binder.bound() == {4, 5}


def test_what_a_failed_run_moved_has_no_driver_beside_siblings_on_vfio_pci(binder: Binder) -> None:
    binder.choose(4)
    assert binder.run("apply").code == 0
    display, audio, *_ = binder.board(4)
    binder.machine.ssh(
        f"echo {display} >/sys/bus/pci/drivers/vfio-pci/unbind; echo {audio} >/sys/bus/pci/drivers/vfio-pci/unbind; "
        f"for f in {display} {audio}; do echo >/sys/bus/pci/devices/$f/driver_override; "
        "echo $f >/sys/bus/pci/drivers_probe; done"
    )
    assert [binder.board(4)[each].driver for each in (display, audio)] == ["bochs-drm", "snd_hda_intel"]
    # The audio function's override never reaches the kernel, so its driver takes it again and again.
    override = f"/sys/bus/pci/devices/{audio}/driver_override"
    binder.machine.ssh(f"mount --bind /dev/null {override}")
    answer = binder.run("apply")
    binder.machine.ssh(f"umount {override}")
    assert answer.code == 5, answer.text
    now = binder.board(4)
    assert [now[each].driver for each in (display, audio)] == ["", "snd_hda_intel"]
    assert {each.driver for name, each in now.items() if name not in (display, audio)} == {"vfio-pci"}
    assert "left without a driver" in answer.detail(path(4))
    assert binder.run("apply").code == 0
    assert binder.bound() == {4}


def test_while_a_board_leaves_nobody_can_open_its_group(binder: Binder) -> None:
    binder.choose(4)
    assert binder.run("apply").code == 0
    node = f"/dev/vfio/{group(binder, 4)}"
    # Every write takes a while; beside it, somebody tries to open the group all the time.
    binder.machine.ssh(
        "systemd-run --quiet --collect --unit=eager python3 -c '"
        "import os, time\n"
        "while True:\n"
        '    try: os.close(os.open("' + node + '", os.O_RDWR)); print(time.monotonic(), flush=True)\n'
        "    except OSError: pass\n"
        "    time.sleep(0.01)'"
    )
    slowly = "strace -f -qq -o /dev/null -e trace=write -e inject=write:delay_enter=200000"
    done = binder.machine.ssh(f"{slowly} pcibind release", check=False)
    binder.machine.ssh("systemctl stop eager")
    # Whoever was first has it: refused as a whole, or given back as a whole.
    assert (done.returncode, binder.bound(), drivers(binder, 4)) in (
        (0, set(), HOST),
        (3, {4}, {"vfio-pci"}),
    ), done.stdout + done.stderr
