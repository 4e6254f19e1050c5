"""pcibind alone, on a real kernel with a real IOMMU: boards of three and four functions, plugged in as a test needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.preparation import IOMMU
from tests.lab.progress import Progress
from tests.system.binder import Binder, path

CLEAN = "clean"
WRITES = 32
"""How many writes an apply of two boards of four functions makes: files, requests to its child, and the answer."""

WRITING = "O_WRONLY|O_RDWR|O_CREAT|O_TRUNC"


@pytest.fixture(scope="module")
def installed(say: Progress) -> Iterator[Binder]:
    with Machine.start("ports", preparation=IOMMU, progress=say) as machine:
        binder = Binder.install(machine)
        machine.ssh("pcibind --version; modinfo vfio_pci >/dev/null")
        machine.snapshot(CLEAN)
        yield binder


@pytest.fixture
def binder(installed: Binder) -> Binder:
    """Two boards at slots 4 and 5, eight empty ports from 6 on, the IOMMU on, nothing chosen."""
    installed.machine.restore(CLEAN)
    return installed


def test_a_board_goes_to_vfio_as_a_whole_and_its_twin_stays_with_the_host(binder: Binder) -> None:
    before = binder.functions()
    binder.choose(5)
    answer = binder.run("apply")
    assert (answer.code, answer.states()) == (0, {path(5): ("present", "bound")}), answer.text
    assert binder.bound() == {5}
    mine = binder.board(5)
    others = {name: each for name, each in binder.functions().items() if name not in mine}
    assert others == {name: each for name, each in before.items() if name not in mine}
    assert f"PCIBIND_FUNCTIONS={','.join(mine)}\n" in binder.handed_over()
    # And the way back.
    assert binder.run("release").code == 0
    assert binder.functions() == before
    assert binder.handed_over() == ""


def test_nothing_to_do_opens_nothing_for_writing(binder: Binder) -> None:
    binder.choose(4, 5)
    assert binder.run("apply").code == 0
    for command in ("apply", "apply --recorded"):
        trace = "strace -f -qq -e trace=openat,open,creat,mkdir,unlink,rename,renameat2,unlinkat -o /root/trace"
        binder.machine.ssh(f"{trace} pcibind {command}")
        calls = binder.machine.ssh("cat /root/trace").stdout
        writing = [line for line in calls.splitlines() if re.search(rf"{WRITING}|unlink|rename", line)]
        # The null device, and what the shell that gathers evidence redirects to it.
        left = [line for line in writing if "/dev/null" not in line and "= -1 " not in line]
        assert left == []


def test_boards_of_three_and_of_four_and_a_function_that_no_driver_wants(binder: Binder) -> None:
    binder.machine.plug(0x6, "gpu-of-three")
    binder.machine.plug(0x7, "driverless")
    assert "" in {each.driver for each in binder.board(7).values()}
    before = binder.functions()
    binder.choose(6, 7)
    # QEMU's test device has no class that is known to be harmless.
    assert binder.run("apply").guards() == {("class", next(reversed(binder.board(7))))}
    assert binder.functions() == before
    binder.configure(*(f'path = "{path(slot)}"' for slot in (6, 7)), allow=("class",))
    answer = binder.run("apply")
    assert answer.code == 0, answer.text
    assert (len(binder.board(6)), len(binder.board(7))) == (3, 4)
    assert binder.bound() == {6, 7}
    assert binder.run("release").code == 0
    assert binder.functions() == before


@pytest.mark.soak
def test_eight_boards_at_once(binder: Binder) -> None:
    for slot in range(0x6, 0xC):
        binder.machine.plug(slot, "gpu")
    before = binder.functions()
    display = next(iter(binder.board(4).values()))
    assert display.driver == "bochs-drm"
    binder.configure('model = "1234:1111"')
    answer = binder.run("apply")
    assert answer.code == 0, answer.text
    assert binder.bound() == set(range(0x4, 0xC))
    assert "PCIBIND_BOARDS=8\n" in binder.handed_over()
    assert binder.run("release").code == 0
    assert binder.functions() == before


def test_a_board_is_known_by_its_place_and_by_what_it_is(binder: Binder) -> None:
    binder.machine.plug(0x6, "gpu-of-three")
    binder.choose(4, 5, 6)
    assert binder.run("apply").code == 0
    assert binder.run("release").code == 0
    assert binder.run("apply --next-boot").code == 0
    before = binder.board(4)

    binder.machine.unplug(0x5)
    answer = binder.run("apply")
    assert (answer.code, answer.states()[path(5)]) == (4, ("absent", "unbound"))
    assert binder.bound() == {4, 6}
    assert binder.handed_over() == ""

    binder.machine.plug(0x7, "gpu")
    assert binder.run("status").states()[path(5)] == ("moved", "unbound")
    assert f"found one like it at {path(7)}" in binder.run("status").detail(path(5))
    binder.machine.plug(0x5, "other-audio")
    assert binder.run("status").states()[path(5)][0] == "moved"
    binder.machine.unplug(0x7)
    assert binder.run("status").states()[path(5)] == ("replaced", "unbound")
    assert "8086:293e" in binder.run("status").detail(path(5))

    # Another board at the place: nothing of it was touched.
    assert {each.driver for each in binder.board(5).values()} & {"vfio-pci"} == set()
    assert {each.driver for each in before.values()} == {"bochs-drm", "snd_hda_intel", "xhci_hcd", "serial"}

    assert binder.run("release " + path(6)).code == 0
    assert binder.run("apply --next-boot").code == 4
    binder.machine.unplug(0x6)
    binder.machine.plug(0x6, "driverless")
    assert binder.run("status").states()[path(6)] == ("extra-function", "unbound")

    # A board that is gone is taken out of the configuration, and the status is ok.
    binder.machine.unplug(0x5)
    binder.machine.unplug(0x6)
    binder.choose(4)
    answer = binder.run("apply")
    assert answer.code == 0, answer.text
    assert f"PCIBIND_FUNCTIONS={','.join(binder.board(4))}\n" in binder.handed_over()


def test_any_is_enough_where_any_is_asked_for(binder: Binder) -> None:
    selectors = [f'path = "{path(slot)}"' for slot in (4, 5)]
    binder.configure(*selectors, require="any")
    assert binder.run("apply").code == 0
    binder.machine.unplug(0x4)
    answer = binder.run("apply")
    assert (answer.code, answer.states()) == (0, {path(4): ("absent", "unbound"), path(5): ("present", "bound")})
    assert "PCIBIND_BOARDS=1\n" in binder.handed_over()
    binder.configure(*selectors)
    # A workload is stopped for its own boards only: what is handed over and still proven stays.
    assert binder.run("apply").code == 4
    assert "PCIBIND_BOARDS=1\n" in binder.handed_over()


def test_a_driver_that_comes_back_at_once_does_not_get_the_board(binder: Binder) -> None:
    address = next(name for name, each in binder.board(4).items() if each.driver == "snd_hda_intel")
    binder.machine.ssh(
        "systemd-run --quiet --unit=again sh -c 'while :; do "
        f"echo {address} >/sys/bus/pci/drivers/snd_hda_intel/bind; done 2>/dev/null'"
    )
    binder.choose(4)
    assert binder.run("apply").code == 0
    assert binder.bound() == {4}
    assert binder.run("release").code == 0
    # One that takes the override away too wins; then the board is the host's as a whole, and that is reported.
    # Who wins a race of loops is chance; an override that never reaches the kernel was taken away in time.
    before = binder.board(4)
    override = f"/sys/bus/pci/devices/{address}/driver_override"
    binder.machine.ssh(f"systemctl stop again; mount --bind /dev/null {override}")
    answer = binder.run("apply")
    binder.machine.ssh(f"umount {override}")
    assert answer.code == 5, answer.text
    assert f"{address}" in answer.detail(path(4))
    assert {name: each.driver for name, each in binder.board(4).items()} == {n: e.driver for n, e in before.items()}
    assert binder.handed_over() == ""


def test_an_open_group_is_never_taken_from_its_user_even_if_no_process_shows_it(binder: Binder) -> None:
    binder.choose(4, 5)
    assert binder.run("apply").code == 0
    address, held = next(iter(binder.board(4).items()))
    for how in ("openly /dev/vfio/" + held.group, f"vfio {held.group} {address}"):
        binder.hold(how)
        answer = binder.run("release")
        assert (answer.code, answer.guards()) == (3, {("vfio-open", "")}), answer.text
        assert ("does not show" in answer.text) == how.startswith("vfio")
        # Its neighbour is nobody's, and goes.
        assert binder.bound() == {4}
        # Applying disturbs nobody: what is right stays.
        assert binder.run("apply").code == 0
        assert binder.bound() == {4, 5}
        binder.let_go()
    assert binder.run("release").code == 0


def test_an_unbind_that_never_ends_is_given_up_on_and_holds_up_no_other(binder: Binder) -> None:
    board = binder.board(4)
    address = next(name for name, each in board.items() if each.driver == "snd_hda_intel")
    control = binder.machine.ssh(f"ls -d /sys/bus/pci/devices/{address}/sound/card*/controlC*").stdout.split("/")[-1]
    binder.hold(f"hidden /dev/snd/{control.strip()}")
    binder.choose(4, 5)
    answer = binder.run("apply")
    assert (answer.code, answer.states()) == (6, {path(4): ("present", "stuck"), path(5): ("present", "bound")})
    assert "did not come back within 30 s" in answer.detail(path(4))
    assert "no process is known to hold it" in answer.detail(path(4))
    assert binder.bound() == {5}
    # The stuck one's siblings are where they were.
    now = binder.functions()
    assert {n: now[n].driver for n in board if n != address} == {n: e.driver for n, e in board.items() if n != address}

    # From now on nothing touches it, and nothing hangs: not even reading its override is tried for long.
    for command in ("status", "plan", "apply", "apply --recorded", "release"):
        again = binder.run(command, prefix="timeout 25")
        assert again.code == 6, again.text
    assert binder.run("status").states()[path(4)] == ("present", "stuck")

    # When its holder goes, the kernel lets go, and the next run puts all right.
    binder.let_go()
    binder.choose(4, 5)
    answer = binder.run("apply")
    assert answer.code == 0, answer.text
    assert binder.bound() == {4, 5}


def converge_after_kills(binder: Binder, writes: Iterable[int]) -> None:
    before = binder.functions()
    binder.choose(4, 5)
    for write in writes:
        kill_at(binder, write)
        assert not binder.handed_over() or binder.bound() == {4, 5}
        assert binder.run("apply").code == 0
        assert binder.bound() == {4, 5}
        assert binder.run("release").code == 0
        assert binder.functions() == before


def test_killed_at_a_write_the_next_run_converges(binder: Binder) -> None:
    # While the record is written, between overrides, and between an unbind and its probe.
    converge_after_kills(binder, (2, 6, 19))


@pytest.mark.soak
def test_killed_at_every_write_the_next_run_converges(binder: Binder) -> None:
    converge_after_kills(binder, range(1, WRITES + 1))


def kill_at(binder: Binder, write: int) -> None:
    """Kill an apply at its so manieth write: of a file, or of a request to the child that writes to sysfs."""
    done = binder.machine.ssh(
        f"strace -qq -o /dev/null -e trace=write -e inject=write:signal=KILL:when={write} pcibind apply; sleep 0.5",
        check=False,
    )
    assert write == WRITES or "bound" not in done.stdout
