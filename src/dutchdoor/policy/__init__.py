"""Written rules, and the decision they make of evidence: `load_policies`, `decide`.

Measures nothing and loads no model. Refuses to open anything that was not asked for, measured and found below
its bound.
"""

from dutchdoor.policy.decide import decide, load_policies
from dutchdoor.policy.rules import LoadedPolicy, load_policy
from dutchdoor.policy.shelf import Shelf

__all__ = ["LoadedPolicy", "Shelf", "decide", "load_policies", "load_policy"]
