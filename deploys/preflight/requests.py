"""The operator's own files in pcibind's configuration: pcibind reads all files, and refuses all if two conflict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deploys.assessment.verdict import Findings
from deploys.manifest import PCIBIND_BOARDS
from pcibind.model.errors import ConfigError
from pcibind.model.request import Configuration
from pcibind.read import configuration
from pcibind.read.files import Paths


def judge_requests(texts: Mapping[str, str], former: Iterable[str], config: Configuration, findings: Findings) -> None:
    """Refuse files that pcibind would refuse beside the one of ``config``, before that one is written.

    ``texts`` are the files that are there; those of ``former`` go in this run.
    """
    others = {path: text for path, text in texts.items() if path not in (PCIBIND_BOARDS.path, *former)}
    if not others:
        return
    ours = configuration.render(*config.boards, require_boards=config.require_boards)
    try:
        configuration.parse(sorted({**others, PCIBIND_BOARDS.path: ours}.items()))
    except ConfigError as error:
        findings.refusals.append(
            f"{error}. The deploy writes {PCIBIND_BOARDS.path}, and {', '.join(sorted(others))} was not written "
            "by a deploy, or was changed since; pcibind reads both, and would bind no board. Remove from it the boards "
            f"of gevulot_boards, correct it, or move it out of {Paths().configuration}."
        )
