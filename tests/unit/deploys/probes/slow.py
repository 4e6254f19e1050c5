"""A deploy that takes a while, and says so every second."""

from pyinfra import host
from pyinfra.operations import server

from deploys.transport import heartbeat

heartbeat.EVERY = 1.0
heartbeat.get_heartbeat(host.state)
server.shell(name="Take a while", commands=["sleep 3.5"])
server.shell(name="Take a while at most", commands=["sleep 2.5"], _timeout=60)
server.shell(name="Be quick", commands=["true"])
