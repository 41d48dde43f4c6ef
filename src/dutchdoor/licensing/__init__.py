"""What a licence lets its holder do: terms, identification of a text, advice, and openness frameworks.

Holds which licences count as open source or open data (`in_class`). Licence terms with thresholds and naming
duties, `license check`, and the openness classes (MOF, OSAID, EU AI Act, SB 53) will live here.
"""

from dutchdoor.licensing.classes import in_class

__all__ = ["in_class"]
