"""Defaults of every node. The README's table of settings lists all keys; a host's own data wins over these."""

from deploys.secret_sources import from_environment as _from_environment

# Read when a deploy needs it, so that this file also loads where the secret is not at hand.
# For a file instead: from deploys.secret_sources import from_file as _from_file, then _from_file("/path/of/it").
gevulot_psk_passphrase = _from_environment("GEVULOT_PSK_PASSPHRASE")
