"""Why the node does not stay up, in one line, and what its operator does next. Pure.

The cause is what the last run that ended wrote last, matched with what is known of the node, Podman and Postgres. A
unit that the node requires, and that fails or waits, is named instead: then the node's own lines are of an earlier run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from deploys import duration
from deploys.assessment.checks import Check
from deploys.manifest import GPU_DEVICES, KEY_UNIT, MIGRATION_UNIT, NODE_CONTAINER, NODE_UNIT
from deploys.settings import Settings
from facts.runs import JournalLine, Runs, UnitRun

# A unit has recovered when it has run for this many of its own intervals between starts, limited to these seconds.
_INTERVALS = 3
_SHORTEST, _LONGEST = 60.0, 300.0
# Seconds after which a unit that the node requires, and that is still starting, is named as the cause.
_WAITING = 60
# Characters and lines that are quoted.
_QUOTE = 200
_LINES = 5


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a unit does not stay up: the cause and its state (``problem``), the next step, and the lines it wrote last.

    ``unit`` is the one that wrote them: a unit that the asked one requires, where that one is the reason.
    """

    problem: str
    step: str
    looping: bool = False
    lines: tuple[str, ...] = ()
    unit: str = NODE_UNIT


@dataclass(frozen=True, slots=True)
class _Cause:
    """A cause by what the lines say. ``{…}`` of the texts are groups of the pattern and settings."""

    pattern: re.Pattern[str]
    text: str
    step: str


def _cause(pattern: str, text: str, step: str) -> _Cause:
    return _Cause(re.compile(pattern, re.IGNORECASE), text, step)


_DATABASE = "see `journalctl -u gevulot-postgres -u gevulot-migrate`, or the server that gevulot_postgres_url names"
_SECCOMP = "set gevulot_seccomp_profile to a profile that allows AF_VSOCK, and run deploys/node.py"
_VSOCK_MODULES = (
    "load them (`modprobe -a vsock vhost_vsock`), and see why /etc/modules-load.d/gevulot-node.conf did not"
)
_KEY = "see `journalctl -u gevulot-key`; if {key} is lost, restore it from your backup"
_PEERS = "correct gevulot_p2p_discovery ({peers}) or unset it, and run deploys/node.py"
_IMAGE = "check gevulot_node_image and gevulot_postgres_image, and that the host reaches the registry"
_DEPENDENCY = re.compile(r"Dependency failed for|failed with result 'dependency'")
# The first that fits is the cause.
_CAUSES = (
    _cause(r"failed to connect to any P2P node", "no discovery peer answers", _PEERS),
    _cause(
        r"initializing source|pinging container registry|unable to pull|manifest unknown|image not known",
        "its image cannot be pulled",
        _IMAGE,
    ),
    _cause(
        r"vsock.*(code: (1|13|22|38)\b|not permitted|permission denied|invalid argument|not implemented)",
        "the container's seccomp profile refuses vsock",
        _SECCOMP,
    ),
    _cause(
        r"vsock.*(code: 98|in use)", "its vsock port {vsock_port} is taken",
        "end the program that listens there, or set gevulot_vsock_listen_port",
    ),
    _cause(
        r"(stat|device|gathering|open)\b.*?(?P<device>/dev/[\w/.-]*v(?:host-v)?sock)\b", "{device} is missing",
        _VSOCK_MODULES,
    ),
    _cause(
        r"vsock.*(code: (2|6|19|97)\b|no such|not supported)",
        "the kernel has no vsock: the module vsock or vhost_vsock is missing",
        _VSOCK_MODULES,
    ),
    _cause(r"panicked.*vsock", "it gets no vsock", f"{_VSOCK_MODULES}; or {_SECCOMP}"),
    _cause(
        r"(stat|device|gathering|open)\b.*?(?P<device>/dev/vfio/\S*?)[\s:\"']+.*no such", "{device} is missing",
        "see `pcibind status` on the host",
    ),
    _cause(
        r"(stat|device|gathering|open)\b.*?(?P<device>/dev/[\w/.-]+)[\s:\"']+.*no such", "{device} is missing",
        "see why the host has no such device (for /dev/kvm: virtualisation in the firmware)",
    ),
    _cause(_DEPENDENCY.pattern, "a unit that it requires failed", "see `systemctl --failed` on the host"),
    _cause(
        r"node\.key\b|node key|private key|secret key|invalid key|expected a key", "it does not get its key", _KEY
    ),
    _cause(
        r"password authentication failed|no pg_hba\.conf entry|peer authentication failed|no password supplied|"
        r"role .* (does not exist|is not permitted)",
        "the database refuses the login",
        "run deploys/node.py, which sets the password again; or correct gevulot_postgres_url",
    ),
    _cause(
        r"migration \d+ was previously applied but is missing", "its image is older than the database",
        "set gevulot_node_image to the image that ran last or to a newer one, and run deploys/node.py",
    ),
    _cause(
        r"migration \d+ (is partially applied|was previously applied but has been modified)",
        "the database's record of migrations does not fit the image",
        "see `journalctl -u gevulot-migrate`; the table _sqlx_migrations has the record",
    ),
    _cause(
        r"permission denied for|must be owner of", "the database's role may not do this",
        "give the role of gevulot_postgres_url all rights on its database and on the schema public",
    ),
    _cause(
        r"unrecognized subcommand|invalid choice: 'migrate'|executable file .* not found",
        "its image does not know this command, so it is no image of a node",
        "correct gevulot_node_image, and run deploys/node.py",
    ),
    _cause(
        r"relation .* does not exist|migration \d+ (is|was) ", "the database is not migrated",
        "see `journalctl -u gevulot-migrate`",
    ),
    _cause(r"database \S+ does not exist", "the server has no such database", _DATABASE),
    _cause(
        r"pool timed out|(waiting for|no answer from) the database|error communicating with database|PoolTimedOut",
        "the database does not answer",
        _DATABASE,
    ),
    _cause(
        r"AddrInUse|address already in use", "{taken}",
        "end that program, or give the node another port (gevulot_*_listen, gevulot_http_port)",
    ),
    _cause(
        r"^Error: .*\(os error (101|110|111|113)\)", "an address that it connects to does not answer", _PEERS
    ),
    _cause(r"^Error: .*no such file or directory \(os error 2\)", "a file is missing, probably its key", _KEY),
)  # fmt: skip
_ERROR = re.compile(r"^Error\b|^error:|panicked at|\bERROR\b|\bFATAL\b|Failed with result|process exited")
# The last ones are allow-vsock's, which names the refusal that it has just lifted, and our migration's own.
_NOISE = re.compile(
    r"^(note: run with|stack backtrace|Location:|Caused by:|\d+: |at |crates/\S+:\d+|the node (gets|starts without) |"
    r"the migration (failed|still fails) )"
)
_ROUTINE = re.compile(r"^(\d{4}-\d\d-\d\dT\S+\s+)?(INFO|DEBUG|TRACE)\b")
# Written before what counts.
_WAITS = re.compile(r"waiting for the database ")
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\S+\s+")
_ADDRESS = re.compile(r"(?:\d+\.\d+\.\d+\.\d+|\]|::):(\d+)\b")


def diagnose(runs: Runs, settings: Settings, unit: str = NODE_UNIT) -> Diagnosis | None:
    """Why the unit is not up; ``None`` where it is, and where there is no such unit."""
    own = runs.units.get(unit)
    if own is None or own.load != "loaded":
        return None
    looping = _is_looping(own, runs.now)
    if own.active == "active" and not looping:
        return None
    blocking = next((each for name, each in runs.units.items() if name != unit and _blocks(each, own, runs.now)), None)
    lines = _last_lines(runs, blocking or own)
    stopped = (own.active, own.result) == ("inactive", "success") and not _refused(runs, unit)
    if blocking is None and not looping and stopped:
        return Diagnosis(f"inactive ({own.sub})", f"start it: systemctl start {unit}", unit=unit)
    cause, step = _explain(lines, runs, settings, blocking or own)
    if blocking is not None:
        state = "failed" if _failed(blocking) else f"is {blocking.active} ({blocking.sub})"
        cause = f"{blocking.name} {state}: {cause}"
    loop = f"; {_loop(own, runs.now)}" if looping else "" if blocking else f"; it is {own.active} ({own.sub})"
    return Diagnosis(f"not up: {cause}{loop}", step, looping, tuple(lines[-_LINES:]), (blocking or own).name)


def explained(checks: list[Check], trouble: Diagnosis | None) -> list[Check]:
    """The table with the node's failure first; rows that fail because of it are shown, and not judged."""
    if trouble is None:
        return checks
    first = Check(NODE_UNIT, trouble.problem, False, f"active; {trouble.step}")
    rest = [
        replace(each, passed=None, actual=f"{each.actual}, since the node is not up")
        if each.passed is False and each.name in _FOLLOWING
        else each
        for each in checks
        if each.name != NODE_UNIT
    ]
    return [first, *rest]


_FOLLOWING = (
    *(f"container {NODE_CONTAINER}", GPU_DEVICES, "VFIO groups in the container", "health check"),
    *("node key's hand-over", "database password in the node's environment"),
)
"""Rows of the table about the running container."""


def _is_looping(unit: UnitRun, now: float) -> bool:
    """Whether the unit ended and was restarted by systemd a short while ago, measured by its own interval."""
    # One start: its restart still waits, for its pause or for another unit.
    if (
        not unit.restarts
        or len(unit.starts) == 1
        or unit.active == "failed"
        or (unit.active, unit.sub) == ("inactive", "dead")
    ):
        return False
    if unit.active != "active":
        return True
    latest = unit.starts[-1] if unit.starts else unit.changed
    enough = min(max(_INTERVALS * _interval(unit), _SHORTEST), _LONGEST)
    return now - latest < enough


def _interval(unit: UnitRun) -> float:
    if len(unit.starts) < 2:
        return 0.0
    return (unit.starts[-1] - unit.starts[0]) / (len(unit.starts) - 1)


def _loop(unit: UnitRun, now: float) -> str:
    if len(unit.starts) < 2:
        return f"restarted {_times(unit.restarts)} by systemd"
    since = f"started {_times(len(unit.starts))} in {duration.in_words(now - unit.starts[0])}"
    return f"{since}, every {duration.in_words(_interval(unit))}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _failed(unit: UnitRun) -> bool:
    return unit.active == "failed" or unit.result not in ("success", "")


def _blocks(unit: UnitRun, node: UnitRun, now: float) -> bool:
    """Whether the node cannot start because of this unit."""
    if unit.load != "loaded" or not (unit.name in node.requires or (unit.name == KEY_UNIT and node.name == NODE_UNIT)):
        return False
    if _failed(unit) and unit.active != "active":
        return True
    if unit.name in (KEY_UNIT, MIGRATION_UNIT):
        # They run for a moment at each start of the node, and end.
        return unit.active == "activating" and now - unit.changed > _WAITING
    if unit.active == "activating":
        return unit.sub.startswith("auto-restart") or now - unit.changed > _WAITING
    return unit.active in ("inactive", "deactivating")


def _refused(runs: Runs, unit: str) -> bool:
    """Whether systemd did not start the unit because of another one, which is not among those that are known."""
    texts = [line.text for line in runs.lines if (line.unit, line.source) == (unit, "systemd")]
    return bool(texts) and _DEPENDENCY.search(texts[-1]) is not None


def _last_lines(runs: Runs, unit: UnitRun) -> list[str]:
    """What the unit's last run that ended wrote: the node's own lines, else Podman's, else systemd's."""
    lines = [line for line in runs.lines if line.unit == unit.name]
    if unit.active in ("active", "activating") and not unit.sub.startswith("auto-restart"):
        # The present run has not ended: what it wrote is no reason, unless it is the first.
        lines = [line for line in lines if line.invocation != unit.invocation] or lines
    order = (("container", "program"), ("systemd",))
    for sources in reversed(order) if _refused(runs, unit.name) else order:
        of_source = [line for line in lines if line.source in sources]
        if of_source:
            return _statements(line for line in of_source if line.invocation == of_source[-1].invocation)
    return []


def _statements(lines: Iterable[JournalLine]) -> list[str]:
    """The texts without what says nothing, a panic's message joined to where it happened."""
    statements: list[str] = []
    for line in lines:
        if _NOISE.match(line.text):
            continue
        if statements and "panicked at" in statements[-1] and statements[-1].endswith(":"):
            statements[-1] += f" {line.text}"
        else:
            statements.append(line.text)
    return statements


def _explain(lines: list[str], runs: Runs, settings: Settings, unit: UnitRun) -> tuple[str, str]:
    """The cause with the line that shows it, and the next step."""
    texts = {
        "peers": ", ".join(settings.p2p_discovery) or "unset",
        "key": f"{settings.key_directory}/node.key",
        "vsock_port": str(settings.vsock_listen_port),
    }
    # The last errors count, not the successes before them, which name the key and the ports too.
    recent = [text for text in lines[-20:-1] if not _WAITS.match(text)] + lines[-1:]
    if any(_ERROR.search(text) for text in recent):
        recent = [text for text in recent if not _ROUTINE.match(text)]
    for text in reversed(recent):
        for cause in _CAUSES:
            match = cause.pattern.search(text)
            if match is None:
                continue
            known = texts | {name: value or "" for name, value in match.groupdict().items()}
            if cause.text == "{taken}":
                known["taken"] = _taken(text, runs, settings, unit)
            return f"{cause.text.format(**known)} ({_quote(text)})", cause.step.format(**known)
    step = f"see `journalctl -u {unit.name.removesuffix('.service')}`"
    if lines:
        return _quote(next((text for text in reversed(lines) if _ERROR.search(text)), lines[-1])), step
    waits = unit.sub.startswith("auto-restart")
    if unit.active in ("activating", "deactivating", "reloading") and unit.result in ("success", "") and not waits:
        # It still starts.
        return "it wrote nothing yet", step
    status = f" with exit code {unit.status}" if unit.status else ""
    return f"it ended{status} ({unit.result or unit.sub}) and wrote nothing", step


def _quote(text: str) -> str:
    text = _TIME.sub("", text)
    return f'"{text if len(text) <= _QUOTE else f"{text[:_QUOTE]}…"}"'


def _taken(text: str, runs: Runs, settings: Settings, unit: UnitRun) -> str:
    """Which port is taken: by the line, else by who listens on the unit's ports while it does not run."""
    match = _ADDRESS.search(text)
    if match:
        program = runs.listeners.get(int(match[1]))
        return f"port {match[1]} is taken{f' by {program}' if program else ''}"
    ports = settings.service_ports if unit.name == NODE_UNIT else (settings.postgres_port,)
    taken = [port for port in ports if port in runs.listeners] if unit.sub != "running" else []
    names = [f"{port} ({runs.listeners[port]})" if runs.listeners[port] else str(port) for port in taken]
    if names:
        return f"port {' and '.join(names)} is taken"
    return f"one of its ports {', '.join(map(str, ports))} is taken"
