"""The reasons for a host's severity in the fleet's status."""

from __future__ import annotations

from collections.abc import Iterable

from deploys.assessment.checks import Check
from deploys.assessment.status_document import Severity


class Reasons:
    """Sentences, each with its severity. ``runbook`` is the script whose run would help."""

    def __init__(self, runbook: str) -> None:
        self.runbook = runbook
        self._all: list[tuple[Severity, str]] = []

    def add(self, severity: Severity, *reasons: str) -> None:
        self._all += [(severity, reason) for reason in reasons]

    def add_failed(self, checks: Iterable[Check]) -> None:
        """Add a sentence for each failed check of the table that a deploy ends with."""
        failed = (check for check in checks if check.passed is False)
        self.add(Severity.WRONG, *(f"{each.name}: {each.actual}, expected {each.expected}" for each in failed))

    @property
    def severity(self) -> Severity:
        return max((severity for severity, _ in self._all), key=lambda each: each.rank, default=Severity.OK)

    @property
    def worst_first(self) -> tuple[str, ...]:
        ordered = sorted(self._all, key=lambda each: -each[0].rank)
        return tuple(dict.fromkeys(reason for _, reason in ordered))
