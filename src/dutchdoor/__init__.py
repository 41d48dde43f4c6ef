"""Dutchdoor: the stack for a model family that is half open.

family manifest → vetting → policy → decision → signed open bundle + metered API → builders who can check,
compare, run, tune, and leave. `core`, `family` and `policy` tell what the house is about; ARCHITECTURE.md the way.
"""

__version__ = "0.1.0"
