"""Figures of results, one call each: ``plots.latency(results)``.

Each returns a `matplotlib.figure.Figure` with its title above and, below it, what
it shows, the runtime and the machine. matplotlib comes with the extra ``plot``.
"""

from podipc.lab.plots.cputime import cpu
from podipc.lab.plots.gallery import KINDS, draw, save
from podipc.lab.plots.lines import latency, throughput
from podipc.lab.plots.sidebyside import changes
from podipc.lab.plots.spread import cold, distribution
from podipc.lab.plots.traces import memory, timeline
from podipc.lab.plots.winners import crossover

__all__ = [
    "KINDS",
    "changes",
    "cold",
    "cpu",
    "crossover",
    "distribution",
    "draw",
    "latency",
    "memory",
    "save",
    "throughput",
    "timeline",
]
