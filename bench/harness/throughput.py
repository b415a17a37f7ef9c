"""throughput: one connection, one direction, 64 KiB at a time."""

import json

from harness import comparison, report, rounds
from harness.servers import Servers

SUMMARY = "bulk bytes one way through one connection: the engine, Boost.Asio, bare system calls"

BLOCK = 64 * 1024
KEYS = ("rate", "cpu_us")
# What the server does, and what the load generator then does.
CASES = {"discard": "send", "source": "receive"}


def add_options(parser):
    parser.add_argument("--unix", action="store_true", help="over a Unix socket instead of TCP on loopback")


def run(options, machine, plan):
    generator = machine.program("bench_bulk_load")
    programs = {comparison.OURS: "bench_engine_server", "Boost.Asio": "bench_asio_server", "system calls": "bench_raw_server"}
    programs = {name: program for name, program in programs.items() if machine.has(program)}
    turn = plan.turn(len(programs) * len(CASES))
    cases = []
    for serves, loads in CASES.items():
        with Servers(machine, options.unix) as servers:

            def mover(server, loads=loads):
                return lambda seconds: json.loads(
                    machine.load(generator, loads, server.address, server.pid, str(BLOCK), f"{seconds:.3f}"))

            figures = rounds.measure(
                {name: mover(servers.start(machine.program(program), serves)) for name, program in programs.items()},
                plan, turn)
        cases.append({"server": serves, "contestants": comparison.compare(figures, KEYS)})
    return {
        "block": BLOCK,
        "over": "unix" if options.unix else "tcp",
        "rounds": plan.rounds,
        "turn_seconds": turn,
        "cases": cases,
    }


def table(result):
    parts = [f"blocks of {result['block'] // 1024} KiB over {result['over']}; {result['rounds']} rounds of turns of "
             f"{result['turn_seconds']:.2f} s; engine/it: rates above 1 and CPU below 1 mean that the engine is better"]
    for case in result["cases"]:
        verb = "receives and drops" if case["server"] == "discard" else "sends"
        rows = [[f"server {verb}", "MiB/s", "CPU us/MiB", "rate: engine/it", "CPU: engine/it"]]
        for name, figures in case["contestants"].items():
            rows.append([name] + [report.number(figures[key]) for key in KEYS] +
                        [report.spread(figures.get("rate_ratio")), report.spread(figures.get("cpu_ratio"))])
        parts.append(report.columns(rows))
    return "\n\n".join(parts)
