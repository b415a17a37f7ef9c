"""stalled: what a channel that nobody reads costs a fast one beside it. mixed: what a bulk transfer costs a 64-byte echo on the
same session, against the two on sessions of their own."""

import json
import socket
import statistics

from harness import machine as machines
from harness import report, rounds
from harness.servers import Servers
from harness.session import port_of, start_broker

# The word of bench_session_beside, and the server at the other end.
DIRECTIONS = {"client to peer": ("up", "discard"), "peer to client": ("down", "source")}


class _Place:
    """A broker, and servers to move bulk to and from."""

    def __init__(self, options):
        # Several processes at work: the kernel places them.
        self.machine = machines.Machine(options.build_dir, pin=False)
        self.load = self.machine.program("bench_session_beside")
        self.servers = Servers(self.machine)

    def __enter__(self):
        self.servers.__enter__()
        self.broker = start_broker(self.servers, self.machine)
        return self

    def __exit__(self, *exception):
        self.servers.__exit__(*exception)

    def serve(self, word):
        return port_of(self.servers.start(self.machine.program("bench_engine_server"), word))

    def run(self, mode, *arguments):
        return lambda seconds: json.loads(self.machine.load(self.load, mode, self.broker.address, *arguments, f"{seconds:.3f}"))


class Stalled:
    SUMMARY = "a fast channel of a session beside one that nobody reads"

    @staticmethod
    def add_options(parser):
        parser.add_argument("--stalled", type=int, default=1, metavar="N", help="channels that nobody reads (default 1)")

    @staticmethod
    def run(options, _, plan):
        turn = max(plan.turn(2 * len(DIRECTIONS)), 0.5)
        cases = []
        with _Place(options) as place, socket.create_server(("127.0.0.1", 0)) as never_accepts:
            for name, (word, serves) in DIRECTIONS.items():
                fast = place.serve(serves)
                # Up, the peer does not read; down, the client does not.
                stalled = str(never_accepts.getsockname()[1]) if word == "up" else fast
                figures = rounds.measure({
                    "alone": place.run("stalled", word, fast, stalled, "0"),
                    "beside": place.run("stalled", word, fast, stalled, str(options.stalled)),
                }, plan, turn)
                cases.append({"direction": name, "alone": rounds.median(figures["alone"], "rate"),
                              "beside": rounds.median(figures["beside"], "rate"),
                              "ratio": rounds.ratio(figures["beside"], figures["alone"], "rate")})
        return {"stalled": options.stalled, "rounds": plan.rounds, "turn_seconds": turn, "cases": cases}

    @staticmethod
    def table(result):
        rows = [[f"{result['stalled']} stalled", "MiB/s alone", "MiB/s beside", "beside/alone"]]
        for case in result["cases"]:
            rows.append([case["direction"], report.number(case["alone"]), report.number(case["beside"]), report.spread(case["ratio"])])
        return f"{result['rounds']} rounds of turns of {result['turn_seconds']:.2f} s\n" + report.columns(rows)


class Mixed:
    SUMMARY = "64-byte echoes beside a bulk transfer on the same session, and on one of their own"
    KEYS = ("p50_us", "p99_us", "echoes", "rate")
    # Links to the broker that each must have had: proof that two sessions are two HTTP/2 connections.
    LINKS = {"echoes alone": 1, "one session": 1, "two sessions": 2}

    @staticmethod
    def add_options(parser):
        pass

    @staticmethod
    def run(options, _, plan):
        turn = max(plan.turn(3 * len(DIRECTIONS)), 1.0)
        cases = []
        with _Place(options) as place:
            echo = place.serve("echo")
            for name, (word, serves) in DIRECTIONS.items():
                bulk = place.serve(serves)
                figures = rounds.measure({
                    "echoes alone": place.run("mixed", word, "none", echo, "one"),
                    "one session": place.run("mixed", word, bulk, echo, "one"),
                    "two sessions": place.run("mixed", word, bulk, echo, "two"),
                }, plan, turn)
                for way, links in Mixed.LINKS.items():
                    if any(figure["links"] != links for figure in figures[way]):
                        raise machines.Unfit(f"{way}: {figures[way][0]['links']} connections to the broker instead of {links}")
                cases.append({
                    "direction": name,
                    "ways": {way: {key: statistics.median(figure[key] for figure in theirs) for key in Mixed.KEYS}
                             for way, theirs in figures.items()},
                    "p99_ratio": rounds.ratio(figures["one session"], figures["two sessions"], "p99_us"),
                    "bulk_ratio": rounds.ratio(figures["one session"], figures["two sessions"], "rate"),
                })
        return {"rounds": plan.rounds, "turn_seconds": turn, "cases": cases}

    @staticmethod
    def table(result):
        parts = [f"{result['rounds']} rounds of turns of {result['turn_seconds']:.2f} s"]
        for case in result["cases"]:
            rows = [[f"bulk {case['direction']}", "p50 us", "p99 us", "echoes/s", "bulk MiB/s"]]
            rows += [[way] + [report.number(figures[key]) for key in Mixed.KEYS] for way, figures in case["ways"].items()]
            parts.append(report.columns(rows) + f"\n  one session to two: p99 {report.spread(case['p99_ratio'])}, "
                         f"bulk {report.spread(case['bulk_ratio'])}")
        return "\n\n".join(parts)
