"""The stage: a state that takes minutes to reach, reached once, from which other machines start in seconds.

What was observed on the way is kept with it, so that tests of the deploy itself need no second one.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.lab import accelerator, cache, emulator, inventory, journal, record
from tests.lab.image import ensure as ensure_image
from tests.lab.machine import Machine, MachineError
from tests.lab.progress import Progress, silent, step
from tests.lab.qemu import Hardware, processors
from tests.lab.qmp import QmpError
from tests.lab.topology import named

ROOT: Final = Path(__file__).parents[2]
SNAPSHOT: Final = "stage"

_DEPLOY: Final = ("deploys", "facts", "inventories", "helpers/pcibind/src", "requirements.lock")
_LAB: Final = tuple(f"tests/lab/{name}.py" for name in ("inventory", "run", "stage", "qemu"))
"""What decides, besides the machine, what a deploy does: every file that it pushes or runs."""

_MEMORY_MIB: Final = 4096
_DISK: Final = "disk.qcow2"
_NOTES: Final = "notes.json"


class StageFailed(MachineError):
    """Another process of this run failed to reach the stage, and has reported why."""


@dataclass(frozen=True)
class Stage:
    """How to reach it: `play` is run on a bare machine of a topology; it returns what it observed, JSON-serialisable.

    `source` is the file that `play` is in: with another text of it, it is another stage.
    """

    name: str
    topology: str
    source: Path
    play: Callable[[Machine, Progress], dict[str, Any]]


@dataclass(frozen=True)
class Kept:
    """A stage that was reached: its disk, its hardware, the records of the way, and when, as of `time.time`.

    Its disk holds the snapshot `SNAPSHOT`; where the hardware cannot be saved it boots instead.
    """

    name: str
    disk: Path
    hardware: Hardware
    records: dict[str, Any]
    snapshot: str | None
    at: float


def ensure(stage: Stage, registry: Path, progress: Progress = silent) -> Kept:
    """Return the stage, played now when the cache has none of these inputs.

    Another process that plays it is waited for. Raises what `play` raises, and then keeps nothing.
    """
    image = ensure_image(progress)
    hardware = Hardware(named(stage.topology), _MEMORY_MIB, processors(), accelerator.choose(progress))
    inputs = [digest_of(ROOT / each) for each in (*_DEPLOY, *_LAB)] + [digest_of(stage.source)]
    inputs += [inventory.passphrase(), os.environ.get("GEVULOT_LAB_USER", "root")]
    key = cache.digest(image.digest, emulator.ensure().version, *hardware.arguments(), registry.name, *inputs)
    home = cache.directory() / "stages" / f"{stage.name}-{key}"
    with cache.locked(home):
        if not cache.holds(home):
            failed = _Failure(home.with_name(f"{home.name}.failed"))
            failed.raise_for_this_run(stage.name)
            try:
                with step(progress, f"building the stage {stage.name}", takes="some minutes"):
                    _play(stage, home, registry, progress)
            except Exception as error:
                failed.note(error)
                raise
    notes = json.loads((home / _NOTES).read_text())
    return Kept(stage.name, home / _DISK, hardware, **notes)


def start(kept: Kept, registry: Path, progress: Progress = silent) -> Machine:
    """Return a machine of its own in the state of a stage. Raises MachineError."""
    reached = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.at))
    with step(progress, f"starting from the stage {kept.name}, built {reached} from the same inputs"):
        return Machine.from_disk(kept.disk, kept.hardware, snapshot=kept.snapshot, registry=registry)


class _Failure:
    """That a stage failed in this run, for the other processes of it: they would only fail the same way again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._run = os.environ.get(journal.VARIABLE, "")

    def note(self, error: Exception) -> None:
        """Note that it failed with this error."""
        reason = (str(error).splitlines() or [""])[0]
        self._path.write_text(json.dumps([self._run, f"{type(error).__name__}: {reason}"]))

    def raise_for_this_run(self, name: str) -> None:
        """Raise StageFailed when another process of this run has noted a failure."""
        if self._run and self._path.exists():
            with suppress(ValueError):
                run, reason = json.loads(self._path.read_text())
                if run == self._run:
                    raise StageFailed(f"the stage {name} failed in this run already: {reason}")
        self._path.unlink(missing_ok=True)


def _play(stage: Stage, home: Path, registry: Path, progress: Progress) -> None:
    name = record.fresh(stage.name)
    with Machine.start(
        stage.topology, name=name, memory_mib=_MEMORY_MIB, registry=registry, progress=progress
    ) as machine:
        records = stage.play(machine, progress)
        snapshot: str | None = SNAPSHOT
        try:
            machine.snapshot(SNAPSHOT)
        except QmpError as error:
            progress(f"{stage.name} must be booted each time: {error}")
            snapshot = None
            machine.shutdown()
        else:
            with machine.monitor() as monitor:
                monitor.command("stop")
            machine.power_cut()
        half = cache.unfinished(home)
        half.mkdir()
        (half / _NOTES).write_text(json.dumps({"records": records, "snapshot": snapshot, "at": time.time()}))
        machine.disk.rename(half / _DISK)
        half.rename(home)
        shutil.rmtree(machine.directory, ignore_errors=True)


def digest_of(path: Path) -> str:
    """Return a digest of a file, or of all files below a directory with their names, Python's own left out."""
    files: Iterable[Path] = sorted(path.rglob("*")) if path.is_dir() else [path]
    parts = []
    for each in files:
        if each.is_file() and "__pycache__" not in each.parts and not each.parent.name.endswith(".egg-info"):
            parts += [str(each.relative_to(path)), each.read_bytes().hex()]
    return cache.digest(*parts)
