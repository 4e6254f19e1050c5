"""Whether the database that is there fits the one that is asked for."""

from __future__ import annotations

import re

from deploys.preflight.verdict import Findings
from deploys.settings import Settings

# Images with Postgres and more have its release behind "pg"; others begin their tag with it, as the official one does.
_BEHIND_PG = re.compile(r"(?:^|[.-])pg-?(\d{1,2})(?![\d])")
_FIRST = re.compile(r"v?(\d{1,2})(?=$|[.-]|alpha|beta|rc)")


def release_of_image(image: str) -> int | None:
    """The major release of Postgres that the image's tag names; ``None`` where it names none."""
    path, _, tag = image.partition("@")[0].rpartition("/")[2].partition(":")
    if match := _BEHIND_PG.search(tag):
        return int(match[1])
    match = _FIRST.match(tag) if "postgres" in path or path.startswith("pg") else None
    return int(match[1]) if match else None


def judge_image(settings: Settings, found: Findings) -> None:
    """Refuse an image whose tag names another release than the one that is asked for."""
    release = release_of_image(settings.postgres_image) if settings.own_postgres else None
    if release not in (None, settings.postgres_release):
        found.refusals.append(
            f"gevulot_postgres_image is {settings.postgres_image}, which names Postgres {release}, and "
            f"gevulot_postgres_release is {settings.postgres_release}; expected the same release. Correct one of them."
        )


def judge_data(data_release: str | None, settings: Settings, found: Findings) -> None:
    """Refuse data of another release of Postgres: a server reads its own only."""
    if settings.own_postgres and data_release not in (None, str(settings.postgres_release)):
        found.refusals.append(
            f"{settings.postgres_directory} holds data of Postgres {data_release}; expected release "
            f"{settings.postgres_release}. Set gevulot_postgres_release and gevulot_postgres_image to {data_release}, "
            "or move the data with pg_dump and restore."
        )
