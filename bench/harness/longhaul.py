"""longhaul: one bulk connection over a link of 1 Gbit/s with a round trip of 100 ms, through `sockbroker forward -L`, through
`ssh -L`, and a bare gRPC stream."""

import json
import subprocess

from harness import forward, report, rounds
from harness.machine import Unfit

SUMMARY = "one bulk connection over 1 Gbit/s and 100 ms: `sockbroker forward -L`, `ssh -L`, a bare gRPC stream"

# iperf3 leaves them out: the windows grow.
RAMP = 3  # seconds


def add_options(parser):
    parser.add_argument("--round-trip", type=int, default=100, metavar="MS", help="default 100")
    parser.add_argument("--mbit", type=int, default=1000, metavar="N", help="of the link, each way (default 1000)")


class Place(forward.Place):
    """As forward's, with the long link between a client and whatever it dials."""

    def __init__(self, machine, options):
        super().__init__(machine)
        self._link = [str(options.round_trip // 2), str(options.mbit)]

    def through(self, address):
        relay = self._start([self._machine.program("bench_delay_relay"), address, *self._link], stdout=subprocess.PIPE)
        said = relay.stdout.readline().decode()
        if "listening on " not in said:
            raise Unfit("bench_delay_relay did not start")
        return said.split("listening on ", 1)[1].strip()


def run(options, machine, plan):
    machine.apart = False  # which program runs where is the kernel's choice
    turn = max(plan.turn(len(forward.CASES) * 3), 4.0)
    with Place(machine, options) as place:
        ways = {forward.OURS: place.forward(), "ssh -L": place.ssh(None)}
        grpc = place.grpc()
        cases = []
        for name, (flags, word) in forward.CASES.items():
            contestants = {way: forward.mover(place, way, port, [*flags, "-O", str(RAMP)], 1) for way, port in ways.items()}
            contestants[forward.GRPC] = streamer(machine, grpc, word)
            figures = rounds.measure(contestants, plan, turn)
            cases.append({"direction": name, "contestants": {
                way: {"rate": rounds.median(theirs, "rate"), "link": share(theirs, options.mbit),
                      "rate_ratio": None if way == forward.OURS else rounds.ratio(figures[forward.OURS], theirs, "rate")}
                for way, theirs in figures.items()}})
    return {"round_trip_ms": options.round_trip, "mbit": options.mbit, "rounds": plan.rounds, "turn_seconds": turn, "cases": cases}


def streamer(machine, address, word):
    """It counts from its beginning: so long a turn that this matters little."""

    def move(seconds):
        command = [machine.program("bench_rpc_bulk"), word, address, f"{seconds + RAMP:.2f}"]
        result = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 60)
        return {"rate": json.loads(result.stdout)["rate"]}

    return move


def share(figures, mbit):
    """Of the link, round by round."""
    link = [{"rate": mbit * 1e6 / 8 / 2**20}] * len(figures)
    return rounds.ratio(figures, link, "rate")


def table(result):
    parts = [f"{result['mbit']} Mbit/s and {result['round_trip_ms']} ms, by a relay; {result['rounds']} rounds of turns of "
             f"{result['turn_seconds']:.1f} s"]
    for case in result["cases"]:
        rows = [[case["direction"], "MiB/s", "of the link", "rate: ours/it"]]
        for way, figures in case["contestants"].items():
            rows.append([way, report.number(figures["rate"]), report.spread(figures["link"]), report.spread(figures["rate_ratio"])])
        parts.append(report.columns(rows))
    return "\n\n".join(parts)
