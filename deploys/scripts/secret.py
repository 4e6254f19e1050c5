"""Compare or set one Podman secret, on the node. No secret is an argument, and none is printed.

secret.py check|apply NAME SOURCE [ARGUMENT …]

SOURCE says what the secret should be:
  stdin                    what stands on standard input, less one newline at its end
  generated                whatever it is; made from the kernel's random numbers when there is none
  url PASSWORD_NAME PORT   the database URL of the node's own Postgres, with the password of another secret

``check`` prints same, different or absent. ``apply`` prints the same words, and writes unless they were same.
"""

import hmac
import os
import subprocess
import sys
from urllib.parse import quote


def stored(name: str) -> bytes | None:
    """The secret's bytes, or None when there is no such secret."""
    done = subprocess.run(
        ["podman", "secret", "inspect", "--showsecret", "--format", "{{.SecretData}}", name],
        capture_output=True,
    )
    return done.stdout.removesuffix(b"\n") if done.returncode == 0 else None


def wanted(name: str, source: str, arguments: tuple[str, ...]) -> bytes | None:
    if source == "stdin":
        return sys.stdin.buffer.read().removesuffix(b"\n")
    if source == "generated":
        # Hexadecimal digits need no encoding in a URL, and no quoting anywhere.
        return stored(name) or os.urandom(24).hex().encode()
    password_name, port = arguments
    password = stored(password_name)
    if password is None:
        return None
    return b"postgres://gevulot:%s@127.0.0.1:%s/gevulot" % (quote(password, safe="").encode(), port.encode())


def digest(key: bytes, value: bytes) -> bytes:
    return hmac.digest(key, value, "sha256")


def main(verb: str, name: str, source: str, *arguments: str) -> None:
    have = stored(name)
    want = wanted(name, source, arguments)
    if want is None and verb == "apply":
        raise SystemExit(
            f"the secret {arguments[0]} is missing, so {name} cannot be made from it; run the deploy again"
        )
    # The key is fresh, so that a digest says nothing beyond this one comparison.
    key = os.urandom(32)
    if have is None:
        state = "absent"
    elif want is not None and hmac.compare_digest(digest(key, have), digest(key, want)):
        state = "same"
    else:
        state = "different"
    if verb == "apply" and state != "same":
        # Podman before 5.0 refuses to replace a secret that is not there.
        replace = [] if have is None else ["--replace"]
        subprocess.run(
            ["podman", "secret", "create", *replace, name, "-"], input=want, check=True, stdout=subprocess.DEVNULL
        )
    print(state)


main(*sys.argv[1:])
