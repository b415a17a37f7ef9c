"""The benchmarks by name. Each module has SUMMARY, add_options(parser), run(options, machine, plan) -> result for
--json, and table(result) -> text."""

from harness import engine_echo, rpc, throughput, tls_throughput

ALL = {
    "engine-echo": engine_echo,
    "throughput": throughput,
    "rpc": rpc,
    "tls-throughput": tls_throughput,
}
