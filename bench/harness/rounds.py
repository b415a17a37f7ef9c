"""Rounds: machines are noisy, so contestants take turns, many times, and are compared turn by turn."""

import statistics


class Plan:
    """How often and how long to measure."""

    def __init__(self, quick, seconds, rounds):
        self.rounds = max(rounds or (3 if quick else 9), 1)
        self.seconds = seconds or (10 if quick else 60)

    def turn(self, turns_per_round):
        """Seconds of one turn when each round has so many."""
        return max(self.seconds / self.rounds / turns_per_round, 0.05)


def measure(contestants, plan, turn):
    """`contestants`: name -> function(seconds) that gives a dict of figures. Gives name -> list of them, by round."""
    figures = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(plan.rounds):
        for name in order:
            figures[name].append(contestants[name](turn))
        # Whatever drifts must not always hit the same one: the next round begins with another.
        order.append(order.pop(0))
    return figures


def median(figures, key):
    return statistics.median(figure[key] for figure in figures)


def ratio(ours, theirs, key):
    """Ours to theirs, round by round: the median, and the extremes."""
    ratios = [a[key] / b[key] for a, b in zip(ours, theirs) if b[key]]
    if not ratios:
        return None
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
