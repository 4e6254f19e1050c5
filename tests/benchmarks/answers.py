"""A node's answers to what a tool asks it over SSH: recorded once on the node, and played back for any number of names.

Both sides are shell scripts that an SSH server runs instead of each command. An answer is a command's output, its
errors and its exit code. It is found by the command's digest, and by how many times the same command came through the
same connection before: Ansible's are nearly all the same, since its modules come by standard input.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

NEVER_RECORDED = 97

# In a forced command the parent is the server's process for this connection, and a tool waits for each answer. Ansible
# names its directory for a moment by time, process and chance, which are no part of the question.
_FIND = r"""
question=$SSH_ORIGINAL_COMMAND
case $question in
*ansible-tmp-*) question=$(printf '%s' "$question" | sed 's/ansible-tmp-[0-9.-]*/ansible-tmp-/g') ;;
esac
key=$(sha256sum <<QUESTION
$question
QUESTION
)
key=${key%% *}
count=$counts/$PPID.$key
number=0
[ ! -e "$count" ] || read -r number <"$count"
number=$((number + 1))
echo $number >"$count"
"""

# Standard input is the command's own. What it prints is sent after it has ended.
_RECORD = r"""
counts=$recorder/counts
answers=$recorder/answers/$PPID
mkdir -p "$counts" "$answers"
{find}
answer=$answers/$key.$number
printf '%s\n' "$SSH_ORIGINAL_COMMAND" >"$answer.command"
"${{SHELL:-/bin/sh}}" -c "$SSH_ORIGINAL_COMMAND" >"$answer.out" 2>"$answer.err"
code=$?
cat "$answer.out"
cat "$answer.err" >&2
echo $code >"$answer.code"
exit $code
"""

_REPLAY = r"""
counts=$player/counts
{find}
# One that comes more often than on the node has its last answer.
while [ ! -e "$player/answers/$key.$number.code" ]; do
  number=$((number - 1))
  if [ $number -lt 1 ]; then
    printf '%s\n' "$SSH_ORIGINAL_COMMAND" >>"$player/never"
    printf 'never recorded: %s\n' "$SSH_ORIGINAL_COMMAND" >&2
    exit {code}
  fi
done
answer=$player/answers/$key.$number
# Whoever sends something takes it for a failure when nobody reads it: Ansible its modules, and our deploy a secret,
# where the last word says so. All others send nothing, and need no process that waits for its end.
case $SSH_ORIGINAL_COMMAND in
*'python3 && sleep 0'* | *" stdin'") cat >/dev/null ;;
esac
[ ! -s "$answer.err" ] || cat "$answer.err" >&2
case $SSH_ORIGINAL_COMMAND in
*ansible-tmp-*)
  name=${{SSH_ORIGINAL_COMMAND#*ansible-tmp-}}
  sed "s/ansible-tmp-[0-9.-]*/ansible-tmp-${{name%%[!0-9.-]*}}/g" "$answer.out"
  ;;
*) [ ! -s "$answer.out" ] || cat "$answer.out" ;;
esac
read -r code <"$answer.code"
exit "$code"
"""


def record(directory: str) -> str:
    """The script that answers as the host does, and keeps the answers in a directory of that host."""
    return f"recorder={quote(directory)}{_RECORD.format(find=_FIND)}"


def replay(directory: Path) -> str:
    """The script that gives the answers which a `Player` of that directory was given."""
    return f"player={quote(str(directory))}{_REPLAY.format(find=_FIND, code=NEVER_RECORDED)}"


@dataclass(frozen=True, slots=True)
class Record:
    """What one tool was answered, in a directory of its own: how many commands, through how many connections."""

    directory: Path
    commands: int
    connections: int


def read(directory: Path) -> Record:
    """The record in a directory as `record` leaves it, brought here.

    Raises ValueError unless all came through one connection, and to their ends: else the order is not known.
    """
    connections = list((directory / "answers").iterdir())
    if len(connections) != 1:
        raise ValueError(f"{len(connections)} connections were recorded; expected one")
    (connection,) = connections
    asked, answered = (len(list(connection.glob(f"*.{kind}"))) for kind in ("command", "code"))
    if asked != answered:
        raise ValueError(f"{asked} commands were recorded, but {answered} answers")
    return Record(connection, answered, len(connections))


@dataclass(frozen=True, slots=True)
class Player:
    """Which answers the script `replay` gives, and what it was asked in vain."""

    directory: Path

    @contextmanager
    def playing(self, record: Record) -> Iterator[None]:
        """Give the answers of this record, counted from the first again.

        Raises RuntimeError, naming the commands, when one came that was never recorded.
        """
        shutil.rmtree(self.directory, ignore_errors=True)
        (self.directory / "counts").mkdir(parents=True)
        (self.directory / "answers").symlink_to(record.directory)
        failure: Exception | None = None
        try:
            yield
        except RuntimeError as error:
            failure = error
        never = self.directory / "never"
        if never.exists():
            raise RuntimeError(f"never recorded, so it could not be answered:\n{never.read_text()}") from failure
        if failure is not None:
            raise failure
