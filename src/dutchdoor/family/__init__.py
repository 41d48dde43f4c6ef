"""What a family is made of, as its manifest says and as its weights' headers show.

Reads and checks `family.yaml`, describes weights without loading them, and gives the public form with
commitments. Refuses pickles, truncated files and manifests that can't be meant. Decides nothing: see
`dutchdoor.policy`.
"""

from dutchdoor.family.load import LoadedFamily, load_family
from dutchdoor.family.weights import WeightsFacts, describe, variant_digest, variant_files

__all__ = ["LoadedFamily", "WeightsFacts", "describe", "load_family", "variant_digest", "variant_files"]
