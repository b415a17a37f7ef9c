"""rpc: what the broker adds to gRPC and to the kernel. A Write with drain, and a Read, beside the sum of an empty RPC on
the same server and the system call that a program without a broker would make."""

import json
import statistics

from harness import report, rounds
from harness.servers import Servers

SUMMARY = "Write with drain, and Read, beside an empty RPC plus the system call"

KEYS = ("p50_us", "mean_us", "p99_us", "cpu_us")
# What is shown, and the load generator's word for it.
OPERATIONS = {"empty RPC": "empty", "Write + drain": "write", "Read": "read", "send()": "send", "recv()": "recv"}
# What is compared with the sum of what.
SUMS = {"Write + drain": ("empty RPC", "send()"), "Read": ("empty RPC", "recv()")}


def add_options(parser):
    parser.add_argument("--size", type=int, default=64, metavar="BYTES", help="of a write or read (default 64)")


def run(options, machine, plan):
    generator = machine.program("bench_rpc_load")
    turn = plan.turn(len(OPERATIONS))
    with Servers(machine) as servers:
        server = servers.start_as_is(machine.program("bench_rpc_server"), f"unix:{servers.path('broker.sock')}",
                                     processors=machine.server_processors_all)

        def caller(operation):
            return lambda seconds: json.loads(
                machine.load(generator, operation, server.address, server.pid, str(options.size), f"{seconds:.3f}"))

        figures = rounds.measure({name: caller(word) for name, word in OPERATIONS.items()}, plan, turn)

    operations = {name: {key: rounds.median(list_, key) for key in KEYS} for name, list_ in figures.items()}
    for name, parts in SUMS.items():
        for key in ("p50_us", "mean_us"):
            operations[name][f"{key}_to_sum"] = _ratio_to_sum(figures, name, parts, key)
    return {"size": options.size, "rounds": plan.rounds, "turn_seconds": turn, "operations": operations}


def _ratio_to_sum(figures, name, parts, key):
    ratios = [ours[key] / sum(theirs[key] for theirs in others)
              for ours, *others in zip(figures[name], *(figures[part] for part in parts))]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def table(result):
    rows = [[f"{result['size']} bytes", "p50 us", "mean us", "p99 us", "server's CPU us", "p50: it/sum", "mean: it/sum"]]
    for name, figures in result["operations"].items():
        rows.append([name] + [report.number(figures[key]) for key in KEYS] +
                    [report.spread(figures.get("p50_us_to_sum")), report.spread(figures.get("mean_us_to_sum"))])
    sums = "; ".join(f"{name}: {' + '.join(parts)}" for name, parts in SUMS.items())
    return (f"one caller over a Unix socket; {result['rounds']} rounds of turns of {result['turn_seconds']:.2f} s\n"
            f"sums: {sums}\n\n" + report.columns(rows))
