"""What the simulation found, as the tables of docs/benchmarks/statistics.md."""

from collections import defaultdict

ALPHA, BAR = 0.05, 0.065

WHAT = {
    "rate": "rate, Clopper–Pearson (exact)",
    "difference": "difference, Tango (exact)",
    "clustered rate": "rate in clusters",
    "clustered difference": "difference in clusters",
    "sequential rate": "rate, looked at after every item",
    "sequential difference": "difference, looked at after every item",
    "judged rate": "rate, judged by a model",
    "judged difference": "difference, judged by a model",
}


def broken(found):
    """The cells in which a claim passes falsely more often than the bar allows."""
    return [(kind, settings, false) for kind, settings, false, _, _ in found if false > BAR]


def tables(found):
    """Markdown: the worst cell of each rule, then the power in cells like those people have."""
    return "\n".join([*_worst(found), "", *_power(found)])


def _worst(found):
    by_kind = defaultdict(list)
    for kind, settings, false, _, runs in found:
        by_kind[kind].append((false, settings, runs))
    yield "| rule | cells | median false pass | worst | where |"
    yield "|---|---|---|---|---|"
    for kind, cells in by_kind.items():
        cells.sort(key=lambda cell: cell[0])
        false, settings, runs = cells[-1]
        draws = "" if runs is None else f" ({runs:,} draws)"
        middle = cells[len(cells) // 2][0]
        yield f"| {WHAT[kind]} | {len(cells)} | {middle:.1%} | **{false:.1%}** | {say(settings)}{draws} |"


def _power(found):
    yield "| rule | where | false pass | power |"
    yield "|---|---|---|---|"
    for kind, settings, false, power, _ in found:
        if _usual(kind, settings):
            yield f"| {WHAT[kind]} | {say(settings)} | {false:.1%} | {power:.0%} |"


def _usual(kind, settings):
    """Whether a cell is one of the few that the page shows with its power: about 450 items, a common bound."""
    if (
        settings.get("groups", 90) != 90
        or settings.get("n", 450) != 450
        or settings.get("way") == "dirichlet"
    ):
        return False
    if settings.get("size", "5") not in ("1", "5") or settings.get("correlation", 0) not in (0, 0.5, 1):
        return False
    if kind.startswith("judged"):
        common = settings["found"] == 0.9 and settings["events"] in (20, 200)
        return common and settings["bound"] in (0.05, 0.1)
    return (
        settings["bound"] == (0.05 if kind.endswith("rate") else 0.03)
        and settings.get("discordance", 0.05) == 0.05
    )


def say(settings):
    """A cell's settings, for people."""
    words = {
        "n": lambda x: f"{x} items",
        "groups": lambda x: f"{x} clusters",
        "size": lambda x: {"1": "", "mixed": "of 1 to 50", "one-large": "of 1, one of 50"}.get(x, f"of {x}"),
        "correlation": lambda x: f"correlation {x:g}" if settings.get("size") != "1" else "",
        "way": lambda x: "(Dirichlet)" if x == "dirichlet" else "",
        "bound": lambda x: f"bound {100 * x:g} %",
        "discordance": lambda x: f"{100 * x:.3g} % differ",
        "found": lambda x: f"Se {x:g}",
        "cleared": lambda x: f"Sp {x:g}",
        "events": lambda x: f"{x} labels of events",
        "others": lambda x: f"{x} of others",
    }
    return ", ".join(said for key, word in words.items() if key in settings and (said := word(settings[key])))
