"""The URL of an external database, in a form that all of its readers parse the same way.

They are the node and its migration (sqlx), the table (psycopg) and the deploy itself (urllib). They differ in what they
make of an unencoded ``@`` or ``/``, and some quote a part of the password in their errors, so that is refused before.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from deploys.inputs.addresses import is_port, is_server

FORM = "postgres://user:password@host:port/name"
# What RFC 3986 allows in a part of a URL as it stands; everything else is percent-encoded.
_PART = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_QUERY = re.compile(r"[A-Za-z0-9_.-]+=(?:[A-Za-z0-9._~!$'()*+,;:@/-]|%[0-9A-Fa-f]{2})*")
# Parameters that would replace what stands before them, for some of the readers.
_REPLACING = frozenset(("host", "hostaddr", "port", "user", "password", "passfile", "dbname", "service"))
_PLACE = re.compile(r"(?P<host>\[[^\]]*\]|[^\[\]:]*)(?::(?P<port>.*))?", re.DOTALL)


def find_problem(url: str) -> str | None:
    """The problem with a URL, without quoting the URL; ``None`` when there is none."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgres", "postgresql") or not rest:
        return "it does not begin with postgres://"
    credentials, at, location = rest.rpartition("@")
    user, _, password = credentials.partition(":")
    place, _, path = location.partition("/")
    name, asks, query = path.partition("?")
    match = _PLACE.fullmatch(place)
    if not at or not user:
        return "it names no user"
    if not password:
        return "it has no password"
    if not _is_part(user) or not _is_part(password):
        return "its user or password has a character that must be percent-encoded ('@' as %40, '/' as %2F, '%' as %25)"
    if match is None or not is_server(match["host"]):
        return "it names no valid host: expected a name or an address (IPv6 in brackets)"
    if match["port"] is not None and not is_port(match["port"]):
        return "its port is not between 1 and 65535"
    if not name:
        return "it names no database"
    if not _is_part(name):
        return "its database's name has a character that must be percent-encoded"
    parameters = query.split("&") if asks else []
    if not all(_QUERY.fullmatch(each) for each in parameters):
        return "the text after its '?' is not a list of KEY=VALUE separated by '&'"
    replacing = sorted({key for each in parameters if (key := each.partition("=")[0].lower()) in _REPLACING})
    if replacing:
        return f"it sets {', '.join(replacing)} again after its '?'"
    return None


def _is_part(text: str) -> bool:
    """Whether a part of a URL is encoded, of text that Postgres can take."""
    if not _PART.fullmatch(text):
        return False
    try:
        return "\0" not in unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return False
