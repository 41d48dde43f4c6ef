"""Written rules, and the decision they make of evidence: `decide.decide`, `rules.load_policy`.

Measures nothing and loads no model. Refuses to open anything that was not asked for, measured and found below
its bound.
"""
