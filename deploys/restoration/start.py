"""The start of an undo: the host's record, what deploys left, and what forbids the undo. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from pyinfra import host, logger

from deploys import library, manifest
from deploys.assessment import comparison, legacy_files, reboot_attempt
from deploys.assessment.pending_reboot import left_over
from deploys.assessment.platforms import Family, Unsupported, family_of, generator_of
from deploys.inputs.spelling import suggest
from deploys.manifest import FORMER_NAMES, RECORD, STATE_DIRECTORIES, STATE_DIRECTORY
from deploys.preflight.key import FINGERPRINT
from deploys.settings import PREFIX, Settings, read
from deploys.steps.preflight import Refused, settings_of_this_run
from deploys.transport import heartbeat, login
from deploys.transport.connection import prepare
from facts.baseline import Baseline, BaselineRecord, DeployRemains
from facts.failures import PreexistingFailures
from facts.file import FileTexts
from facts.kernel import KernelCommandLine
from facts.paths import ExistingPaths
from facts.pci import PciTopology
from facts.platform import HostPlatform, Platform
from facts.requests import BoardRequests
from pcibind.model.errors import ConfigError
from pcibind.model.request import Selector
from pcibind.read import configuration
from pcibind.read.files import Paths

REQUEST = manifest.PCIBIND_BOARDS.path
# In /run, so that it says of this boot alone that driver overrides were set before any driver was loaded.
EARLY_DONE = f"{Paths().run}/early.done"
# What a deployed host has at any moment of a deploy or an undo that has gone beyond the record.
_TRACES = (REQUEST, legacy_files.REQUEST, library.DIRECTORY, manifest.MIGRATION_SERVICE.path, Paths().record)
# The keys of host data that an undo reads. No other wrong key may prevent it.
_KEYS = tuple(f"{PREFIX}{key}" for key in ("reboot", "reboot_timeout", "reboot_batch", "storage_directory"))
_PASSPHRASE = f"{PREFIX}psk_passphrase"


@dataclass(frozen=True, slots=True)
class Undo:
    """One host of an undo, a node or a host without one.

    ``others`` are the files that its operator put into pcibind's configuration, ``requested`` the boards that ours
    asks for.
    """

    settings: Settings
    family: Family
    past: Baseline
    others: tuple[str, ...]
    requested: frozenset[Selector]
    # Units of others that had failed before the undo.
    failed_before: tuple[str, ...] = ()
    # Files of an earlier version that are still ours.
    former: tuple[str, ...] = ()
    # Whether the host is a node, or was one: then there is data of it.
    has_node: bool = True

    def path(self, path: str) -> str:
        """What a file of today's manifest is called on this host."""
        return legacy_files.name_of(self.past, path)

    def paths(self, paths: Iterable[str]) -> tuple[str, ...]:
        """What files of today's manifest are called on this host, without those that no deploy wrote here."""
        return legacy_files.names_of(self.past, paths)

    @property
    def requests(self) -> tuple[str, ...]:
        """Our files of pcibind's configuration. A killed move to today's names leaves the former one."""
        return (self.path(REQUEST), *(path for path in self.former if path == legacy_files.REQUEST))

    @property
    def drop_ins(self) -> tuple[str, ...]:
        """Our files of GRUB's, the same way."""
        return (self.path(manifest.GRUB_DROP_IN.path), *(path for path in self.former if path == legacy_files.DROP_IN))

    @property
    def former_modules(self) -> tuple[str, ...]:
        """The rest of ``former``, which goes before the boards do."""
        return tuple(path for path in self.former if path not in (legacy_files.REQUEST, legacy_files.DROP_IN))

    @property
    def notes(self) -> tuple[str, ...]:
        """What deploys and undos noted of their own runs. An undo writes to today's directory, with either record."""
        today = (reboot_attempt.FILE, manifest.FAILED_UNITS, manifest.RENAMING)
        return (*today, *map(manifest.former_path, today)) if self.past.is_former else today

    def reasons(self) -> list[str]:
        """Why the current host, which is this one, still needs a reboot."""
        acted = not self.others and bool(host.get_fact(ExistingPaths, paths=(EARLY_DONE,)))
        return left_over(
            host.get_fact(KernelCommandLine, drop_in=manifest.GRUB_DROP_IN.path),
            self.past.command_line,
            acted,
            self.past.arguments,
        )

    def steps_after_reboot(self) -> AbstractContextManager[None]:
        """The steps that make sense only when no reboot is pending."""
        return host.when(lambda: not self.reasons()) if self.settings.reboot == "never" else nullcontext()


def relevant(data: Mapping[str, Any]) -> dict[str, Any]:
    """The host data that an undo reads, mistyped keys included: one of them may forbid the reboot."""
    bare = [key.removeprefix(PREFIX) for key in _KEYS]
    names = [*_KEYS, *(PREFIX + key for key in Settings.model_fields)]

    def is_meant(key: str) -> bool:
        return key in bare or suggest(key, names) in _KEYS

    # The settings cannot be read without the passphrase, which an undo does not need.
    return {key: value for key, value in data.items() if is_meant(key)} | {_PASSPHRASE: "not read by an undo"}


def _read(name: str, data: Mapping[str, Any]) -> Settings:
    return read(name, relevant(data))


def tools_of(platform: HostPlatform) -> Family | str:
    """How to manage the host, or why that is not known. A distribution that deploys refuse by now can be undone."""
    family = family_of(platform)
    if isinstance(family, Family):
        return family
    boot = "grubby" if "grubby" in platform.tools else "grub" if "update-grub" in platform.tools else None
    if boot is None:
        return (
            f"{platform.name or 'the host'} has no tool that restores its kernel arguments; expected "
            "update-grub or grubby. Install the one that it had when it was deployed."
        )
    try:
        initramfs = generator_of(platform)
    except Unsupported as error:
        return str(error)
    return Family(platform.name, "dnf" if "dnf" in platform.tools else "apt", initramfs, boot)


def prepare_undo() -> Undo | None:
    """Check the data of every host of the run, then look at what this host was and is.

    Returns ``None`` for a host that was never deployed: it is already what an undo would make of it, and an operator
    who undoes a whole inventory wants no error from it. Raises ``Refused``, which ends the run for all hosts.
    """
    settings = settings_of_this_run(_read)[host.name]
    prepare(host)
    heartbeat.get_heartbeat(host.state)
    if problem := login.check_login(host):
        raise _refused(problem)
    remains = host.get_fact(BaselineRecord, directories=STATE_DIRECTORIES, traces=_TRACES)
    platform = host.get_fact(Platform, directory=settings.storage_directory)
    if remains is None or platform is None:
        raise Refused(f"{host.name}: its record could not be read; no host was changed. See the error above.")
    if not remains.privileged:
        raise _refused(f"{STATE_DIRECTORY} can be read by root only. Connect as root, or with sudo (_sudo: True).")
    past = remains.past
    if remains.damaged:
        raise _refused(legacy_files.damaged(remains))
    if past is None:
        if remains.traces:
            raise _refused(
                f"{RECORD} is missing, but {', '.join(remains.traces)} exists; expected the record of what the host "
                "was before its first deploy. Restore it from a backup: nothing else has the previous state. "
                "`pcibind release` returns the boards to their drivers."
            )
        logger.info(f"{host.print_prefix}was never deployed ({RECORD} does not exist): nothing to undo.")
        return None
    if not remains.archive:
        raise _refused(
            f"{past.archive} is missing; expected the files that the host had before its first deploy beside its "
            "record. Restore it from a backup, or make an empty one if there were none: tar -cf "
            f"{past.archive} -T /dev/null"
        )
    family = tools_of(platform)
    if isinstance(family, str):
        raise _refused(family)
    texts = host.get_fact(FileTexts, paths=legacy_files.ASKED)
    # On a host that only earlier versions deployed, their names are those of the files themselves.
    own = [legacy_files.name_of(past, path) for path in FORMER_NAMES]
    former = tuple(path for path in legacy_files.ours(texts, past) if path not in own)
    requests = (legacy_files.name_of(past, REQUEST), *(path for path in former if path == legacy_files.REQUEST))
    others, requested = _requests(host.get_fact(BoardRequests), requests)
    for warning in comparison.hardware(past, host.get_fact(PciTopology)):
        logger.warning(f"{host.print_prefix}{warning}")
    if others:
        logger.warning(
            f"{host.print_prefix}pcibind stays, with its boot files, because no deploy wrote {', '.join(others)}; only "
            "the boards of the deploy return to their drivers. The kernel arguments are removed: another user of the "
            "IOMMU has to set its own."
        )
    failed = host.get_fact(
        PreexistingFailures, records=(manifest.FAILED_UNITS, manifest.former_path(manifest.FAILED_UNITS))
    )
    return Undo(settings, family, past, others, requested, failed, former, _has_node(remains, past, settings))


def _refused(reason: str) -> Refused:
    return Refused(f"{host.name} cannot be undone, and no host was changed: {reason}")


def _has_node(remains: DeployRemains, past: Baseline, settings: Settings) -> bool:
    """Whether a node was deployed here, at any time: an undo removes that word, and leaves the node's data."""
    if remains.deployed == manifest.AS_NODE or past.is_former:
        return True
    return bool(host.get_fact(ExistingPaths, paths=(settings.storage_directory, FINGERPRINT)))


def _requests(files: dict[str, str], requests: tuple[str, ...]) -> tuple[tuple[str, ...], frozenset[Selector]]:
    """The files of pcibind's configuration that are not ours, and the boards that ours (``requests``) ask for."""
    others = tuple(sorted(path for path in files if path not in requests))
    ours = [(path, files[path]) for path in requests if others and path in files]
    try:
        return others, frozenset(board.selector for board in configuration.parse(ours).boards)
    except ConfigError as error:
        raise _refused(f"which boards are the node's is not known: {error}") from None
