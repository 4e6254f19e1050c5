"""Whether the discovery addresses of a node answer."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase

# Threads, since a lookup of a name has no time limit: those that have not ended after five seconds are abandoned.
_SCRIPT = """\
import os, socket, sys, threading, time
answers = {}
def ask(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 3).close()
        answers[address] = "answers"
    except (socket.gaierror, UnicodeError):
        answers[address] = "its name is not found"
    except TimeoutError:
        answers[address] = "no answer within 3 s"
    except OSError as error:
        answers[address] = (error.strerror or str(error)).lower()
threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in sys.argv[1:]]
for thread in threads:
    thread.start()
end = time.monotonic() + 5
for thread in threads:
    thread.join(max(0, end - time.monotonic()))
for each in sys.argv[1:]:
    print(each, answers.get(each, "no answer within 5 s"))
sys.stdout.flush()
os._exit(0)
"""
ANSWERS = "answers"


class DiscoveryPeers(FactBase[dict[str, str]]):
    """The result of a TCP connection from the host by address (``HOST:PORT``): ``answers``, or why it failed."""

    @staticmethod
    def default() -> dict[str, str]:
        return {}

    def requires_command(self, addresses: tuple[str, ...]) -> str:
        # A bare host may lack it.
        return "python3"

    def command(self, addresses: tuple[str, ...]) -> str:
        return f"python3 -I -c {quote(_SCRIPT)} {' '.join(map(quote, addresses))}"

    def process(self, output: list[str]) -> dict[str, str]:
        return dict(line.split(" ", 1) for line in output if " " in line)
