"""engine-echo: the engine's echo server beside Boost.Asio's and uvloop's, each on one thread."""

import json

from harness import comparison, report, rounds
from harness.machine import PYTHON, ROOT
from harness.servers import Servers

SUMMARY = "echo round trips: the engine, Boost.Asio (coroutines), uvloop (streams, Protocol)"

KEYS = ("rate", "cpu_us", "p50_us", "p99_us")


def _sizes(text):
    units = {"K": 1024, "M": 1024 * 1024}
    size = int(text[:-1]) * units[text[-1].upper()] if text[-1:].upper() in units else int(text)
    if not 8 <= size <= 16 * 1024 * 1024:
        raise ValueError
    return size


def _connections(text):
    counts = [int(word) for word in text.split(",")]
    if not all(1 <= count <= 10000 for count in counts):
        raise ValueError
    return counts


def add_options(parser):
    parser.add_argument("--connections", type=_connections, default=[1, 100, 1000], metavar="N,...",
                        help="at a time, each with one message under way (default 1,100,1000)")
    parser.add_argument("--size", type=_sizes, default=64, metavar="BYTES", help="of a message: 64 (default), 4K, 64K ...")
    parser.add_argument("--unix", action="store_true", help="over a Unix socket instead of TCP on loopback")


def _start(servers, machine):
    started = {comparison.OURS: servers.start(machine.program("bench_engine_server"), "echo")}
    if machine.has("bench_asio_server"):
        started["Boost.Asio"] = servers.start(machine.program("bench_asio_server"), "echo")
    if machine.has_python_module("uvloop"):
        script = str(ROOT / "bench" / "servers" / "uvloop_echo.py")
        started["uvloop streams"] = servers.start(PYTHON, script, "streams")
        started["uvloop Protocol"] = servers.start(PYTHON, script, "protocol")
    return started


def run(options, machine, plan):
    generator = machine.program("bench_echo_load")
    spin = ["spin"] if machine.apart else []
    cases = []
    with Servers(machine, options.unix) as servers:
        started = _start(servers, machine)
        turn = plan.turn(len(started) * len(options.connections))

        def pinger(server, connections):
            return lambda seconds: json.loads(
                machine.load(generator, server.address, server.pid, str(connections), str(options.size), f"{seconds:.3f}",
                             *spin))

        for connections in options.connections:
            figures = rounds.measure({name: pinger(server, connections) for name, server in started.items()}, plan, turn)
            contestants = comparison.compare(figures, KEYS)
            cases.append({
                "connections": connections,
                "contestants": contestants,
                "engine_to_best": comparison.worst_rate_ratio(contestants),
            })
    return {
        "size": options.size,
        "over": "unix" if options.unix else "tcp",
        "rounds": plan.rounds,
        "turn_seconds": turn,
        "cases": cases,
    }


def table(result):
    parts = [f"{result['size']}-byte echoes over {result['over']}; {result['rounds']} rounds of turns of "
             f"{result['turn_seconds']:.2f} s; engine/it: rates above 1 and CPU below 1 mean that the engine is better"]
    for case in result["cases"]:
        rows = [[f"{case['connections']} connections", "echoes/s", "CPU us", "p50 us", "p99 us", "rate: engine/it", "CPU: engine/it"]]
        for name, figures in case["contestants"].items():
            rows.append([name] + [report.number(figures[key]) for key in KEYS] +
                        [report.spread(figures.get("rate_ratio")), report.spread(figures.get("cpu_ratio"))])
        best = case["engine_to_best"]
        verdict = f"\n  engine to the best peer ({best['peer']}): {best['ratio']:.2f}" if best else ""
        parts.append(report.columns(rows) + verdict)
    return "\n\n".join(parts)
