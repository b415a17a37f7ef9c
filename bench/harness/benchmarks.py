"""The benchmarks by name. Each module has SUMMARY, add_options(parser), run(options, machine, plan) -> result for
--json, and table(result) -> text."""

from harness import beside, engine_echo, forward, longhaul, rpc, session, throughput, tls_throughput

ALL = {
    "engine-echo": engine_echo,
    "throughput": throughput,
    "rpc": rpc,
    "forward": forward,
    "tls-throughput": tls_throughput,
    "echo": session.Echo,
    "idle": session.Idle,
    "stalled": beside.Stalled,
    "mixed": beside.Mixed,
    "longhaul": longhaul,
}
