"""Communication with hosts: connections, remote commands, tunnels, probes from outside."""
