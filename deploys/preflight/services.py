"""The places of the node's services before a deploy: storage, key, secrets, ports, and units of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploys import scripts
from deploys.assessment.verdict import Findings
from deploys.manifest import NODE_ACCOUNT, NODE_QUADLET, STATE_DIRECTORIES
from deploys.preflight import existing, key, ports, secrets, storage
from deploys.settings import Settings
from facts.batch import Part
from facts.existing import ExistingNode, ExistingNodeParts
from facts.listeners import Listener, Listeners
from facts.output import FirstLine
from facts.secret_store import SecretStore, SecretStoreState
from facts.storage import Storage, StorageState


@dataclass(frozen=True, slots=True)
class Services:
    """The answers of the host."""

    storage: Storage | None = None
    key_state: str = ""
    secrets: SecretStoreState = field(default_factory=SecretStoreState)
    listeners: tuple[Listener, ...] = ()
    existing: ExistingNode = field(default_factory=ExistingNode)

    @classmethod
    def from_answers(cls, answers: Mapping[str, Any]) -> Services:
        """Take the answers to ``list_facts``."""
        return cls(
            storage=answers["storage"],
            key_state=answers["key_state"],
            secrets=answers["secret_store"],
            listeners=tuple(answers["listeners"]),
            existing=answers["existing"],
        )


def list_facts(settings: Settings) -> tuple[Part, ...]:
    """The facts about the services."""
    units = tuple(unit for unit, _, _ in existing.UNITS)
    directories = {
        "directory": settings.storage_directory,
        "parts": storage.list_directories(settings),
        "quadlet": NODE_QUADLET.path,
    }
    state = scripts.shell("node_key.sh", "state", *key.arguments(settings))
    return (
        Part("storage", StorageState, directories),
        Part("key_state", FirstLine, {"program": state}),
        Part("secret_store", SecretStore, {"names": secrets.NAMES}),
        Part("listeners", Listeners, {"ports": ports.list_ports(settings), "units": units}),
        Part(
            "existing",
            ExistingNodeParts,
            {"units": existing.UNITS, "word": NODE_ACCOUNT, "directories": STATE_DIRECTORIES},
        ),
    )


def judge_services(services: Services, settings: Settings, data_release: str | None, findings: Findings) -> None:
    """Refuse what a deploy would replace, and what would keep a service from starting."""
    has_key = services.key_state in ("ok", "mode", "unrecorded", "legacy")
    storage.judge_storage(services.storage, settings, services.key_state, findings)
    key.judge_key(services.key_state, settings, findings)
    secrets.judge_secrets(services.secrets, findings)
    existing.judge_existing(services.existing, settings, data_release is not None, has_key, findings)
    ports.judge_ports(services.listeners, settings, findings)
