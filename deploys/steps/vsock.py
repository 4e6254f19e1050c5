"""The node's vsock socket, which newer policies for containers refuse: the program that lets it open, and its check."""

from __future__ import annotations

from shlex import quote

from pyinfra.api.operation import OperationMeta

from deploys.assessment.checks import Check
from deploys.assessment.verdict import Verdict
from deploys.manifest import ALLOW_VSOCK, NODE_MODULES_LOAD, TEMPLATES
from deploys.operations.files import Files
from deploys.operations.planning import step
from deploys.operations.restore import remove_file
from deploys.settings import Settings
from facts.unit import Unit
from facts.vsock import VsockTrialResult


def is_allowed_by_us(settings: Settings) -> bool:
    """Whether ``allow-vsock`` runs before each start of the node: not for an operator's own profile, nor for a node
    that executes nothing, which opens no socket.
    """
    return not settings.seccomp_profile and not settings.no_execution


@step("Configure the sockets")
def configure_sockets(verdict: Verdict) -> list[OperationMeta]:
    """Have each boot load the modules of vsock. Returns the operation, whose file an initramfs holds."""
    return [Files().template(NODE_MODULES_LOAD, modules=verdict.node_modules)]


def write_program(settings: Settings, written: Files) -> OperationMeta:
    """Write the program that the node's unit runs at each start, or remove it."""
    if is_allowed_by_us(settings):
        return written.template(ALLOW_VSOCK)
    return remove_file(name=f"Remove {ALLOW_VSOCK.path}", path=ALLOW_VSOCK.path)


def trial_command(settings: Settings) -> str:
    """The command that tries a socket under the node's policy. It has the program's text: the node may lack the file.

    Without options the program takes those of the running node.
    """
    text = (TEMPLATES / f"{ALLOW_VSOCK.path[1:]}.j2").read_text(encoding="utf-8")
    words = [f"--security-opt=seccomp={settings.seccomp_profile}"] if settings.seccomp_profile else []
    return " ".join(quote(word) for word in ("python3", "-I", "-c", text, "check", *words))


def profile_paths(settings: Settings) -> tuple[str, ...]:
    """The paths to ask for that tell whether there is a profile; a directory alone has the second one."""
    path = settings.seccomp_profile
    return (path, f"{path}/.") if path else ()


def missing_profile(settings: Settings, there: list[str]) -> tuple[str, ...]:
    """The refusal of a host that lacks the file of ``gevulot_seccomp_profile``. ``there`` are the paths that exist."""
    path = settings.seccomp_profile
    if f"{path}/." in there:
        return (f"gevulot_seccomp_profile is {path}, a directory; expected a JSON file: name it, or unset the key",)
    if not path or path in there:
        return ()
    return (f"gevulot_seccomp_profile is {path}, which the host does not have; put the file there, or unset the key",)


def check(trial: VsockTrialResult | None, settings: Settings, node: Unit | None) -> Check:
    """The row of the table. A node that is down has no options yet, so the refusal is the host's and not its own."""
    what = "the container can open a vsock socket"
    if trial is None:
        return Check(what, "not tried: there is no Podman", False, "yes; run deploys/node.py")
    under = f", with {' '.join(trial.options)}" if trial.options else ""
    text = f"{'yes' if trial.opens else f'no: {trial.reason}'}{under}"
    down = node is None or not node.running
    if not trial.opens and not trial.options and is_allowed_by_us(settings) and down:
        return Check(what, f"{text}; the node's next start decides what its container needs", None)
    expected = "yes; see `journalctl -u gevulot-node` for allow-vsock's lines, or correct gevulot_seccomp_profile"
    return Check(what, text, trial.opens, expected)
