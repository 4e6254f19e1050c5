"""The command line: `pcibind plan | apply | status | release`."""

from __future__ import annotations

from collections.abc import Callable

import click

from pcibind import __version__
from pcibind.change import setup as boot_setup
from pcibind.commands import apply as applying
from pcibind.commands import boot
from pcibind.commands import plan as judge
from pcibind.commands import release as releasing
from pcibind.commands import status as looking
from pcibind.commands import text as tree
from pcibind.commands.attempt import attempt
from pcibind.commands.host import Host
from pcibind.model import record
from pcibind.model.errors import MEANINGS, ExitCode, RecordError
from pcibind.model.report import Report
from pcibind.read.paths import Paths

_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:d}  {MEANINGS[code]}" for code in ExitCode)
_SETTINGS = {"help_option_names": ["-h", "--help"]}

_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, schema pcibind/1.")


def _complete_recorded(context: click.Context, _: click.Parameter, word: str) -> list[str]:
    """Names (else paths) of the boards on record that begin with `word`."""
    root = context.find_root().params.get("root") or ""
    try:
        known = record.read(Paths(root).record) or record.Record()
    except RecordError:
        return []
    labels = dict.fromkeys(board.label for board in (*known.boards, *known.leaving))
    return [label for label in labels if label.startswith(word)]


@click.group(context_settings=_SETTINGS, epilog=_CODES)
@click.option("--root", default="", hidden=True)
@click.version_option(__version__, prog_name="pcibind")
@click.pass_context
def cli(context: click.Context, root: str) -> None:
    """Hand whole PCI boards to vfio-pci, prove it, and say which devices to use."""
    context.obj = Host(Paths(root), udev=True)


@cli.command(epilog=_CODES)
@_json
@click.pass_obj
def plan(host: Host, as_json: bool) -> None:
    """Show what apply would do; change nothing."""
    _answer("plan", lambda: judge.show(host), as_json)


@cli.command(epilog=_CODES)
@click.option("--next-boot", is_flag=True, help="Check and record only; touch no driver.")
@click.option("--recorded", is_flag=True, help="Bind what is on record only, as at boot.")
@_json
@click.pass_obj
def apply(host: Host, next_boot: bool, recorded: bool, as_json: bool) -> None:
    """Bring the host to its configuration: check, record, bind, prove, hand over."""
    if next_boot and recorded:
        raise click.UsageError("--next-boot and --recorded exclude each other")
    if recorded:
        _answer("apply", lambda: boot.apply_recorded(host), as_json)
    else:
        _answer("apply", lambda: applying.apply(host, next_boot=next_boot), as_json)


@cli.command(epilog=_CODES)
@click.option("--all", "everything", is_flag=True, help="Show the boards too that are not chosen.")
@_json
@click.pass_obj
def status(host: Host, everything: bool, as_json: bool) -> None:
    """Show how the chosen boards stand; change nothing."""
    _answer("status", lambda: looking.status(host, everything=everything), as_json)


@cli.command(epilog=_CODES)
@click.argument("board", nargs=-1, shell_complete=_complete_recorded)
@_json
@click.pass_obj
def release(host: Host, board: tuple[str, ...], as_json: bool) -> None:
    """Give all boards, or those named, back to the drivers they had before.

    BOARD is a name, a path, or the address that the board had when it was chosen.
    """
    _answer("release", lambda: releasing.release(host, board), as_json)


@cli.command(epilog=_CODES)
@click.option("--remove", is_flag=True, help="Remove them again.")
@click.pass_obj
def setup(host: Host, remove: bool) -> None:
    """Write what a boot needs: udev rule, early script, initramfs hook, and the unit."""
    try:
        said = boot_setup.remove(host.paths) if remove else boot_setup.install(host.paths)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    click.echo("\n".join(said))


def _answer(command: str, run: Callable[[], Report], as_json: bool) -> None:
    report = attempt(command, run)
    click.echo(report.to_json() if as_json else tree.text(report))
    raise SystemExit(int(report.exit_code))


def main() -> None:
    """Run the command line and exit with its code."""
    cli(prog_name="pcibind")
