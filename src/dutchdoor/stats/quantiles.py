"""Quantiles of the distributions that bounds rest on.

`scipy.special` costs 0.25 s at import, so it is imported by the functions that need it.
"""

from statistics import NormalDist


def normal_quantile(p: float) -> float:
    """The standard normal quantile (Wichura 1988, AS 241, to about 16 digits)."""
    return NormalDist().inv_cdf(p)


def beta_quantile(p: float, a: float, b: float) -> float:
    """The quantile of the beta distribution."""
    from scipy.special import betaincinv

    return float(betaincinv(a, b, p))


def t_quantile(p: float, degrees: float) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, p))
