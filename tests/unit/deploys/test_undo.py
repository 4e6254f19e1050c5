"""The undo through pyinfra's command line, on fake hosts that answer as deployed ones do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from deploys import manifest
from deploys.assessment import legacy_files, next_boot
from deploys.manifest import FAILED_UNITS, MODULE_FILES, VFIO_RULE, former_path
from deploys.manifest import UPDATE_TIMER as TIMER
from deploys.restoration import boards, node
from deploys.restoration.start import EARLY_DONE
from pcibind.model import record
from pcibind.model.record import Record, RecordedBoard
from pcibind.model.request import BoardRequest, Selector
from pcibind.read import configuration
from pcibind.remote import topology_text
from tests.unit.deploys import recorded as r
from tests.unit.deploys.runs import Run, assert_tools, start_all

pytestmark = pytest.mark.commands
PCIBIND_SAYS = "refused: board 0000:00/01.0/00: process 4711 has its VFIO group open"
OTHER = "/etc/pcibind/mine.toml"

# --- hosts that were deployed

_BOUND = (*r.gpu(1, 1, drivers=r.BOUND, group=12), r.NIC, r.NVME)
_BARE = (*r.gpu(1, 1), r.NIC, r.NVME)
DIRECTORIES = (boards.LIBRARIES[0],)


def before(*functions: r.Pci, archived: tuple[str, ...] = (), configured: str = "quiet") -> list[str]:
    """What the host says of its record."""
    document = {
        "version": 1,
        "kernel_command_line": r.KERNEL.split(),
        "configured_command_lines": [["root=UUID=0a1b", "ro", *configured.split()]],
        "system_state": "running",
        "shared_directories": ["/etc/default/grub.d"],
        "auto_update_timer": "disabled",
        "functions": [
            {"address": str(each.address), "path": each.path, "model": each.model, "driver": each.driver,
             "driver_override": None}
            for each in topology_text.parse(r.topology(*functions)).functions
        ],
    }  # fmt: skip
    files = [f"archived {path}" for path in ("/etc/hostname", *archived)]
    return [
        "begin",
        "place /var/lib/gpu-host",
        "privileged",
        "archive",
        *files,
        "deployed node",
        "record",
        *json.dumps(document, indent=1).splitlines(),
    ]


def file(path: str) -> dict[str | re.Pattern[str], Any]:
    kind = "drwxr-xr-x" if path in DIRECTORIES else "-rw-r--r--"
    return {
        re.compile(rf"existing {re.escape(path)}$"): path,
        f"test -e {path} ||": f"user=root group=root mode={kind} atime=1 mtime=1 ctime=1 size=1 '{path}'",
    }


def unit(name: str, active: str, load: str = "loaded") -> list[str]:
    return [f"Id={name}", f"LoadState={load}", f"ActiveState={active}", "SubState=running",
            f"NeedDaemonReload={'no' if load == 'not-found' else 'yes'}", "UnitFileState=enabled", ""]  # fmt: skip


def deployed(
    distribution: r.Distribution,
    *,
    archived: tuple[str, ...] = (),
    refuses: bool = False,
    others: bool = False,
    functions: tuple[r.Pci, ...] = _BARE,
    remains: list[str] | None = None,
    former: bool = False,
    has_node: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """A fake host that was deployed, and that is as it was once it has rebooted.

    ``former``: by an earlier version, which had other names; and no other did since. ``has_node``: with a node.
    """
    names = manifest.FORMER_NAMES if former else {}
    host = r.Recorded(distribution, functions=_BOUND, functions_after=_BARE)
    (gpu,) = [each for each in topology_text.parse(r.topology(*_BARE)).boards() if each.display_functions]
    board = RecordedBoard.of(gpu, Selector.parse(gpu.model), None)
    # An operator's own board, which nothing here has.
    mine = board._replace(selector=Selector.parse("10de:2204"), path="0000:00/09.0/00")
    known = record.dump(Record((board, mine) if others else (board,))).splitlines()
    request = configuration.render(BoardRequest(board.selector)).splitlines()
    toml = [
        f"file {names.get(manifest.PCIBIND_BOARDS.path, manifest.PCIBIND_BOARDS.path)}",
        *(f"text {line}" for line in request),
    ]
    toml += [f"file {OTHER}", "text [[board]]", 'text model = "10de:2204"'] if others else []
    units = (*(manifest.NODE_UNITS if has_node else ()), "pcibind.service", TIMER)
    known_as = (
        ["place /var/lib/gevulot-deploy", "former"]
        if former
        else ["deployed node" if has_node else "deployed gpu_host"]
    )
    recorded_lines = [line for line in remains or before(*functions, archived=archived) if line != "deployed node"]

    # What was done to the host so far, by the words of the commands that did it.
    done: set[str] = set()

    def does(word: str, printed: str = "") -> r.Answer:
        return r.Answer(lambda: done.add(word) or printed)

    def command_line() -> list[str]:
        live = "" if host.rebooted else r.ARGUMENTS
        configured = "" if "boot loader" in done else r.ARGUMENTS
        return [f"live {r.KERNEL} {live}", f"configured root=UUID=0a1b ro quiet {configured}"]

    def shown() -> list[str]:
        lines = []
        for name in units:
            gone = host.rebooted or ("stop" in done and name in manifest.NODE_UNITS)
            lines += unit(name, *(("inactive", "not-found") if gone else ("active", "loaded")))
        return lines

    answers: dict[str | re.Pattern[str], Any] = {
        "echo privileged": [*recorded_lines[:1], *known_as, *recorded_lines[1:]],
        "/etc/pcibind/*.toml": toml,
        "pcibind release": {"success": False, "stderr": PCIBIND_SAYS} if refuses else does("release"),
        "systemctl stop": does("stop"),
        re.compile("update-grub$|grubby --update"): does("boot loader"),
        "pcibind-topology": r.Answer(lambda: r.topology(*(_BARE if "release" in done else _BOUND))),
        "/proc/cmdline": r.Answer(command_line),
        f"existing {EARLY_DONE}": r.Answer(lambda: "" if host.rebooted else EARLY_DONE),
        f"existing {boards.RUN}": r.Answer(lambda: "" if host.rebooted else [boards.RUN, EARLY_DONE]),
        "--compare": r.Answer(lambda: "same" if host.rebooted else "different"),
        "-newercm": r.Answer(lambda: "" if host.rebooted else "/boot/initrd.img-6 is older than /etc/modprobe.d"),
        "systemctl show --timestamp=unix -p Id": r.Answer(shown),
        **({"^AutoUpdate=": "AutoUpdate=registry"} if has_node else {}),
        "cat /var/lib/pcibind/record.json": known,
        'stat -c "path': ["path /var/lib/gevulot/key/node.key 600 root:root 32"],
    }
    other = {
        "grub": next_boot.DROP_IN,
        "initramfs-tools": "/etc/dracut.conf.d/pcibind.conf",
        "dracut": "/etc/initramfs-tools/hooks/pcibind",
    }
    absent = {other["initramfs-tools" if "update-initramfs" in distribution.tools else "dracut"]}
    absent |= set() if "update-grub" in distribution.tools else {other["grub"]}
    absent |= set() if has_node else set(manifest.NODE_FILES)
    for path in (*node.FILES, *MODULE_FILES, next_boot.DROP_IN, *boards.FILES, *DIRECTORIES, manifest.DEPLOYED):
        if path not in absent and path not in archived:
            answers |= file(names.get(path, path))
    return r.saying(answers, r.data(host, **({"reboot_timeout": 60} | settings)))


def undone(distribution: r.Distribution) -> dict[str, Any]:
    """A fake host that has gone back, and that has rebooted since."""
    host = r.Recorded(distribution, functions=_BARE, functions_after=_BARE)
    answers: dict[str | re.Pattern[str], Any] = {
        "echo privileged": before(*_BARE),
        "/proc/cmdline": [f"live {r.KERNEL}", "configured root=UUID=0a1b ro quiet"],
        "-newercm": "",
        "systemctl show --timestamp=unix -p Id": [
            line for name in manifest.NODE_UNITS for line in unit(name, "inactive", "not-found")
        ],
    }
    return r.saying(answers, r.data(host))


def moved_half(*left: str, others: bool = False) -> dict[str, Any]:
    """A host whose record was moved from the place of earlier versions, in a run that was killed before it came to the
    files ``left``.
    """
    data = deployed(r.DEBIAN, others=others)
    known = data["fake_responses"]
    today = {former: today for today, former in manifest.FORMER_NAMES.items()}
    texts = [line for line in r.FORMER_NAMED if line.startswith("file ")]
    lines, wanted = [], False
    for line in r.FORMER_NAMED:
        wanted = line.removeprefix("file ") in left if line in texts else wanted
        lines += [line] if wanted else []
    answers: dict[str | re.Pattern[str], Any] = {"texts /etc": lines}
    for path in left:
        answers |= file(path) | {re.compile(rf"existing {re.escape(today[path])}$"): ""}
        if path == legacy_files.REQUEST:
            answers["/etc/pcibind/*.toml"] = [
                f"file {path}" if line == f"file {today[path]}" else line for line in known["/etc/pcibind/*.toml"]
            ]
    return r.saying(answers, data)


def never_deployed(*lines: str) -> dict[str, Any]:
    host = r.Recorded(r.DEBIAN)
    return r.saying({"echo privileged": ["begin", *lines]}, r.data(host))


# --- the runs

FAMILIES = ("debian", "fedora", "dracut", "ubuntu")
_FOUR = """
    ("@fake/debian", t.deployed(t.r.DEBIAN)),
    ("@fake/fedora", t.deployed(t.r.FEDORA)),
    ("@fake/dracut", t.deployed(t.r.DEBIAN_DRACUT)),
    ("@fake/ubuntu", t.deployed(t.r.UBUNTU)),
"""
_RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plan": (_FOUR, ("--dry", "--json")),
    "apply": (_FOUR, ("-y",)),
    "again": ('("@fake/done", t.undone(t.r.DEBIAN)), ("@fake/grubby", t.undone(t.r.FEDORA))', ("--dry", "--json")),
    "again applied": ('("@fake/done", t.undone(t.r.DEBIAN)),', ("-y",)),
    "refusing": (
        '("@fake/held", t.deployed(t.r.DEBIAN, refuses=True)), ("@fake/ready", t.deployed(t.r.DEBIAN))', ("-y",)
    ),
    "never deployed": ('("@fake/bare", t.never_deployed("privileged")),', ("-y",)),
    "no record": ('("@fake/lost", t.never_deployed("privileged", "trace /usr/local/lib/pcibind")),', ("-y",)),
    "no rights": ('("@fake/person", t.never_deployed()),', ("-y",)),
    "no archive": (
        '("@fake/half", t.deployed(t.r.DEBIAN, remains=[x for x in t.before(*t._BARE) if x != "archive"])),', ("-y",)
    ),
    "data that does not matter": (
        '("@fake/one", t.deployed(t.r.DEBIAN, psk_passphrase="", boards=["?"], p2p_listne=1, reboot_timeout=60)),',
        ("--dry", "--json"),
    ),
    "data that matters": (
        '("@fake/one", t.deployed(t.r.DEBIAN, rebot="never")), ("@fake/two", t.deployed(t.r.DEBIAN, reboot="no"))',
        ("-y",),
    ),
    "archived": ('("@fake/by-hand", t.deployed(t.r.DEBIAN, archived=(t.VFIO_RULE.path,))),', ("-y",)),
    "former": (
        """("@fake/one", t.r.saying(
            {"texts /etc": t.r.FORMER, "etc/modprobe.d/vfio.conf 2>&1": "different"},
            t.deployed(t.r.DEBIAN, archived=("/etc/modprobe.d/vfio.conf",)))),""",
        ("-y",),
    ),
    "drop-in of an earlier version": (
        """*((f"@fake/{name}", t.r.saying({"head -n1 /etc/default/grub.d/90": first}, t.deployed(t.r.DEBIAN)))
        for name, first in (("ours", t.next_boot.OLD_MARK), ("theirs", "# mine"))),""",
        ("-y",),
    ),
    "others": ('("@fake/shared", t.deployed(t.r.DEBIAN, others=True)),', ("-y",)),
    "never": ('("@fake/one", t.deployed(t.r.DEBIAN, reboot="never")),', ("-y",)),
    "gpu host": (
        """("@fake/one", t.r.without_node(t.deployed(t.r.DEBIAN, has_node=False))),
        ("@fake/two", t.r.without_node(t.deployed(t.r.FEDORA, has_node=False)))""",
        ("-y",),
    ),
    "by an earlier version": ('("@fake/one", t.deployed(t.r.DEBIAN, former=True)),', ("-y",)),
    "move to today's names killed": (
        """("@fake/one", t.moved_half("/etc/pcibind/gevulot.toml", "/etc/default/grub.d/zz-gevulot.cfg")),""",
        ("-y",),
    ),
    "others, move to today's names killed": (
        '("@fake/one", t.moved_half("/etc/pcibind/gevulot.toml", others=True)),', ("-y",),
    ),
    "by an earlier version, undone before": (
        '''("@fake/one", t.r.saying(t.file(t.FAILED_UNITS) | t.file(t.former_path(t.FAILED_UNITS)),
        t.deployed(t.r.DEBIAN, former=True))),''',
        ("-y",),
    ),
    "board gone": ('("@fake/one", t.deployed(t.r.DEBIAN, functions=(*t._BARE, *t.r.gpu(2, 2)))),', ("-y",)),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    yield from start_all(tmp_path_factory, _RUNS, "deploys/undo.py", hosts_from="test_undo as t")


def index(commands: list[str], part: str) -> int:
    (places,) = [number for number, each in enumerate(commands) if part in each]
    return places


@pytest.mark.parametrize("name", _RUNS)
def test_no_run_ends_with_a_trace_of_python(runs: dict[str, Run], name: str) -> None:
    assert "Traceback" not in runs[name].output


def test_the_undo_of_every_family_succeeds(runs: dict[str, Run]) -> None:
    assert runs["apply"].exit_code == 0, runs["apply"].output
    assert runs["apply"].output.count(" passed, 0 failed") == 4


def test_a_dry_run_asks_and_changes_nothing(runs: dict[str, Run]) -> None:
    assert runs["plan"].exit_code == 0
    assert [runs["plan"].commands(host) for host in FAMILIES] == [[]] * 4


@pytest.mark.parametrize("host", FAMILIES)
def test_every_operation_that_ran_was_in_the_plan(runs: dict[str, Run], host: str) -> None:
    ran = set(runs["apply"].operations(host))
    other = "initramfs-tools" if host in ("fedora", "dracut") else "dracut"
    assert len(ran) > 15
    assert ran - runs["plan"].planned(host) <= {f"Rebuild the initramfs | Rebuild the initramfs with {other}"}


@pytest.mark.parametrize("host", FAMILIES)
def test_the_plan_names_what_the_run_decides(runs: dict[str, Run], host: str) -> None:
    assert {
        "Return the boards to their drivers | Give the boards back to their drivers",
        "Remove pcibind | Reload systemd",
        "Reboot when the live state needs it",
        "Compare the host with what it was | Compare the host with what it was",
    } <= {name.removeprefix("Reboot when needed | ") for name in runs["plan"].planned(host)}


@pytest.mark.parametrize("host", ["done", "grubby"])
def test_a_plan_for_an_undone_host_is_empty(runs: dict[str, Run], host: str) -> None:
    assert runs["again"].exit_code == 0, runs["again"].output
    assert runs["again"].planned(host) == set()


def test_a_second_undo_changes_nothing_and_compares_again(runs: dict[str, Run]) -> None:
    run = runs["again applied"]
    assert run.exit_code == 0, run.output
    assert run.commands("done") == []
    assert " passed, 0 failed" in run.output


@pytest.mark.parametrize(
    ("host", "expected", "unexpected"),
    [
        ("fedora", ("dracut --regenerate-all", "grubby --update-kernel=ALL --remove-args='intel_iommu=on iommu=pt'"),
         ("update-initramfs", "update-grub")),
        ("debian", ("update-initramfs -u -k all", "update-grub"), ("dracut --", "grubby")),
        ("dracut", ("dracut --regenerate-all", "update-grub"), ("update-initramfs -u", "grubby")),
        ("ubuntu", ("update-initramfs -u -k all", "update-grub"), ("dracut --", "grubby")),
    ],
)  # fmt: skip
def test_each_family_goes_back_with_its_own_tools(
    runs: dict[str, Run], host: str, expected: tuple[str, ...], unexpected: tuple[str, ...]
) -> None:
    assert_tools(runs["apply"], host, expected, unexpected)


@pytest.mark.parametrize("host", FAMILIES)
def test_the_steps_come_in_an_order_that_can_be_left_anywhere(runs: dict[str, Run], host: str) -> None:
    commands = runs["apply"].commands(host)
    order = [
        index(
            commands,
            "systemctl stop gevulot-node.service gevulot-key.service gevulot-migrate.service "
            "gevulot-firewall.service gevulot-postgres.service",
        ),
        index(commands, "/etc/containers/systemd/gevulot-node.container"),
        index(commands, "/etc/modprobe.d/gpu-host-boards.conf"),
        index(commands, "pcibind release"),
        index(commands, "systemctl disable --now pcibind.service"),
        index(commands, "/etc/pcibind/early.list"),
        index(commands, "dracut --reg" if host in ("fedora", "dracut") else "update-initramfs -u"),
        index(commands, "systemctl reboot"),
    ]
    assert order == sorted(order)


def test_nothing_of_the_data_is_touched(runs: dict[str, Run]) -> None:
    kept = ("/var/lib/gevulot/", "/var/lib/gevulot ", "gpu-host/before.json", "podman secret", "podman image",
            "podman rmi", "podman volume", "node-key", "userdel", "groupdel", "apt-get", "dnf ")  # fmt: skip
    commands = [command for host in FAMILIES for command in runs["apply"].commands(host)]
    assert [command for command in commands if any(word in command for word in kept)] == []


def test_the_end_lists_what_stays_and_how_to_remove_it(runs: dict[str, Run]) -> None:
    output = runs["apply"].output
    assert "What stays on @fake/debian" in output
    for part in ("/var/lib/gevulot/key", "Only a backup can restore a lost key", "podman secret rm", "packages"):
        assert part in output


def test_a_timer_that_was_off_is_switched_off_again(runs: dict[str, Run]) -> None:
    assert f"systemctl disable --now {TIMER}" in runs["apply"].commands("debian")


def test_when_pcibind_refuses_its_words_are_quoted_and_nothing_of_it_is_removed(runs: dict[str, Run]) -> None:
    run = runs["refusing"]
    assert run.exit_code != 0
    assert f"[@fake/held] {PCIBIND_SAYS}" in run.output
    assert run.commands("held")[-1].startswith("for id in ")
    assert not any(path in command for command in run.commands("held") for path in boards.FILES[:-1])


def test_a_host_that_pcibind_refused_stops_the_reboots_of_the_others(runs: dict[str, Run]) -> None:
    run = runs["refusing"]
    assert not any("systemctl reboot" in command for command in run.commands("ready"))
    assert "[@fake/ready] not rebooted because @fake/held failed" in run.output


def test_a_host_that_was_never_deployed_has_nothing_to_undo(runs: dict[str, Run]) -> None:
    run = runs["never deployed"]
    assert run.exit_code == 0, run.output
    assert "was never deployed (/var/lib/gpu-host/before.json does not exist): nothing to undo" in run.output
    assert run.commands("bare") == []


@pytest.mark.parametrize(
    ("name", "host", "words"),
    [
        ("no record", "lost", "before.json is missing, but /usr/local/lib/pcibind exists; expected the record"),
        ("no rights", "person", "can be read by root only. Connect as root, or with sudo"),
        ("no archive", "half", "before.tar is missing; expected the files that the host had"),
    ],
)
def test_a_host_that_cannot_go_back_is_refused_by_name(runs: dict[str, Run], name: str, host: str, words: str) -> None:
    run = runs[name]
    assert run.exit_code != 0
    assert f"@fake/{host} cannot be undone, and no host was changed:" in run.output
    assert words in run.output
    assert run.commands(host) == []


def test_host_data_that_an_undo_does_not_need_may_be_wrong(runs: dict[str, Run]) -> None:
    assert runs["data that does not matter"].exit_code == 0, runs["data that does not matter"].output


def test_host_data_that_an_undo_needs_is_checked_for_all_hosts(runs: dict[str, Run]) -> None:
    run = runs["data that matters"]
    assert run.exit_code != 0
    assert "@fake/one: gevulot_rebot: unknown key; did you mean gevulot_reboot?" in run.output
    assert "@fake/two: gevulot_reboot is 'no'" in run.output
    assert run.commands("one") + run.commands("two") == []


def test_a_file_from_before_is_brought_back_and_not_removed(runs: dict[str, Run]) -> None:
    commands = runs["archived"].commands("by-hand")
    (restored,) = [command for command in commands if VFIO_RULE.path in command]
    assert restored.startswith("tar -C / -xpf /var/lib/gpu-host/before.tar etc/udev/rules.d/99-gpu-host-vfio.rules")
    assert f"{VFIO_RULE.path} as it was" in runs["archived"].output


def test_pcibind_stays_for_boards_of_the_operators_own(runs: dict[str, Run]) -> None:
    run = runs["others"]
    commands = run.commands("shared")
    assert f"pcibind stays, with its boot files, because no deploy wrote {OTHER}" in run.output
    assert (
        "output=$(/usr/local/sbin/pcibind release 0000:00/01.0/00 2>&1)" in commands[index(commands, "pcibind release")]
    )
    assert any("/etc/pcibind/gpu-host.toml" in command for command in commands)
    kept = [path for path in boards.FILES if path != "/etc/pcibind/gpu-host.toml" and path != boards.COMMAND]
    assert [command for command in commands if any(path in command for path in kept)] == []


def test_without_permission_the_pending_reboot_is_reported_and_nothing_is_compared(runs: dict[str, Run]) -> None:
    run = runs["never"]
    assert run.exit_code == 0, run.output
    assert not any("systemctl reboot" in command for command in run.commands("one"))
    assert "a reboot is pending: this boot set driver overrides before any driver was loaded" in run.output
    assert "What was verified" not in run.output
    assert "What stays on @fake/one" in run.output


def test_a_host_whose_move_to_todays_names_was_killed_goes_back_from_both(runs: dict[str, Run]) -> None:
    run = runs["move to today's names killed"]
    assert run.exit_code == 0, run.output
    commands = run.commands("one")
    assert "pcibind stays" not in run.output, "its configuration under the former name is ours"
    released = index(commands, "pcibind release")
    assert released < commands.index(f"rm -f {legacy_files.REQUEST}"), "a release that fails leaves pcibind whole"
    assert released < commands.index(f"rm -f {legacy_files.DROP_IN}") < index(commands, "update-grub")
    assert "rm -f /usr/local/sbin/pcibind" in commands


def test_the_boards_of_a_former_name_go_back_where_an_operators_own_stay(runs: dict[str, Run]) -> None:
    run = runs["others, move to today's names killed"]
    commands = run.commands("one")
    assert commands[index(commands, "pcibind release")].count("pcibind release 0000:00/01.0/00") == 1
    assert f"because no deploy wrote {OTHER}" in run.output
    assert f"rm -f {legacy_files.REQUEST}" in commands


def test_what_an_earlier_undo_noted_in_todays_directory_goes_too(runs: dict[str, Run]) -> None:
    commands = runs["by an earlier version, undone before"].commands("one")
    assert [each for each in commands if each in (f"rm -f {FAILED_UNITS}", f"rm -f {former_path(FAILED_UNITS)}")] == [
        f"rm -f {path}" for path in (FAILED_UNITS, former_path(FAILED_UNITS))
    ]


def test_a_host_that_an_earlier_version_deployed_goes_back_from_its_files(runs: dict[str, Run]) -> None:
    commands = runs["former"].commands("one")
    assert [each for each in commands if "modprobe.d/nvidia.conf" in each] == ["rm -f /etc/modprobe.d/nvidia.conf"]
    (restored,) = [each for each in commands if "modprobe.d/vfio.conf" in each]
    assert restored.startswith("tar -C / -xpf /var/lib/gpu-host/before.tar")
    assert not [each for each in commands if "modules-load.d/vfio.conf" in each], "somebody else's"


def test_a_board_that_is_gone_is_reported_and_is_no_error(runs: dict[str, Run]) -> None:
    run = runs["board gone"]
    assert run.exit_code == 0, run.output
    assert "[@fake/one] board 0000:00/02.0/00 (10de:2684 10de:22ba) was there before the first deploy" in run.output


def test_only_a_drop_in_with_a_deploys_own_text_is_taken_away(runs: dict[str, Run]) -> None:
    run = runs["drop-in of an earlier version"]
    taken = [[each for each in run.commands(name) if next_boot.OLD_DROP_IN in each] for name in ("ours", "theirs")]
    assert (len(taken[0]), taken[1]) == (1, [])


@pytest.mark.parametrize("host", ["one", "two"])
def test_a_host_without_a_node_is_undone_by_the_same_steps_and_no_node_is_mentioned(
    runs: dict[str, Run], host: str
) -> None:
    run = runs["gpu host"]
    assert run.exit_code == 0, run.output
    assert run.output.count(" passed, 0 failed") == 2
    commands = run.commands(host)
    assert [each for each in commands if "gevulot" in each.lower()] == []
    assert "pcibind release" in commands[index(commands, "pcibind release")]
    assert any(manifest.PCIBIND_BOARDS.path in each for each in commands)
    assert f"rm -rf {manifest.DEPLOYED}" in commands or f"rm -f {manifest.DEPLOYED}" in commands
    remains = run.output[run.output.index("What stays on") :]
    assert "so that a deploy gives the same host again" in remains
    assert "the record of the host as it was, in /var/lib/gpu-host" in remains
    assert "node" not in remains.partition("Results")[0]


def test_a_host_that_only_an_earlier_version_deployed_goes_back_under_its_names(runs: dict[str, Run]) -> None:
    run = runs["by an earlier version"]
    assert run.exit_code == 0, run.output
    commands = run.commands("one")
    for today, former in manifest.FORMER_NAMES.items():
        assert any(former in each for each in commands), former
        assert not any(today in each for each in commands), today
    assert not any(manifest.MODULES_LOAD.path in each for each in commands), "no earlier version wrote it"
    assert not any("mv " in each and "gevulot-deploy" in each for each in commands), "the record stays where it is"
    assert "the record of the host as it was, in /var/lib/gevulot-deploy" in run.output
    assert "What stays on @fake/one, so that a deploy gives the same node again" in run.output
