"""The node's container opens vsock sockets, whatever the host's policy for containers says, and no other ones more."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from deploys import manifest, settings
from deploys.manifest import TEMPLATES
from deploys.settings import Settings
from deploys.steps import vsock
from facts.unit import Unit
from facts.vsock import VsockTrial, VsockTrialResult
from tests.unit.deploys import syscall_filter
from tests.unit.deploys.syscall_filter import Profile, Socket

pytestmark = pytest.mark.commands

PROGRAM = TEMPLATES / f"{manifest.ALLOW_VSOCK.path[1:]}.j2"
VSOCK: Socket = (socket.AF_VSOCK, socket.SOCK_STREAM, 0)
# Netlink's protocol 9 is the audit log, and family 38 the kernel's cryptography.
SOCKETS: list[Socket] = [
    VSOCK,
    *((family, kind, 0) for family in range(46) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)),
    *((socket.AF_NETLINK, socket.SOCK_RAW, protocol) for protocol in range(22)),
    (socket.AF_VSOCK, socket.SOCK_DGRAM, 0),
    (socket.AF_VSOCK, socket.SOCK_STREAM, 9),
]
WITH_AUDIT, WITHOUT_AUDIT = frozenset({"CAP_AUDIT_WRITE", "CAP_KILL"}), frozenset({"CAP_KILL"})


def kernel(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that filters system calls on this computer's kernel."""
    needed = pytest.mark.skipif(not syscall_filter.AVAILABLE, reason="needs libseccomp")
    marked: Callable[..., None] = pytest.mark.kernel(needed(test))
    return marked


def condition(index: int, operator: str, value: int, other: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": other, "op": f"SCMP_CMP_{operator}"}


def rule(action: str | int, *conditions: dict[str, Any], names: tuple[str, ...] = ("socket",), **more: Any) -> Profile:
    """A rule: an action by its short name, or a refusal with an error number."""
    if isinstance(action, int):
        more = {"errnoRet": action} | more
        action = "ERRNO"
    return {"names": [*names], "action": f"SCMP_ACT_{action}", "args": [*conditions], **more}


def profile(*rules: Profile) -> Profile:
    return {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno.ENOSYS, "archMap": [], "syscalls": [*rules]}


NO_AUDIT: dict[str, Any] = {"includes": {}, "excludes": {"caps": ["CAP_AUDIT_WRITE"]}}
AUDIT: dict[str, Any] = {"includes": {"caps": ["CAP_AUDIT_WRITE"]}, "excludes": {}}
REFUSED = rule(errno.EPERM, condition(0, "EQ", 40), includes={}, excludes={})
_AUDIT_LOG = (condition(0, "EQ", 16), condition(2, "EQ", 9))

# The shapes of containers-common up to 0.66 and from 0.67 on, of Docker's, and of ones that nobody has made yet.
OLD = profile(
    rule(errno.EINVAL, *_AUDIT_LOG, **NO_AUDIT),
    rule("ALLOW", condition(2, "NE", 9), **NO_AUDIT),
    rule("ALLOW", condition(0, "NE", 16), **NO_AUDIT),
    rule("ALLOW", includes=AUDIT["includes"], excludes={}),
)
NEW = profile(
    REFUSED,
    rule(errno.EINVAL, *_AUDIT_LOG, **NO_AUDIT),
    rule("ALLOW", condition(0, "EQ", 16), condition(2, "NE", 9), **NO_AUDIT),
    rule("ALLOW", condition(0, "NE", 16), **NO_AUDIT),
    rule("ALLOW", condition(0, "NE", 40), **AUDIT),
)
REFUSING = {
    "containers-common 0.67": NEW,
    "refused by the default action": profile(rule("ALLOW", condition(0, "NE", 40))),
    "refused by the default action, with others": profile(rule("ALLOW", condition(0, "LT", 38))),
    "ranges": profile(
        *(rule("ALLOW", condition(0, *each)) for each in (("LT", 38), ("EQ", 39), ("GT", 40)))
    ),
    "masked": profile(
        rule(errno.EACCES, condition(0, "MASKED_EQ", 0xFFFFFFFF, 40)), rule("ALLOW", condition(0, "NE", 38))
    ),
    "beside other calls": profile(
        rule(errno.EPERM, condition(0, "EQ", 40), names=("socket", "socketpair")),
        rule("ALLOW", condition(0, "LE", 43)),
        rule("ALLOW", names=("socketpair",)),
    ),
    "alternatives": profile(
        rule(errno.EPERM, condition(0, "EQ", 38), condition(0, "EQ", 40)),
        rule("ALLOW", condition(0, "LT", 38)), rule("ALLOW", condition(0, "EQ", 39)),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def program() -> Any:
    """The program as a module."""
    loader = SourceFileLoader("allow_vsock", str(PROGRAM))
    spec = spec_from_loader("allow_vsock", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


# --- the profile, on this kernel


@kernel
@pytest.mark.parametrize("capabilities", [WITH_AUDIT, WITHOUT_AUDIT], ids=["audit", "no audit"])
@pytest.mark.parametrize("shape", REFUSING)
def test_only_vsock_sockets_change_from_refused_to_what_they_are_without_a_filter(
    program: Any, shape: str, capabilities: frozenset[str]
) -> None:
    free = syscall_filter.results(SOCKETS, None)
    before = syscall_filter.results(SOCKETS, REFUSING[shape], capabilities)
    after = syscall_filter.results(SOCKETS, program.lifted(REFUSING[shape]), capabilities)
    assert len(free) == len(before) == len(after) > 100
    assert before[VSOCK] not in (0, free[VSOCK]), "the profile refuses no vsock socket, so this shows nothing"
    others = {each: number for each, number in before.items() if each[0] != socket.AF_VSOCK}
    assert {each: after[each] for each in others} == others
    assert {each: after[each] for each in after if each[0] == socket.AF_VSOCK} == {
        each: free[each] for each in free if each[0] == socket.AF_VSOCK
    }


@kernel
def test_an_allow_beside_the_refusal_would_not_do(program: Any) -> None:
    beside = {**NEW, "syscalls": [*NEW["syscalls"], program.ALLOW]}
    # In this process: it fails before the kernel sees it.
    with pytest.raises(OSError, match="File exists"):
        syscall_filter.apply(beside, WITHOUT_AUDIT)


@kernel
def test_without_the_allow_the_default_action_would_refuse() -> None:
    less = {**NEW, "syscalls": NEW["syscalls"][1:]}
    assert syscall_filter.results([VSOCK], less, WITH_AUDIT)[VSOCK] == errno.ENOSYS


def test_everything_else_of_a_profile_is_kept(program: Any) -> None:
    strange = {**NEW, "flags": ["x"], "syscalls": [*NEW["syscalls"], rule("ALLOW", names=("bpf",), comment="theirs")]}
    made = program.lifted(strange)
    assert {key: value for key, value in made.items() if key != "syscalls"} == {
        key: value for key, value in strange.items() if key != "syscalls"
    }
    assert made["syscalls"] == [each for each in strange["syscalls"] if each != REFUSED] + [program.ALLOW]


def test_a_rule_of_the_older_form_has_one_name(program: Any) -> None:
    old = {"name": "socket", "action": "SCMP_ACT_ERRNO", "args": [condition(0, "EQ", 40)]}
    other = {"name": "bpf", "action": "SCMP_ACT_ERRNO", "args": [condition(0, "EQ", 40)]}
    assert program.lifted(profile(old, other))["syscalls"] == [other, program.ALLOW]


@pytest.mark.parametrize(
    "broken", [{}, [], {"syscalls": None}, {"syscalls": [1]}, {"syscalls": [{"names": ["socket"]}]}]
)
def test_what_is_no_profile_is_refused(program: Any, broken: Any) -> None:
    if broken == {"syscalls": [{"names": ["socket"]}]}:
        broken["syscalls"][0]["args"] = [condition(0, "EQ", 40)]
    with pytest.raises(program.NoProfile, match="expected a seccomp profile"):
        program.lifted(broken)


# --- the program, with a Podman that applies its profile to a process instead of a container

PODMAN = """#!{python}
import json, os, subprocess, sys
sys.path.insert(0, {root!r})
from tests.unit.deploys import syscall_filter
host = json.load(open({host!r}))
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], sorted(os.environ)]) + "\\n")
if sys.argv[1] == "info":
    print(json.dumps({{"host": {{"security": {{"seccompProfilePath": host["profile"]}}}}}}))
    sys.exit()
options = dict(word.partition("=")[2].partition("=")[::2] for word in sys.argv if word.startswith("--security-opt="))
path = options.get("seccomp", host["profile"])
try:
    profile = json.load(open(path)) if path not in ("", "unconfined") else None
except ValueError as error:
    sys.exit(f"a warning\\nError: loading seccomp profile ({{path}}) failed: {{error}}")
if profile:
    syscall_filter.apply(profile, frozenset())
words = sys.argv[sys.argv.index("--rootfs") + 3:]
output = subprocess.run([{python!r}, *words], stdout=subprocess.PIPE, text=True, check=True).stdout
if host["apparmor"] and options.get("apparmor") != "unconfined":
    output = "{eacces} " + output.partition(" ")[2]
print(output, end="")
"""


class PodmanHost:
    """A host with a Podman, whose policy can be set; and the program on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.profile = root / "seccomp.json"
        self.directory = root / "run"
        self.directory.mkdir()
        self.log = root / "log"
        podman = root / "bin/podman"
        podman.parent.mkdir()
        where = {"root": str(Path.cwd()), "host": str(root / "host"), "log": str(self.log)}
        podman.write_text(PODMAN.format(python=sys.executable, eacces=errno.EACCES, **where))
        podman.chmod(0o755)
        self._program = root / "allow-vsock"
        text = PROGRAM.read_text()
        for constant, name in (("/run/gevulot-vsock/podman.env", "run/podman.env"), ("/sys/module", "module")):
            text = text.replace(f'"{constant}', f'"{root / name}')
        self._program.write_text(text.replace('dir="/run"', f'dir="{root}"'))
        self.enforce(OLD)

    def enforce(self, profile: Profile | str, apparmor: bool = False) -> None:
        """Let Podman apply a profile (or the text of its file), and AppArmor refuse vsock sockets."""
        self.profile.write_text(profile if isinstance(profile, str) else json.dumps(profile))
        self.say(str(self.profile), apparmor)

    def say(self, path: str, apparmor: bool = False) -> None:
        (self.root / "host").write_text(json.dumps({"profile": path, "apparmor": apparmor}))
        enabled = self.root / "module/apparmor/parameters/enabled"
        enabled.parent.mkdir(parents=True, exist_ok=True)
        enabled.write_text("Y\n" if apparmor else "N\n")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "NOTIFY_SOCKET": "/nowhere",
            "PODMAN_SYSTEMD_UNIT": "gevulot-node.service",
        }
        return subprocess.run(
            [sys.executable, "-I", str(self._program), *words],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
        )

    def start(self) -> subprocess.CompletedProcess[str]:
        return self.run("start", str(self.directory))

    @property
    def options(self) -> list[str]:
        name, _, value = (self.directory / "podman.env").read_text().partition("=")
        assert name == "VSOCK_PODMAN_OPTIONS"
        return value.split()

    @property
    def made(self) -> Path:
        return self.directory / "seccomp.json"


@pytest.fixture
def host(tmp_path: Path) -> PodmanHost:
    return PodmanHost(tmp_path)


@kernel
@pytest.mark.parametrize("acting", ["", "unconfined", None])
def test_where_the_host_refuses_nothing_the_node_gets_the_hosts_own_policy(
    host: PodmanHost, acting: str | None
) -> None:
    if acting is not None:
        host.say(acting)
    assert host.start().returncode == 0
    assert host.options == []
    assert not host.made.exists()


@kernel
def test_where_the_host_refuses_the_node_gets_the_hosts_profile_without_that_refusal(
    host: PodmanHost, program: Any
) -> None:
    host.enforce(NEW)
    done = host.start()
    assert done.returncode == 0, done.stderr
    assert host.options == [f"--security-opt=seccomp={host.made}"]
    assert json.loads(host.made.read_text()) == program.lifted(NEW)
    assert stat.S_IMODE(host.made.stat().st_mode) == 0o644
    # How the search for a failure's cause knows the line.
    assert done.stdout.startswith("the node gets --security-opt=")
    assert f"{host.made} is {host.profile} with this refusal lifted" in done.stdout
    assert not list(host.directory.glob("*.new"))


@kernel
def test_the_next_start_follows_an_update_of_the_hosts_profile(host: PodmanHost, program: Any) -> None:
    host.start()
    assert host.options == []
    for now in (NEW, REFUSING["alternatives"]):
        host.enforce(now)
        host.start()
        assert json.loads(host.made.read_text()) == program.lifted(now)
    host.enforce(OLD)
    host.start()
    assert host.options == []


@kernel
def test_with_a_broken_profile_of_the_host_the_node_is_left_to_podman_and_the_reason_is_named(host: PodmanHost) -> None:
    host.enforce("{ broken")
    done = host.start()
    assert (done.returncode, host.options) == (0, [])
    assert "the node starts without options: whether a container may open a vsock socket is not known" in done.stdout
    assert f"podman run: Error: loading seccomp profile ({host.profile})" in done.stdout


@kernel
@pytest.mark.parametrize("acting", [OLD, NEW])
def test_apparmor_is_left_out_only_where_it_refuses_too(host: PodmanHost, acting: Profile) -> None:
    host.enforce(acting, apparmor=True)
    assert host.start().returncode == 0
    seccomp = [f"--security-opt=seccomp={host.made}"] if acting is NEW else []
    assert host.options == [*seccomp, "--security-opt=apparmor=unconfined"]


@kernel
def test_where_no_option_helps_the_node_does_not_start_and_the_next_step_is_named(host: PodmanHost) -> None:
    host.enforce(profile(rule(errno.EPERM)))
    done = host.start()
    assert done.returncode == 1
    assert "Operation not permitted), which the node needs" in done.stderr
    assert "set gevulot_seccomp_profile" in done.stderr
    assert not (host.directory / "podman.env").exists()


@kernel
def test_options_that_open_other_sockets_too_are_refused(host: PodmanHost) -> None:
    # The program's own rule is the only one that could: here it stands for a runtime that reads rules otherwise.
    program = host.root / "allow-vsock"
    text = program.read_text().replace('"op": "SCMP_CMP_EQ"}]', '"op": "SCMP_CMP_GE"}]')
    program.write_text(text)
    host.enforce(REFUSING["refused by the default action, with others"])
    done = host.start()
    assert done.returncode == 1
    assert "other sockets would open too" in done.stderr


@kernel
def test_podman_cannot_report_the_node_as_started_and_runs_under_the_units_options(host: PodmanHost) -> None:
    host.start()
    calls = [json.loads(line) for line in host.log.read_text().splitlines()]
    ((words, environment),) = calls
    assert "PATH" in environment
    assert not {"NOTIFY_SOCKET", "PODMAN_SYSTEMD_UNIT"} & set(environment)
    assert {"--network=host", "--security-opt=label=disable", "--rm"} <= set(words)


@kernel
def test_a_check_says_whether_a_socket_opens_under_the_operators_profile(host: PodmanHost, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    for acting, opens in ((NEW, False), (OLD, True)):
        own.write_text(json.dumps(acting))
        trial = VsockTrial().process(host.run("check", f"--security-opt=seccomp={own}").stdout.splitlines())
        reason = "" if opens else "Operation not permitted"
        assert trial == VsockTrialResult(opens, reason, (f"seccomp={own}",))
    assert not list(tmp_path.glob("gevulot-vsock-*"))


@kernel
def test_a_check_takes_the_options_of_the_node_that_runs(host: PodmanHost) -> None:
    host.enforce(NEW)
    refused = VsockTrial().process(host.run("check").stdout.splitlines())
    assert (refused.opens, refused.options) == (False, ())
    host.start()
    opened = VsockTrial().process(host.run("check").stdout.splitlines())
    assert (opened.opens, opened.options) == (True, (f"seccomp={host.made}",))


@kernel
def test_a_check_that_could_not_be_made_says_why(host: PodmanHost) -> None:
    host.enforce("{ broken")
    trial = VsockTrial().process(host.run("check").stdout.splitlines())
    assert not trial.opens
    assert trial.reason.startswith("not tried: podman run: Error: loading seccomp profile")


@kernel
def test_the_container_runs_the_python_that_alternatives_choose(host: PodmanHost) -> None:
    link = host.root / "python3"
    link.symlink_to("/usr/bin/python3")
    program = host.root / "allow-vsock"
    program.write_text(program.read_text().replace('"/usr/bin/python3"', f'"{link}"'))
    assert host.start().returncode == 0
    ((words, _),) = [json.loads(line) for line in host.log.read_text().splitlines()]
    assert os.path.realpath("/usr/bin/python3") in words


SLOW = "sleep 60"
REFUSING_PODMAN = "if [ \"$1\" = run ]; then echo 1 0 22; else echo '{answer}'; fi"


@pytest.mark.parametrize(
    ("podman", "reason"),
    [
        (SLOW, "podman run: no answer within 1 s"),
        ("printf '\\377' >&2; exit 125", "podman run: \ufffd"),
        ("printf '\\377'", "the container printed '\ufffd', expected numbers"),
    ],
)
def test_a_podman_that_gives_no_answer_leaves_the_node_as_it_is_and_the_check_with_a_reason(
    host: PodmanHost, podman: str, reason: str
) -> None:
    program = host.root / "allow-vsock"
    program.write_text(program.read_text().replace("LIMIT, CHECK_LIMIT = 120, 90", "LIMIT, CHECK_LIMIT = 1, 1"))
    (host.root / "bin/podman").write_text(f"#!/bin/sh\n{podman}\n")
    done = host.start()
    assert (done.returncode, host.options, done.stderr) == (0, [], "")
    assert done.stdout.endswith(f"is not known: {reason}\n")
    checked = VsockTrial().process(host.run("check").stdout.splitlines())
    assert checked == VsockTrialResult(False, f"not tried: {reason}", ())


@pytest.mark.parametrize("answer", ["null", '{"host": null}', '{"host": {"security": {"seccompProfilePath": null}}}'])
def test_a_podman_that_names_no_profile_is_named_as_the_reason(host: PodmanHost, answer: str) -> None:
    (host.root / "bin/podman").write_text(f"#!/bin/sh\n{REFUSING_PODMAN.format(answer=answer)}\n")
    done = host.start()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "which the node needs" in done.stderr or "the kernel opens no vsock socket" in done.stderr


# --- the deploy


def unit(active: str) -> Unit:
    return Unit("gevulot-node.service", "loaded", active, "", "success", False, "generated", 0)


def asked(**keys: Any) -> Settings:
    return settings.read(
        "gpu1", {"gevulot_psk_passphrase": "the own one"} | {f"gevulot_{k}": v for k, v in keys.items()}
    )


def test_the_operators_profile_wins_and_a_node_that_executes_nothing_needs_none() -> None:
    assert vsock.is_allowed_by_us(asked())
    assert not vsock.is_allowed_by_us(asked(seccomp_profile="/etc/x.json"))
    assert not vsock.is_allowed_by_us(asked(no_execution=True))


def test_the_operators_profile_has_to_be_on_the_host() -> None:
    own = asked(seccomp_profile="/etc/x.json")
    (refusal,) = vsock.missing_profile(own, [])
    assert "/etc/x.json, which the host does not have" in refusal
    assert vsock.missing_profile(own, ["/etc/x.json"]) == ()
    assert vsock.missing_profile(asked(), []) == ()


def test_the_check_tries_the_operators_profile() -> None:
    assert vsock.trial_command(asked(seccomp_profile="/etc/x.json")).endswith(
        " check --security-opt=seccomp=/etc/x.json"
    )
    assert vsock.trial_command(asked()).endswith(" check")


@pytest.mark.parametrize(
    ("trial", "row"),
    [
        (VsockTrialResult(True, "", ()), ("yes", True)),
        (VsockTrialResult(True, "", ("seccomp=/run/a.json",)), ("yes, with seccomp=/run/a.json", True)),
        (VsockTrialResult(False, "Operation not permitted", ("seccomp=/etc/x.json",)),
         ("no: Operation not permitted, with seccomp=/etc/x.json", False)),
        (None, ("not tried: there is no Podman", False)),
    ],
)  # fmt: skip
def test_the_row_says_what_was_tried(trial: VsockTrialResult | None, row: tuple[str, bool]) -> None:
    made = vsock.check(trial, asked(), unit("active"))
    assert (made.name, made.actual, made.passed) == ("the container can open a vsock socket", *row)


@pytest.mark.parametrize(
    ("keys", "active", "judged"),
    [({}, "activating", None), ({}, "active", False), ({"seccomp_profile": "/etc/x.json"}, "activating", False)],
)
def test_the_hosts_refusal_is_not_the_nodes_while_the_node_is_down(
    keys: dict[str, str], active: str, judged: bool | None
) -> None:
    options = ("seccomp=/etc/x.json",) if keys else ()
    made = vsock.check(VsockTrialResult(False, "Operation not permitted", options), asked(**keys), unit(active))
    assert made.passed is judged
    assert ("next start decides" in made.actual) is (judged is None)
    if judged is None:
        assert vsock.check(VsockTrialResult(True, "", ()), asked(), None).passed
