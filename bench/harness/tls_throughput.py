"""tls-throughput: as throughput, over TLS 1.3: the engine beside a loop of OpenSSL's blocking calls."""

import json

from harness import comparison, rounds, throughput
from harness.servers import Servers

SUMMARY = "bulk bytes one way through one TLS connection: the engine, a bare OpenSSL loop"

add_options = throughput.add_options


def run(options, machine, plan):
    generator = machine.program("bench_tls_bulk_load")
    programs = {comparison.OURS: "bench_tls_engine_server", "OpenSSL loop": "bench_tls_raw_server"}
    turn = plan.turn(len(programs) * len(throughput.CASES))
    cases = []
    ciphers = set()
    for serves, loads in throughput.CASES.items():
        with Servers(machine, options.unix) as servers:

            def mover(server, loads=loads):
                def move(seconds):
                    figures = json.loads(machine.load(generator, loads, server.address, server.pid,
                                                      str(throughput.BLOCK), f"{seconds:.3f}"))
                    ciphers.add(figures.pop("cipher"))
                    return figures

                return move

            figures = rounds.measure(
                {name: mover(servers.start(machine.program(program), serves)) for name, program in programs.items()},
                plan, turn)
        contestants = comparison.compare(figures, throughput.KEYS)
        cases.append({"server": serves, "contestants": contestants,
                      "engine_to_best": comparison.worst_rate_ratio(contestants)})
    return {
        "block": throughput.BLOCK,
        "over": ("unix" if options.unix else "tcp") + ", " + " and ".join(sorted(ciphers)),
        "rounds": plan.rounds,
        "turn_seconds": turn,
        "cases": cases,
    }


table = throughput.table
