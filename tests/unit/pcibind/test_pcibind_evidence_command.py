"""The command that prints the evidence, where one of its own programs fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pcibind.read import evidence_text

# It prints what it has so far, as one that the kernel ends for want of memory.
KILLED = '#!/bin/sh\ncase "$*" in *net/route*) /bin/grep "$@" | head -3; kill -9 $$ ;; esac\nexec /bin/grep "$@"\n'


def test_no_file_counts_as_read_after_a_grep_that_was_killed(tmp_path: Path) -> None:
    grep = tmp_path / "grep"
    grep.write_text(KILLED)
    grep.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", evidence_text.COMMAND], capture_output=True, env=environment)
    evidence = evidence_text.parse(done.stdout.decode(errors="replace").splitlines())
    blind = {guard for guard, _ in evidence.unreadable}
    assert {"default-route", "network", "ssh", "disk", "framebuffer", "nvidia-open"} <= blind
