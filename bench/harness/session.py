"""echo: 64-byte messages through the broker, over the channels of one session, beside one gRPC stream per connection with
the same sockets behind it, the bare echo of gRPC, and no broker at all. idle: what a connection costs that says nothing."""

import json
import resource
import select
import statistics
import subprocess

from harness import machine as machines
from harness import report, rounds
from harness.servers import Servers

KEYS = ("rate", "cpu_us", "p50_us", "p99_us")
OURS = "session"
TIMEOUT = 120  # seconds


def start_broker(servers, machine, *flags):
    return servers.start_as_is(str(machine.build_dir / "sockbrokerd"), "--listen", f"unix:{servers.path('broker.sock')}",
                               "--log-level", "warn", *flags)


def port_of(server):
    return server.address.rsplit(":", 1)[1]


class Echo:
    SUMMARY = "64-byte echoes over the channels of a session, a gRPC stream each, and directly"

    @staticmethod
    def add_options(parser):
        parser.add_argument("--connections", type=lambda text: [int(word) for word in text.split(",")], default=[1, 1000],
                            metavar="N,...", help="at a time, each with one message under way (default 1,1000)")
        parser.add_argument("--size", type=int, default=64, metavar="BYTES", help="of a message (default 64)")

    @staticmethod
    def run(options, _, plan):
        # Three processes at work: the kernel places them.
        machine = machines.Machine(options.build_dir, pin=False)
        direct = machine.program("bench_echo_load")
        through = machine.program("bench_session_load")
        cases = []
        with Servers(machine) as servers:
            target = servers.start(machine.program("bench_engine_server"), "echo")
            broker = start_broker(servers, machine)
            each = servers.start_as_is(machine.program("bench_stream_proxy"), f"unix:{servers.path('each.sock')}", port_of(target))
            bare = servers.start_as_is(machine.program("bench_stream_proxy"), f"unix:{servers.path('bare.sock')}")
            turn = plan.turn(4 * len(options.connections))

            def loader(mode, server, count):
                return lambda seconds: json.loads(machine.load(through, mode, server.address, port_of(target), server.pid, str(count),
                                                               str(options.size), f"{seconds:.3f}"))

            for count in options.connections:
                contestants = {
                    OURS: loader("session", broker, count),
                    "a gRPC stream each": loader("stream", each, count),
                    "bare gRPC echo": loader("stream", bare, count),
                    "direct": lambda seconds, count=count: json.loads(
                        machine.load(direct, target.address, target.pid, str(count), str(options.size), f"{seconds:.3f}")),
                }
                figures = rounds.measure(contestants, plan, turn)
                shown = {}
                for name, theirs in figures.items():
                    shown[name] = {key: rounds.median(theirs, key) for key in KEYS}
                    if name != OURS:
                        shown[name]["rate_ratio"] = rounds.ratio(figures[OURS], theirs, "rate")
                sums = [ours["p50_us"] / (grpc["p50_us"] + tcp["p50_us"])
                        for ours, grpc, tcp in zip(figures[OURS], figures["bare gRPC echo"], figures["direct"])]
                cases.append({"connections": count, "contestants": shown,
                              "p50_to_sum": {"median": statistics.median(sums), "min": min(sums), "max": max(sums)}})
        return {"size": options.size, "rounds": plan.rounds, "turn_seconds": turn, "cases": cases}

    @staticmethod
    def table(result):
        parts = [f"{result['size']}-byte echoes; {result['rounds']} rounds of turns of {result['turn_seconds']:.2f} s"]
        for case in result["cases"]:
            rows = [[f"{case['connections']} connections", "echoes/s", "server's CPU us", "p50 us", "p99 us", "rate: session/it"]]
            for name, figures in case["contestants"].items():
                rows.append([name] + [report.number(figures[key]) for key in KEYS] + [report.spread(figures.get("rate_ratio"))])
            parts.append(report.columns(rows) + f"\n  p50 of the session to bare gRPC + direct: {report.spread(case['p50_to_sum'])}")
        return "\n\n".join(parts)


def _resident(pid):
    """Bytes of a process's own memory."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise machines.Unfit(f"process {pid} is gone")


class Idle:
    SUMMARY = "the broker's memory for each idle connection of a session"

    @staticmethod
    def add_options(parser):
        parser.add_argument("--connections", type=int, default=20000, metavar="N", help="default 20000")

    @staticmethod
    def run(options, _, __):
        machine = machines.Machine(options.build_dir, pin=False)
        # The broker keeps a tenth in reserve.
        needed = options.connections * 10 // 9 + 600
        if machine.descriptors < needed:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
            except (ValueError, OSError) as error:
                raise machines.Unfit(f"the limit of open files is {machine.descriptors}, and {needed} are needed (ulimit -Hn): "
                                     "fewer by --connections") from error
        with Servers(machine) as servers:
            target = servers.start(machine.program("bench_engine_server"), "echo")
            broker = start_broker(servers, machine, "--loops", "1")

            def opened(count):
                client = subprocess.Popen([machine.program("bench_session_load"), "idle", broker.address, port_of(target), broker.pid,
                                           str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                ready, _, _ = select.select([client.stdout], [], [], TIMEOUT)
                if not ready or client.stdout.readline().strip() != "ready":
                    client.kill()
                    raise machines.Unfit("the connections could not be opened")
                resident = _resident(broker.pid)
                return client, resident

            # What only the first session costs is no part of a connection's share.
            first, before = opened(1)
            client, after = opened(options.connections)
            for process in (first, client):
                process.stdin.close()
                process.wait(TIMEOUT)
        return {"connections": options.connections, "before": before, "after": after,
                "each": (after - before) / options.connections}

    @staticmethod
    def table(result):
        return (f"{result['connections']} idle connections on one session: the broker's own memory went from "
                f"{result['before'] / 2**20:.1f} MiB to {result['after'] / 2**20:.1f} MiB, {result['each']:.0f} bytes each")
