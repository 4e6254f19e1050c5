"""What talks to a host: connections, remote commands, tunnels, probes from outside."""
