"""Several claims at once. A pass of all rules needs no correction; claims that some rule fails do."""

from collections.abc import Callable, Sequence

from dutchdoor.stats.bounds import BISECTIONS


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: claim all that are at most α (Holm 1979, Scand. J. Stat. 6:65).

    The chance of one false claim or more is then at most α, whatever hangs together. A claim that *every*
    domain passes is an intersection–union test and needs none of this (Berger 1982, Technometrics 24:295).
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError("a p-value lies outside 0 to 1")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def p_above(lower_at: Callable[[float], float], bound: float) -> float:
    """The p-value of the claim that a measure lies above `bound`, from its lower bound at any confidence.

    It is the smallest α at which `lower_at(1 − α)` is above the bound, rounded up; 1 where no α below one
    half will do. `lower_at` must fall as confidence rises, as all bounds here do.
    """
    highest = 0.5 - 1e-9  # bounds are refused at one half
    if lower_at(1 - highest) <= bound:
        return 1.0
    small, large = 0.0, highest
    for _ in range(BISECTIONS):
        middle = (small + large) / 2
        if 1 - middle < 1 and lower_at(1 - middle) > bound:
            large = middle
        else:
            small = middle
    return large
