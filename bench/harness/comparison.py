"""One case of a benchmark: our figures beside each peer's, with the ratios."""

from harness import rounds

OURS = "engine"


def compare(figures, keys):
    """`figures`: name -> list of dicts by round, ours under OURS. Gives what --json shows of the case."""
    peers = {}
    for name, theirs in figures.items():
        peers[name] = {key: rounds.median(theirs, key) for key in keys}
        if name != OURS:
            peers[name]["rate_ratio"] = rounds.ratio(figures[OURS], theirs, "rate")
            peers[name]["cpu_ratio"] = rounds.ratio(figures[OURS], theirs, "cpu_us")
    return peers


def worst_rate_ratio(contestants, among=None):
    """Ours to the best of the peers: the least of the median ratios, and whose it is."""
    ratios = {
        name: figures["rate_ratio"]["median"]
        for name, figures in contestants.items()
        if name != OURS and (among is None or name in among)
    }
    name = min(ratios, key=ratios.get, default=None)
    return None if name is None else {"peer": name, "ratio": ratios[name]}
