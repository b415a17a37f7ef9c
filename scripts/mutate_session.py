#!/usr/bin/env python3
"""Shows that the simulation of the Session protocol would notice: breaks the frame logic in one place after another, builds
the simulation with it, and expects it to fail. `./dev mutate` runs it; a mutation that survives is a hole in the oracle."""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEEDS = "3000"
TIMEOUT = 300  # seconds

# What is broken, where, what stands there, and what takes its place.
MUTATIONS = [
    ("an ack is dropped: the sender never hears that it may go on", "session/receive_half.cc",
     "  edge_ = std::max(edge_, target_edge());\n", ""),
    ("duplicates are not trimmed", "session/receive_half.cc",
     "  bytes.RemovePrefix(known);\n", ""),
    ("a mark is forgotten by its sender", "session/send_half.cc",
     "  marks_.push_back(at.offset);\n  end_.marks++;\n", "  marks_.push_back(at.offset);\n  end_.marks += 2;\n"),
    ("a duplicate mark counts again", "session/receive_half.cc",
     "  if (at.marks < received_.marks) return false;\n  if (at != received_) {", "  if (at.marks < received_.marks) return true;\n  if (at != received_) {"),
    ("after a break the sender goes on where it was, not where the receiver stands", "session/send_half.cc",
     "  sent_ = from;\n  edge_ = edge;\n", "  sent_ = end_;\n  edge_ = edge;\n"),
    ("what is forgotten is a byte too much", "session/send_half.cc",
     "  kept_.RemovePrefix(taken.offset - taken_.offset);",
     "  kept_.RemovePrefix(std::min<uint64_t>(kept_.size(), taken.offset - taken_.offset + (taken.offset > 100 ? 1 : 0)));"),
    ("the edge is not kept", "session/send_half.cc",
     "  uint64_t until = std::min(end_.offset, edge_);", "  uint64_t until = end_.offset;"),
    ("what was under way when the edge was revoked is refused", "session/receive_half.cc",
     "const uint64_t edge = std::max(edge_, revoked_edge_);", "const uint64_t edge = edge_;"),
    ("what was read and not taken is not given back", "session/broker_channel.cc",
     "connection->Unbind(out.taken(), out.Kept(out.taken().offset), applied_);",
     "connection->Unbind(out.taken(), absl::Cord(), applied_);"),
    ("what came during a handshake is written at once", "session/broker_channel.h",
     "bool holds() const { return connection_ == nullptr || upgrading() || upgrade_at_ > 0; }",
     "bool holds() const { return connection_ == nullptr || upgrade_at_ > 0; }"),
    ("bytes read ahead of an upgrade are not taken back", "session/broker_channel.cc",
     "connection_->StartTls(mark.start_tls(), out.TakeBack(from));", "connection_->StartTls(mark.start_tls(), absl::Cord());"),
    ("what is held before the answer is acked", "session/broker_channel.h",
     "Position Taken() const override { return applied_; }", "Position Taken() const override { return in.received(); }"),
    ("the end comes before the last bytes", "session/broker_channel.cc",
     "  if (!closing_ && !connection_->Exhausted()) return false;\n", ""),
    ("a client binds with what it received, not with what it consumed", "session/client_session.cc",
     "*bind->mutable_read() = ToProto(channel->in.consumed());", "*bind->mutable_read() = ToProto(channel->in.received());"),
    ("a client reads on while an upgrade is under way", "session/client_session.cc",
     "if (channel == nullptr || channel->discard_from_.has_value()) return;", "if (channel == nullptr) return;"),
    ("a pong makes no room for more data", "session/flight.cc",
     "  arrived_ = mark.sent;\n", ""),
]


def compile_flags():
    """What the build compiles the session with, and links it to."""
    libraries = subprocess.run(["pkg-config", "--libs", "protobuf", "absl_cord", "absl_flat_hash_map", "absl_status", "absl_statusor",
                                "absl_time"], capture_output=True, text=True, check=True).stdout.split()
    return (["clang++-19", "-std=c++20", "-O1", "-fclang-abi-compat=17", "-w"], ["-lgtest", "-lgtest_main", *libraries, "-lpthread"])


def survives(build, directory, number, mutation):
    """None if the simulation failed, else why this mutation was not caught."""
    what, path, before, after = mutation
    copy = pathlib.Path(directory) / str(number)
    for folder in ("session", "tests/session"):
        shutil.copytree(ROOT / folder, copy / folder)
    target = copy / path
    text = target.read_text(encoding="utf-8")
    if text.count(before) < 1:
        return f"{path} no longer has the place to mutate"
    target.write_text(text.replace(before, after), encoding="utf-8")
    compiler, libraries = compile_flags()
    program = copy / "simulation"
    sources = [str(file) for file in (copy / "session").glob("*.cc")]
    sources += [str(copy / "tests/session/simulation.cc"), str(copy / "tests/session/simulation_test.cc")]
    built = subprocess.run([*compiler, f"-I{copy}", f"-I{copy / 'tests/session'}", f"-I{build / 'gen'}", *sources,
                            str(build / "proto" / "libsockbroker_proto.a"), "-o", str(program), *libraries],
                           capture_output=True, text=True, check=False)
    if built.returncode != 0:
        return f"it does not compile:\n{built.stderr[-2000:]}"
    try:
        ended = subprocess.run([str(program)], capture_output=True, check=False, timeout=TIMEOUT,
                               env={**os.environ, "SOCKBROKER_SEEDS": SEEDS})
    except subprocess.TimeoutExpired:
        return None  # it hangs: noticed
    return None if ended.returncode != 0 else "the simulation passes"


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "release").resolve()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="sockbroker-mutate-") as directory:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(lambda pair: survives(build, directory, *pair), enumerate(MUTATIONS))
            for mutation, result in zip(MUTATIONS, results):
                print(f"{'caught  ' if result is None else 'SURVIVES'}  {mutation[0]}" + (f": {result}" if result else ""), flush=True)
                failed += result is not None
    print(f"{len(MUTATIONS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
