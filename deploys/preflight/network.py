"""The peers that the node reaches, and who can reach the node."""

from __future__ import annotations

from collections.abc import Mapping

from deploys.assessment.verdict import Findings
from deploys.inputs.addresses import Endpoint
from deploys.settings import Settings
from facts.discovery import ANSWERS


def judge_peers(settings: Settings, findings: Findings) -> None:
    """Warn of what any host can read when gevulot_peers is 'any'."""
    if settings.open_to_any:
        ports = " and ".join(map(str, settings.p2p_ports))
        external = "" if settings.own_postgres else " and the external database's URL"
        findings.warnings.append(
            f"gevulot_peers is 'any': every stranger may reach ports {ports}, and the node serves any file that its "
            f"process can read: its environment with the network's passphrase{external}, programs and results. "
            "Name the networks of your peers instead."
        )


def warn_of_lost_reach(settings: Settings, listened: str) -> str | None:
    """The warning for a node that peers could reach at ``listened`` (``IP:PORT``), and cannot after this run."""
    try:
        was_reachable = not Endpoint.parse(listened).address.is_loopback
    except ValueError:
        was_reachable = False
    if "p2p_listen" in settings.model_fields_set or not was_reachable:
        return None
    return (
        f"the node listens at {listened} until this run, and only at {settings.p2p_listen} afterwards, so its peers "
        "lose it: gevulot_p2p_listen is not set, and loopback is its default. To keep it reachable, set "
        f"gevulot_p2p_listen to '{listened}', and gevulot_peers to the networks of its peers."
    )


def judge_discovery(answers: Mapping[str, str], findings: Findings) -> None:
    """Warn when no discovery address answers. It is no refusal: they may answer by the time that the node starts."""
    if answers and ANSWERS not in answers.values():
        reasons = "; ".join(f"{address}: {why}" for address, why in answers.items())
        findings.warnings.append(
            f"no address of gevulot_p2p_discovery answers this host ({reasons}); expected one, because a node without "
            "any ends at once, and again at each restart. Correct the addresses, or unset gevulot_p2p_discovery."
        )
