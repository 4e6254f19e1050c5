"""Compare or set one Podman secret, on the node. No secret is an argument or is printed.

secret.py check|apply NAME SOURCE

SOURCE is the source of the secret:
  stdin      standard input, without one newline at its end
  generated  the existing secret, or random bytes of the kernel when there is none
  none       no secret: one that a deploy made is removed; another of this name stays

``check`` prints same, different or absent. ``apply`` prints the same, and writes unless it is same.
"""

import hmac
import os
import re
import subprocess
import sys

# Marks the secrets that a deploy made.
LABEL = "gevulot-deploy"
# Earlier deploys made the URL of the node's own Postgres without the label.
OWN_URL = re.compile(rb"postgres://gevulot:[^@/]*@127\.0\.0\.1:[0-9]+/gevulot")


def inspected(name: str, template: str) -> bytes | None:
    """What Podman says of the secret, or None when there is no such secret."""
    done = subprocess.run(
        ["podman", "secret", "inspect", "--showsecret", "--format", template, name],
        capture_output=True,
    )
    return done.stdout.removesuffix(b"\n") if done.returncode == 0 else None


def stored(name: str) -> bytes | None:
    """The secret's bytes, or None when there is no such secret."""
    return inspected(name, "{{.SecretData}}")


def is_ours(name: str, value: bytes) -> bool:
    label = inspected(name, f'{{{{index .Spec.Labels "{LABEL}"}}}}')
    return label == b"made" or OWN_URL.fullmatch(value) is not None


def wanted(have: bytes | None, source: str) -> bytes:
    if source == "stdin":
        return sys.stdin.buffer.read().removesuffix(b"\n")
    # Hexadecimal digits need no encoding in a URL, and no quoting anywhere.
    return have or os.urandom(24).hex().encode()


def digest(key: bytes, value: bytes) -> bytes:
    return hmac.digest(key, value, "sha256")


def remove(verb: str, name: str) -> str:
    have = stored(name)
    if have is None or not is_ours(name, have):
        return "same"
    if verb == "apply":
        subprocess.run(["podman", "secret", "rm", name], check=True, stdout=subprocess.DEVNULL)
    return "different"


def write(verb: str, name: str, source: str) -> str:
    have = stored(name)
    want = wanted(have, source)
    # The key is fresh, so that a digest says nothing beyond this one comparison.
    key = os.urandom(32)
    if have is None:
        state = "absent"
    elif hmac.compare_digest(digest(key, have), digest(key, want)):
        state = "same"
    else:
        state = "different"
    if verb == "apply" and state != "same":
        # Podman before 5.0 refuses to replace a secret that is not there.
        replace = [] if have is None else ["--replace"]
        subprocess.run(
            ["podman", "secret", "create", *replace, f"--label={LABEL}=made", name, "-"],
            input=want,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return state


def main(verb: str, name: str, source: str) -> None:
    print(remove(verb, name) if source == "none" else write(verb, name, source))


try:
    main(*sys.argv[1:])
except subprocess.CalledProcessError as error:
    # Podman has printed its error above.
    sys.exit(f"`podman {' '.join(error.cmd[1:3])}` of {sys.argv[2]} ended with {error.returncode}; expected 0.")
