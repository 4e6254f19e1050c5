"""The keys whose transactions the node accepts: its list in the database, and the keys that deploys put there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any, LiteralString

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.database import PostgresLogin

ACCESS_QUERY: LiteralString = "SELECT lower(key) FROM acl_whitelist WHERE key ~* '^04[0-9a-f]{128}$'"

# A fingerprint that is newer than the public key is of another key, which was recorded since.
_COMMAND = r"""
public=$1 fingerprint=$2 record=$3 former=$4 port=$5 query=$6 container=$7 role=$8
[ -s "$record" ] || record=$former
[ -s "$public" ] && [ ! "$fingerprint" -nt "$public" ] && sed 's/^/own /' "$public"
[ -s "$record" ] && sed 's/^/recorded /' "$record"
[ -n "$port" ] || exit 0
listed=$(podman exec "$container" psql -X -q -A -t -p "$port" -U "$role" -d "$role" -c "$query" 2>/dev/null) || exit 0
echo answered
printf '%s\n' "$listed" | sed -n 's/^./listed &/p'
"""

# Bounded in time and size; the list is a page of text, one key a line.
_FETCH = """
import sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
        lines = answer.read(1 << 24).decode("ascii", "replace").lower().split()
except Exception:
    print("unreachable")
else:
    print("has" if sys.argv[2] in lines else "lacks")
"""


@dataclass(frozen=True, slots=True)
class AccessKeys:
    """The node's own public key, the keys on the list, and those that deploys put there.

    ``own`` is ``None`` where no public key is kept of the present key; ``listed`` where the database was not read.
    """

    own: str | None
    listed: frozenset[str] | None
    recorded: frozenset[str]

    @property
    def own_is_listed(self) -> bool:
        return self.listed is not None and self.own in self.listed

    def to_json(self) -> dict[str, Any]:
        listed = None if self.listed is None else sorted(self.listed)
        return asdict(self) | {"listed": listed, "recorded": sorted(self.recorded)}


class AccessList(FactBase[AccessKeys]):
    """The list as the node's own Postgres has it; without ``port``, only what the files say.

    ``public`` and ``fingerprint`` are the files about the node's key. ``record`` is the file with the keys that deploys
    put on the list; ``former`` counts where that is missing.
    """

    @staticmethod
    def default() -> AccessKeys:
        return AccessKeys(None, None, frozenset())

    def command(
        self, public: str, fingerprint: str, record: str, former: str, login: PostgresLogin, port: int | None
    ) -> str:
        files = (public, fingerprint, record, former)
        words = (*files, "" if port is None else str(port), ACCESS_QUERY, login.container, login.role)
        return f"sh -c {quote(_COMMAND)} access {' '.join(map(quote, words))}"

    def process(self, output: list[str]) -> AccessKeys:
        own, answered = None, False
        keys: dict[str, set[str]] = {"listed": set(), "recorded": set()}
        for line in output:
            match line.split():
                case ["own", key]:
                    own = key.lower()
                case ["answered"]:
                    answered = True
                case ["listed" | "recorded" as kind, key]:
                    keys[kind].add(key.lower())
                case _:
                    raise FactProcessError(f"a line of the access list is {line!r}, expected a word and a key")
        return AccessKeys(own, frozenset(keys["listed"]) if answered else None, frozenset(keys["recorded"]))


class PublishedAccess(FactBase[str]):
    """Whether the list at a URL, fetched from the host, has a key: ``has``, ``lacks`` or ``unreachable``."""

    @staticmethod
    def default() -> str:
        return "unreachable"

    def command(self, url: str, key: str) -> str:
        return f"python3 -I -c {quote(_FETCH)} {quote(url)} {quote(key)}"

    def process(self, output: list[str]) -> str:
        return output[0].strip()
