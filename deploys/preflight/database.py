"""Whether the existing database has the release that the settings ask for."""

from __future__ import annotations

from deploys.assessment.verdict import Findings
from deploys.settings import Settings


def judge_data(data_release: str | None, settings: Settings, findings: Findings) -> None:
    """Refuse data of another release of Postgres: a server reads its own only."""
    if settings.own_postgres and data_release not in (None, str(settings.postgres_release)):
        findings.refusals.append(
            f"{settings.postgres_directory} holds data of Postgres {data_release}; expected release "
            f"{settings.postgres_release}. Set gevulot_postgres_release and gevulot_postgres_image to {data_release}, "
            "or move the data with pg_dump and restore."
        )
