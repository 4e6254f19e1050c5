"""What was measured, as tables: medians, ratios to the peers, and how the cost of a host rises with their number."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence

from tests.benchmarks.cost import Cost


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure by itself."""
    return Cost(*(statistics.median(getattr(each, name) for each in costs) for name in Cost.__slots__))


def table(
    count: int, costs_by_peer: Mapping[str, Sequence[Cost]], peers: Sequence[str], heading: str | None = None
) -> str:
    """One line a way: medians, and how many times as much as each of the peers every other way takes."""
    lines = [
        f"{heading or plural(count)}: medians; CPU is the controller's own, with all its processes",
        f"  {'':<34} {'wall s':>7} {'(least, most)':<15} {'CPU s':>7} {'wall':>9} {'CPU':>9} {'largest':>8} "
        f"{'together':>8} {'commands':>8} {'logins':>7} {'hosts':>7}",
        f"  {'':<34} {'':>7} {'':<15} {'':>7} {'ms a host':>9} {'ms a host':>9} {'MiB':>8} "
        f"{'MiB':>8} {'a host':>8} {'a host':>7} {'CPU s':>7}",
    ]
    of = {name: median(costs) for name, costs in costs_by_peer.items()}
    for name, costs in costs_by_peer.items():
        each = of[name]
        spread = f"({min(c.wall for c in costs):.2f}, {max(c.wall for c in costs):.2f})"
        lines.append(
            f"  {name:<34} {each.wall:7.2f} {spread:<15} {each.processor:7.2f} {each.wall / count * 1e3:9.1f} "
            f"{each.processor / count * 1e3:9.1f} {each.largest:8.1f} {each.together:8.1f} "
            f"{each.commands / count:8.1f} {each.connections / count:7.1f} {each.hosts:7.2f}"
        )
    for peer in peers:
        for name in (name for name in of if name not in peers):
            lines.append(
                f"  {name} takes, of {peer}'s: {of[name].wall / of[peer].wall:.2f} of the wall time, "
                f"{of[name].processor / of[peer].processor:.2f} of the CPU, "
                f"{of[name].together / of[peer].together:.2f} of the memory"
            )
    return "\n".join(lines)


def rise(costs: Mapping[int, Mapping[str, Sequence[Cost]]]) -> str:
    """How the cost of a host changes from each number of hosts to the next."""
    lines = []
    for fewer, more in itertools.pairwise(sorted(costs)):
        lines.append(f"from {fewer} to {more} hosts: cost a host, and what each further one costs")
        for name in costs[more]:
            before, after = median(costs[fewer][name]), median(costs[more][name])
            wall, processor = (
                (b / more) / (a / fewer) for a, b in ((before.wall, after.wall), (before.processor, after.processor))
            )
            further = (after.wall - before.wall) / (more - fewer), (after.processor - before.processor) / (more - fewer)
            lines.append(
                f"  {name:<34} wall ×{wall:.2f}, CPU ×{processor:.2f}; "
                f"{further[0] * 1e3:.1f} ms of wall, {further[1] * 1e3:.1f} ms of CPU"
            )
    return "\n".join(lines)


def plural(count: int) -> str:
    return f"{count} host{'s' if count > 1 else ''}"
