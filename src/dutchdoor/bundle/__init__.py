"""What leaves the house: one folder a member, signed, checkable offline without the rest of the family.

`pack` makes bundles from a decision, `verify` checks one, `admit` copies one into a private store while
verifying it. Refuses to pack anything whose download is closed, weights in any form but safetensors and GGUF,
and files that hold closed content. Measures and decides nothing.
"""

from dutchdoor.bundle.verify import Report, Verdict, verify

__all__ = ["Report", "Verdict", "verify"]
