"""The command line. Lines without anything to parse, as those of units, are run by `__main__`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from pcibind import __version__
from pcibind.commands.apply import apply as apply_configuration
from pcibind.commands.boot import apply_recorded
from pcibind.commands.plan import show as show_plan
from pcibind.commands.release import release as release_boards
from pcibind.commands.status import status as show_status
from pcibind.commands.system import System
from pcibind.commands.text import answer, attempt, print_tracebacks
from pcibind.model.errors import MEANINGS, ExitCode, PcibindError, RecordError, describe_os_error
from pcibind.model.record import Record
from pcibind.model.report import Report
from pcibind.model.request import OVERRIDABLE_GUARDS
from pcibind.read import files
from pcibind.read.files import Paths

_CODES = "\b\nExit codes:\n" + "\n".join(f"  {code:d}  {MEANINGS[code]}" for code in ExitCode)
_GUARDS = click.Choice(OVERRIDABLE_GUARDS)
_USAGE = ExitCode.CONFIGURATION
_SETTINGS = {"help_option_names": ["-h", "--help"]}

_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, schema pcibind/1.")


def _set_debug(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        print_tracebacks()


_debug = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Print the traceback of an unexpected error.",
)


def _report_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that answers with a report."""
    return _json(_debug(command))


def _complete_recorded(context: click.Context, _: click.Parameter, word: str) -> list[str]:
    """Names (else paths) of the boards on record that begin with `word`."""
    root = context.find_root().params.get("root") or ""
    try:
        known = files.read_record(Paths(root)) or Record()
    except RecordError:
        return []
    labels = dict.fromkeys(board.label for board in (*known.boards, *known.leaving))
    return [label for label in labels if label.startswith(word)]


@click.group(context_settings=_SETTINGS, epilog=_CODES)
@click.option("--root", default="", hidden=True)
@_debug
@click.version_option(__version__, prog_name="pcibind")
@click.pass_context
def cli(context: click.Context, root: str) -> None:
    """Bind whole PCI boards to vfio-pci, check the result, and publish the devices to use."""
    context.obj = System(Paths(root))


@cli.command(epilog=_CODES)
@_report_options
@click.pass_obj
def plan(system: System, as_json: bool) -> None:
    """Show what apply would do; change nothing."""
    _answer("plan", lambda: show_plan(system), as_json)


@cli.command(epilog=_CODES)
@click.option("--next-boot", is_flag=True, help="Check and record only; change no driver.")
@click.option("--recorded", is_flag=True, help="Bind the recorded boards only, as at boot.")
@_report_options
@click.pass_obj
def apply(system: System, next_boot: bool, recorded: bool, as_json: bool) -> None:
    """Bind the configured boards; restore those no longer configured.

    The boards are checked and recorded first. Afterwards the result is verified, and published in
    /run/pcibind.
    """
    if next_boot and recorded:
        raise click.UsageError("--next-boot and --recorded exclude each other")
    if recorded:
        # Only with --root: `__main__` recognises the command line of a unit before this is loaded.
        _answer("apply", lambda: apply_recorded(system), as_json)
    else:
        _answer("apply", lambda: apply_configuration(system, next_boot=next_boot), as_json)


@cli.command(epilog=_CODES)
@click.option("--all", "everything", is_flag=True, help="Also show the boards that are not chosen.")
@_report_options
@click.pass_obj
def status(system: System, everything: bool, as_json: bool) -> None:
    """Show the state of the chosen boards; change nothing."""
    _answer("status", lambda: show_status(system, everything=everything), as_json)


@cli.command("list", epilog=_CODES)
@_report_options
@click.pass_obj
def list_(system: System, as_json: bool) -> None:
    """List all boards, whether they are chosen, and their known users."""
    from pcibind.commands import selection

    _answer("list", lambda: selection.show(system), as_json)


@cli.command(epilog=_CODES)
@click.argument("address", nargs=-1, required=True)
@click.option("--name", help="Name of the board; for a single ADDRESS.")
@click.option("--allow", multiple=True, type=_GUARDS, help="Override this guard; may be repeated.")
@_report_options
@click.pass_obj
def add(
    system: System,
    address: tuple[str, ...],
    name: str | None,
    allow: tuple[str, ...],
    as_json: bool,
) -> None:
    """Choose boards in /etc/pcibind/added.toml; bind nothing.

    ADDRESS is an address as lspci prints it, or a path as `pcibind list` shows it.
    """
    from pcibind.commands import selection

    _answer("add", lambda: selection.add(system, address, name=name, allow=allow), as_json)


@cli.command(epilog=_CODES)
@click.argument("board", nargs=-1, required=True, shell_complete=_complete_recorded)
@_report_options
@click.pass_obj
def remove(system: System, board: tuple[str, ...], as_json: bool) -> None:
    """Remove boards from the file that `add` writes; restore nothing.

    BOARD is a name, an address or a path. The next `pcibind apply` restores the original drivers.
    """
    from pcibind.commands import selection

    _answer("remove", lambda: selection.remove(system, board), as_json)


@cli.command(epilog=_CODES)
@click.argument("board", nargs=-1, shell_complete=_complete_recorded)
@_report_options
@click.pass_obj
def release(system: System, board: tuple[str, ...], as_json: bool) -> None:
    """Restore the original drivers of all boards, or of those named.

    BOARD is a name, a path, or an address; for an absent board, the address it had when chosen. The
    configuration stays: the next `pcibind apply` binds its boards again.
    """
    _answer("release", lambda: release_boards(system, board), as_json)


@cli.command(epilog=_CODES)
@click.option("--remove", is_flag=True, help="Remove these files.")
@_debug
@click.pass_obj
def setup(system: System, remove: bool) -> None:
    """Install the boot files, and print what to run next.

    These are the udev rule, the early script, the initramfs hook, and the units.
    """
    # Its imports cost as much as all of the other commands'.
    from pcibind.change import setup as boot_setup

    try:
        # The lock tells the new rule that the host is no longer booting.
        with system.locked():
            lines = boot_setup.remove(system.paths) if remove else boot_setup.install(system.paths)
    except PcibindError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {describe_os_error(error)}") from error
    click.echo("\n".join(lines))


def _answer(command: str, run: Callable[[], Report], as_json: bool) -> None:
    answer(attempt(command, run), as_json=as_json)


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        cli(prog_name="pcibind", standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.option_name == "--json":
            # What click would suggest in its place helps nobody.
            error = click.UsageError("--json stands after the command; setup has none.", error.ctx)
        if "--json" in sys.argv:
            command = next((word for word in sys.argv[1:] if word in cli.commands), "")
            wrong = Report(command, errors=(error.format_message(),), error_code=_USAGE)
            answer(wrong, as_json=True)
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
