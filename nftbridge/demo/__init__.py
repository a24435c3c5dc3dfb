"""The demonstration: a host in throw-away network namespaces, and what real connections do there.

Whether a connection came about is measured. Which rule decided is what the evaluator says; a
cell in which the two disagree is marked and makes the command fail.
"""

from __future__ import annotations

from nftbridge.demo.show import lines, to_data
from nftbridge.demo.stage import Demonstration, run

__all__ = ["Demonstration", "lines", "run", "to_data"]
