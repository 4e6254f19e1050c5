"""The documentation names what exists: links, commands, keys, paths, messages, tables and sample output."""

from __future__ import annotations

import importlib
import re
import time
from pathlib import Path

import pytest
from pyinfra.api import Config

from deploys import manifest, settings
from deploys.assessment import checks, next_boot, reboot_attempt
from deploys.assessment.kernel_arguments import defeats
from deploys.assessment.legacy_files import FORMER
from deploys.assessment.status_document import Severity
from deploys.fleet.output import Options
from deploys.inputs import execution
from deploys.inputs.addresses import Endpoint
from deploys.settings import HostSettings, Settings
from deploys.transport.heartbeat import Heartbeat
from pcibind.commands.cli import cli
from pcibind.model.errors import MEANINGS
from pcibind.model.request import OVERRIDABLE_GUARDS
from tests.lab import __main__ as lab
from tests.system import evidence
from tests.unit import documents, runbook
from tests.unit.documents import ROOT, code, rows, section, spans, text

HELPER = "helpers/pcibind/README.md"
# On a host, but made by systemd, by an operation, or by hand.
MADE = {
    manifest.RECORD,
    manifest.ARCHIVE,
    manifest.ARGUMENTS,
    manifest.DEPLOYED,
    f"{manifest.STATE_DIRECTORY}/access",
    manifest.STATE_DIRECTORY,
    reboot_attempt.FILE,
    next_boot.DROP_IN,
    *manifest.FILES,
}
# An operator makes these.
OPERATORS = {"inventories/group_data/nodes.py", "inventories/hosts.py"}
# Refusals without an override, and the one guard that has none.
FIXED_GUARDS = {"foreign-device", "shared-group", "stale-initramfs", "vfio-open"}
pages = pytest.mark.parametrize("page", documents.pages(), ids=lambda path: str(path.relative_to(ROOT)))


# --- what every page names


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in documents.links(page):
        assert target.exists(), target
        assert not anchor or anchor in documents.anchors(target), (target, anchor)


def test_every_page_is_found_from_the_readme() -> None:
    reached, new = set(), [ROOT / "README.md"]
    while new:
        page = new.pop()
        reached.add(page)
        new += [target for target, _ in documents.links(page) if target.suffix == ".md" and target not in reached]
    assert [page for page in documents.pages() if page not in reached] == []


@pages
def test_every_key_of_host_data_exists(page: Path) -> None:
    named = set(re.findall(r"\bgevulot_(\w+)\b", text(page)))
    assert named <= set(Settings.model_fields)


@pages
def test_every_configuration_file_of_ours_is_one_that_is_written(page: Path) -> None:
    known = MADE | set(FORMER) | {next_boot.OLD_DROP_IN, "/etc/gevulot/node-key.sha256"}
    named = set(re.findall(r"`(/(?:etc|usr/local/libexec)/[\w./-]*(?:gevulot|gpu-host)[\w./-]*\.[a-z]+)`", text(page)))
    named |= set(re.findall(r"`(/var/lib/gpu-host/\w+(?:\.\w+)?)`", text(page)))
    assert named <= known


@pages
def test_every_path_of_the_project_exists(page: Path) -> None:
    tops = "deploys|docs|examples|facts|helpers|inventories|tests"
    for path in re.findall(rf"(?<![\w/.-])((?:{tops})/[\w./-]*\w(?:\.\w+|/))(?![\w-])", text(page)):
        assert (ROOT / path).exists() or (page.parent / path).exists() or path in OPERATORS, path


@pages
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code(page):
        assert set(re.findall(r"\bmake ([a-z]+)", line)) <= targets, line


@pages
def test_every_module_that_is_run_exists(page: Path) -> None:
    for line in code(page):
        for name in re.findall(r"python -m ((?:deploys|tests)[\w.]*\w)", line):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), line


@pages
def test_every_command_of_the_lab_exists(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lab.main(["--help"])
    commands = set(re.findall(r"^ {4}([a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    for line in code(page):
        assert set(re.findall(r"python -m tests\.lab ([a-z-]+)", line)) <= commands, line


@pages
def test_every_command_of_pcibind_exists(page: Path) -> None:
    for line in code(page):
        named = re.findall(r"(?:^|[#$;] |NODE |`)pcibind ([a-z-]+)", line)
        assert set(named) <= set(cli.commands), line


@pages
def test_every_fact_that_is_named_exists(page: Path) -> None:
    for line in code(page):
        for module, name in re.findall(r"\b(facts\.\w+)\.([A-Z]\w+)", line):
            assert hasattr(importlib.import_module(module), name), line


@pytest.mark.parametrize("page", [*documents.pages(), ROOT / "inventories/group_data/all.py"])
def test_every_import_that_is_shown_works(page: Path) -> None:
    for module, name in re.findall(r"from ((?:deploys|inventories)[\w.]*) import (\w+)", text(page)):
        assert hasattr(importlib.import_module(module), name), (module, name)


@pages
def test_every_option_for_data_exists(page: Path) -> None:
    known = {f"gevulot_{name}" for name in Settings.model_fields} | {f"status_{name}" for name in Options.model_fields}
    for line in code(page):
        assert set(re.findall(r"--data (\w+)=", line)) <= known | {"collect_directory"}, line


# --- tables


def test_the_page_of_settings_has_the_tables_of_the_host_and_of_the_node() -> None:
    """`python -m deploys.settings` prints both."""
    assert settings.table(HostSettings) in section("docs/settings.md", "Of the host")
    assert settings.table(Settings) in section("docs/settings.md", "Of the node")


def test_the_page_of_evidence_is_as_it_is_generated() -> None:
    page = text("docs/evidence.md")
    assert evidence.document(evidence.rows(page)) == page


def test_the_status_has_every_option_and_exit_code() -> None:
    options = rows(section("docs/status.md", "Options"))
    given = {spans(row[1])[0]: spans(row[0])[0] for row in options if len(row) == 4}
    assert set(given) == {f"GEVULOT_STATUS_{name.upper()}" for name in Options.model_fields}
    assert {each.partition("=")[0] for each in given.values()} == {f"status_{name}" for name in Options.model_fields}
    program = (ROOT / "deploys/fleet/__main__.py").read_text()
    assert all(f'"{spans(row[2])[0]}"' in program for row in options if len(row) == 4)
    codes = {int(row[0]) for row in options if len(row) == 2}
    assert codes == {1, 2} | {severity.exit_code for severity in Severity}


def test_the_steps_of_a_node_are_listed_in_their_order() -> None:
    shown = [row[0] for row in rows(section("docs/operate.md", "What a deploy does to a host"))]
    assert shown == runbook.steps("deploys/node.py")


def test_the_steps_of_a_host_without_a_node_are_listed_in_their_order() -> None:
    assert [row[0] for row in rows(section("docs/gpu-host.md", "What it does"))] == runbook.steps("deploys/gpu_host.py")


def test_the_steps_of_the_undo_are_listed_in_their_order() -> None:
    assert [row[0] for row in rows(section("docs/undo.md", "What it does"))] == runbook.steps("deploys/undo.py")


def test_the_files_on_a_node_are_those_that_are_written() -> None:
    shown = rows(section("docs/files-on-a-node.md", "What a deploy writes"))
    assert shown == [[f"`{each.path}`", each.mode, each.consumer] for each in manifest.MANAGED]


def test_the_arguments_that_are_refused_defeat_a_node() -> None:
    whole = section("docs/boot-line.md", "What is refused before anything is changed")
    named = [span for row in rows(whole) for span in spans(row[0].partition(", unless")[0])]
    assert len(named) > 15
    for argument in named:
        full = argument + {"systemd.mask=": "gevulot-node.service"}.get(argument, "vfio_init,vfio_pci")
        line = [full if argument.endswith("=") else argument]
        assert any(defeats(line, table, "vmx") for table in ("DMAR", "IVRS")), argument
    harmless = re.search(r"\n(`iommu=soft`.*?) do not defeat", whole, re.DOTALL)
    assert harmless is not None
    assert defeats(spans(harmless[1]), "DMAR", "vmx") == ()


def test_the_ports_are_the_defaults() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    ports = {value.port for value in defaults.values() if isinstance(value, Endpoint)}
    ports |= {value for name, value in defaults.items() if name.endswith("_port")}
    shown = section("docs/explanation/security.md", "What listens")
    assert ports <= {int(number) for row in rows(shown) for number in re.findall(r"\b\d{4}\b", row[0])}


def test_arguments_of_pyinfra_are_refused_or_allowed_as_the_page_says() -> None:
    values = {"_shell_executable": "/bin/zsh", "_env": {"PATH": "/x"}, "_stdin": "x", "_timeout": 5,
              "_success_exit_codes": [1]}  # fmt: skip
    whole = section("docs/connections.md", "Root and sudo")
    refused = [span for row in rows(whole) for span in spans(row[0]) if span.startswith("_")]
    assert len(refused) > 10
    for name in refused:
        assert execution.judge({name: values.get(name, True)}, Config()), name
    allowed = {"_env": {"https_proxy": "http://proxy.example.com:3128"}, "_temp_dir": "/x", "_retries": 2}
    named = spans(whole.rpartition("\n\n`_env` with other")[2])
    assert len(named) > 5
    for name in named:
        assert execution.judge({name: allowed.get(name, 1)}, Config()) == [], name


def test_the_helpers_tables_are_its_commands_exit_codes_and_guards() -> None:
    table = rows(text(HELPER))
    shown = [span for row in table for span in spans(row[0])[:1]]
    assert {span.split()[1] for span in shown if span.startswith("pcibind ")} == set(cli.commands)
    codes = {int(row[0]): row[1] for row in table if row[0].isdecimal()}
    assert codes == {int(number): meaning for number, meaning in MEANINGS.items()}
    guards = {spans(row[0])[0] for row in rows(section(HELPER, "Guards"))}
    assert guards == {*OVERRIDABLE_GUARDS, "vfio-open"}


def test_the_refusals_of_one_host_name_guards_that_exist() -> None:
    for row in rows(section("docs/refusals.md", "Of one host")):
        for name in re.findall(r"\(`([a-z-]+)`", row[0]):
            assert name in {*OVERRIDABLE_GUARDS, *FIXED_GUARDS}, name


@pytest.mark.parametrize(
    "heading",
    ["Before any host is changed", "The preflight refuses", "The node does not stay up",
     "Virtual machine from the node's image", "Ports from outside: not judged"],
)  # fmt: skip
def test_every_sentence_that_is_explained_can_be_printed(heading: str) -> None:
    for row in rows(section("docs/troubleshooting.md", heading)):
        for sentence in spans(row[0]):
            assert documents.is_printed(sentence), sentence


def test_every_row_that_is_explained_can_be_in_a_table() -> None:
    shown = rows(section("docs/troubleshooting.md", "Row by row"))
    assert len(shown) > 10
    for row in shown:
        for name in spans(row[0]):
            assert runbook.is_row(name), name


# --- sample output


def test_a_failed_row_is_shown_as_it_is_printed() -> None:
    shown = section("docs/troubleshooting.md", "Rows that fail").partition("    FAIL ")[2]
    sample = " ".join(shown.split("\n\n")[0].split())
    row = re.fullmatch(r"(\S+) (.+) \(expected (.+)\)", sample)
    assert row is not None
    made = checks.table("gpu1", [checks.Check(row[1], row[2], False, row[3])])
    assert " ".join(made[1].split()) == f"FAIL {sample}"
    assert documents.is_printed("no discovery peer answers")


def test_a_wait_is_shown_as_it_is_printed() -> None:
    hosts = [f"gpu{number}" for number in range(1, 301)]
    sample = section("docs/connections.md", "Long waits")
    for names, what, limit, seconds in (
        (hosts[:2], "Pull images | Pull the image of the node", None, 90),
        (hosts[2:3], "an answer over SSH after the reboot", 900, 150),
        (hosts[3:], "the rolling reboot", None, 151),
    ):
        heartbeat = Heartbeat()
        for name in names:
            heartbeat.add(name, name, what, limit)
        (line,) = heartbeat.lines(time.monotonic() + seconds)
        assert f"    {line}\n" in sample


def test_the_demo_is_shown_as_it_is_printed() -> None:
    (sample,) = documents.blocks(section("docs/lab.md", "The demo"), "console")
    first, end = sample.index("What was verified on demo:"), len(sample) - 1
    table = [re.fullmatch(r"  (ok  |FAIL|    ) (.+?)  +(.+)", line) for line in sample[first + 1 : end - 1]]
    marks = {"ok  ": True, "FAIL": False, "    ": None}
    assert all(table)
    made = [checks.Check(row[2], row[3], marks[row[1]]) for row in table if row]
    assert checks.table("demo", made) == sample[first:end]
    for check in made:
        assert runbook.is_row(check.name), check.name


def test_the_demo_shows_the_steps_in_their_order() -> None:
    (sample,) = documents.blocks(section("docs/lab.md", "The demo"), "console")
    start = next(number for number, line in enumerate(sample) if line.startswith("now exactly"))
    phases = [line for line in sample if re.fullmatch(r"  \S.{71}[ \d]{4} s", line)]
    names = [line[:74].strip().removesuffix(" …") for line in phases]
    first = next(number for number, line in enumerate(phases) if line in sample[start:])
    steps = iter(runbook.steps("deploys/node.py"))
    assert all(name in steps for name in names[first + 1 :]), names
    program = (ROOT / "tests/lab/demo.py").read_text()
    assert all(name.partition(", emulated")[0] in program for name in names[: first + 1])


# --- records and rules


def test_every_decision_says_what_why_and_what_follows_and_is_listed() -> None:
    index = {target for target, _ in documents.links(ROOT / "docs/decisions/README.md")}
    for page in (ROOT / "docs/decisions").glob("[a-z]*.md"):
        assert page in index, page
        parts = re.findall(r"^\*\*(\w+)\.\*\*", text(page), re.MULTILINE)
        assert parts == ["Decision", "Reason", "Consequence"], page


def test_the_rules_are_numbered_one_after_the_other() -> None:
    numbers = [int(each) for each in re.findall(r"^(\d+)\. ", section("CONTRIBUTING.md", "Rules"), re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_there_is_a_recipe_for_each_thing_that_people_add() -> None:
    for thing in ("fact", "operation", "step", "setting", "platform", "topology", "history"):
        article = "an" if thing[0] in "aeio" else "a"
        assert section("CONTRIBUTING.md", f"Add {article} {thing}").strip(), thing


@pages
def test_the_words_are_plain(page: Path) -> None:
    """Rule 15 of CONTRIBUTING."""
    prose = re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```$", "", text(page), flags=re.MULTILINE | re.DOTALL))
    assert re.findall(r"\b(?:for good|no more|at all|in vain|amiss|whoever|mend|mended|slips?)\b", prose) == []
