"""What is shipped beside the code: version, man page, completion, changelogs, and the Debian package's files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from tree import Machine

import pcibind
from pcibind.change import boot_files, setup
from pcibind.commands.apply import apply
from pcibind.commands.cli import cli
from pcibind.model.errors import MEANINGS

HOME = Path(__file__).parents[3] / "helpers/pcibind"
MAN = HOME / "share/man/man8/pcibind.8"
DEBIAN = HOME / "debian"
COMPLETIONS: list[tuple[type[ShellComplete], str]] = [
    (BashComplete, "share/bash-completion/completions/pcibind"),
    (ZshComplete, "share/zsh/site-functions/_pcibind"),
    (FishComplete, "share/fish/vendor_completions.d/pcibind.fish"),
]
VERSION = pcibind.__version__


# One version


def test_the_command_says_the_version_of_the_package() -> None:
    done = subprocess.run([sys.executable, "-m", "pcibind", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == VERSION


def test_the_version_stands_in_one_place_of_the_code() -> None:
    texts = [path.read_text() for path in (HOME / "src").rglob("*.py")] + [(HOME / "pyproject.toml").read_text()]
    assert sum(text.count(f'"{VERSION}"') for text in texts) == 1


def test_changelogs_and_man_page_are_of_this_version() -> None:
    newest = re.search(r"^## \[(\S+)\] - \d{4}-\d\d-\d\d$", (HOME / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == VERSION
    assert (DEBIAN / "changelog").read_text().startswith(f"pcibind ({VERSION}) ")
    assert f".Os pcibind {VERSION}\n" in MAN.read_text()


# Man page


def section(name: str) -> str:
    """A section of the man page, as it stands in mdoc."""
    return MAN.read_text().partition(f"\n.Sh {name}\n")[2].partition("\n.Sh ")[0]


def marked(option: str) -> str:
    """How mdoc writes an option: `--json` is `Fl -json`."""
    return rf"\bFl {option[1:]}(?= |$)"


def test_the_man_page_has_the_commands_and_no_others() -> None:
    assert set(re.findall(r"^\.Cm (\w+)", section("SYNOPSIS"), re.MULTILINE)) == set(cli.commands)
    assert re.findall(r"^\.It Cm (\w+)", section("DESCRIPTION"), re.MULTILINE) == [
        name for name in re.findall(r"^\.Cm (\w+)", section("SYNOPSIS"), re.MULTILINE)
    ]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_man_page_has_every_option_and_argument_of(name: str) -> None:
    synopsis = re.search(rf"^\.Cm {name}\n((?:\.(?:Op|Ar) .*\n?)*)", section("SYNOPSIS"), re.MULTILINE)
    assert synopsis
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            for option in () if parameter.hidden else parameter.opts:
                # An alternative stands in the same brackets: `.Op Fl -one | -other`.
                assert re.search(marked(option) + rf"|\| {option[1:]}\b", synopsis[1], re.MULTILINE), option
                assert re.search(rf"^\.It .*{marked(option)}", section("DESCRIPTION"), re.MULTILINE), option
        else:
            assert re.search(rf"\bAr {parameter.name}\b", synopsis[1]), parameter.name


def test_the_man_page_has_every_option_of_all_commands() -> None:
    options = [option for each in cli.params if not getattr(each, "hidden", False) for option in each.opts]
    for option in (*options, "--help"):
        assert re.search(rf"^\.It .*(?:{marked(option)}|, {option[1:]}$)", section("DESCRIPTION"), re.MULTILINE), option


def test_the_man_page_has_every_exit_code_with_its_meaning() -> None:
    codes = re.findall(r"^\.It (\d+)\n(.*)", section("EXIT STATUS"), re.MULTILINE)
    assert {int(code): meaning for code, meaning in codes} == {int(code): text for code, text in MEANINGS.items()}


# Completion


@pytest.mark.parametrize(("shell", "path"), COMPLETIONS, ids=lambda value: getattr(value, "name", None))
def test_the_completion_is_what_click_generates(shell: type[ShellComplete], path: str) -> None:
    """To renew: `_PCIBIND_COMPLETE=bash_source pcibind`, and so on, without blank lines around it."""
    expected = shell(cli, {}, "pcibind", "_PCIBIND_COMPLETE").source().strip()
    assert (HOME / path).read_text() == f"{expected}\n"


def complete(machine: Machine, *words: str) -> list[str]:
    arguments = ["--root", str(machine.root), *words[:-1]]
    completions = BashComplete(cli, {}, "pcibind", "_PCIBIND_COMPLETE").get_completions(arguments, words[-1])
    return [each.value for each in completions]


def test_release_completes_the_boards_on_record(machine: Machine) -> None:
    machine.configure('[[board]]\nname = "left"\npath = "0000:00/01.0/00"\n[[board]]\npath = "0000:00/02.0/00"\n')
    assert complete(machine, "release", "") == []
    apply(machine.host)
    assert complete(machine, "release", "") == ["left", "0000:00/02.0/00"]
    assert complete(machine, "release", "le") == ["left"]


def test_a_broken_record_completes_nothing(machine: Machine) -> None:
    machine.file("var/lib/pcibind/record.json", "{")
    assert complete(machine, "release", "") == []


# The package's boot files


def test_a_package_has_its_boot_files_below_usr_and_names_nothing_of_an_administrators() -> None:
    files = setup.package_files()
    assert {each.path for each in files} >= {
        "/usr/lib/udev/rules.d/05-pcibind.rules",
        "/usr/lib/pcibind/early",
        "/usr/share/initramfs-tools/hooks/pcibind",
        "/usr/lib/dracut/dracut.conf.d/pcibind.conf",
        "/usr/lib/systemd/system/pcibind.service",
    }
    for each in files:
        assert each.path.startswith("/usr/"), each.path
        assert not re.search(r"/usr/local|/etc/(udev|initramfs-tools|dracut|systemd)\b", each.text), each.path
    named = {path for each in files for path in re.findall(r"/usr/lib/(?:pcibind|udev)/[\w./-]*\w", each.text)}
    assert named <= {each.path for each in files} | {"/usr/lib/pcibind/__main__.py"}


def test_the_boot_files_of_every_former_version_are_known_as_ours() -> None:
    """With a new version, add the digests (`setup.digest`) of the last one's boot files."""
    lines = [line.split() for line in (HOME / "src/pcibind/data/former.sha256").read_text().splitlines()]
    versions = re.findall(r"^## \[(\d\S*)\]", (HOME / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {version for _, version, _ in lines} == set(versions) - {VERSION}
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest, _, _ in lines)


def set_up(machine: Machine) -> dict[str, Path]:
    """The boot files as `setup` writes them, for either generator of an initramfs; and the unit is enabled."""
    files = setup.list_boot_files(setup._HOOKS.values(), setup.this_command())
    for each in files:
        machine.file(each.path[1:], each.text)
    wants = machine.root / "etc/systemd/system/sysinit.target.wants" / boot_files.UNIT
    wants.parent.mkdir(parents=True)
    wants.symlink_to(boot_files.UNIT_PATH)
    return {each.path: machine.root / each.path[1:] for each in files}


def test_what_setup_left_in_etc_does_not_shadow_a_package(machine: Machine) -> None:
    files = set_up(machine)
    assert all(path.exists() for path in files.values())
    messages = setup.install(machine.paths, setup.PACKAGE_LIBRARY)
    assert [path for path in files.values() if path.exists()] == []
    assert not (machine.root / "etc/systemd/system/sysinit.target.wants" / boot_files.UNIT).is_symlink()
    assert messages[:-1] == [f"removed {path}: the package provides it" for path in files]
    assert messages[-1].startswith("next: update-initramfs")
    assert setup.install(machine.paths, setup.PACKAGE_LIBRARY) == ["the package provides all boot files"]


RULE_OF_0_1_0 = """\
# The first PCI event runs the script that sets the driver overrides of all chosen functions.
# PROGRAM is run while the rules are read, so before the module of this device, or of any later
# one, is loaded: modules are loaded by RUN, after the last rule. One rule for each device would
# come too late, since an earlier device's event loads the module that takes the later ones.
ACTION=="add", SUBSYSTEM=="pci", TEST=="/etc/pcibind/early.list", TEST!="/run/pcibind/early.done", \
PROGRAM="/usr/local/lib/pcibind/early"
"""


def test_what_a_former_version_left_does_not_shadow_a_package(machine: Machine) -> None:
    machine.file(boot_files.RULE_PATH[1:], RULE_OF_0_1_0)
    messages = setup.install(machine.paths, setup.PACKAGE_LIBRARY)
    assert messages[0] == f"removed {boot_files.RULE_PATH}: the package provides it"


def test_a_boot_file_that_was_changed_stays_and_is_named(machine: Machine) -> None:
    files = set_up(machine)
    rule = files[boot_files.RULE_PATH]
    rule.write_text(rule.read_text() + "# mine\n")
    messages = setup.install(machine.paths, setup.PACKAGE_LIBRARY)
    assert [path for path in files.values() if path.exists()] == [rule]
    assert f"{boot_files.RULE_PATH} was edited: it is kept, and overrides the package's" in messages


def test_another_installations_boot_files_stay_and_are_named(machine: Machine) -> None:
    files = set_up(machine)
    machine.file("usr/local/lib/pcibind/__main__.py", "")
    (line,) = setup.install(machine.paths, setup.PACKAGE_LIBRARY)
    assert all(path.exists() for path in files.values())
    assert "is another pcibind" in line


# The package's scripts, with a directory in place of the root


def script(name: str, action: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(DEBIAN / name), action]
    return subprocess.run(
        command, env={"DPKG_ROOT": str(root), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )


def test_the_package_is_not_removed_while_a_board_is_on_record(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    assert script("prerm", "remove", machine.root).returncode == 0
    apply(machine.host, next_boot=True)
    refused = script("prerm", "remove", machine.root)
    assert refused.returncode == 1
    assert "pcibind release" in refused.stderr
    assert script("prerm", "upgrade", machine.root).returncode == 0


def test_purge_leaves_nothing_but_the_record(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    before = {path for path in machine.root.rglob("*") if path.is_file()}
    apply(machine.host, next_boot=True)
    machine.file("run/pcibind/early.done", "\n")
    assert script("postrm", "purge", machine.root).returncode == 0
    record = Path(machine.paths.record)
    left = {path for path in machine.root.rglob("*") if path.is_file()}
    assert left == before - {machine.root / "etc/pcibind/boards.toml"} | {record}
    record.unlink()
    assert script("postrm", "purge", machine.root).returncode == 0
    assert not record.parent.exists()
    assert not (machine.root / "etc/pcibind").exists()


def test_purge_leaves_the_configuration_of_another_installation(machine: Machine) -> None:
    machine.configure('[[board]]\nmodel = "10de:2684"\n')
    machine.file("usr/local/lib/pcibind/__main__.py", "")
    assert script("postrm", "purge", machine.root).returncode == 0
    assert (machine.root / "etc/pcibind/boards.toml").exists()


# Documentation


def test_every_module_that_the_page_about_a_boot_names_exists() -> None:
    text = (HOME / "docs/boot.md").read_text()
    named = re.findall(r"`([\w-]+(?:/[\w-]+)*\.(?:py|sh|rules|conf))`", text)
    assert named
    package = HOME / "src/pcibind"
    assert [name for name in named if not (package / name).exists()] == []
    assert not re.search(r"`data/(?![\w-]+\.\w+`)", text)
