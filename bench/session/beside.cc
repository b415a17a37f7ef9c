// What channels of one session do to each other.
//
//   bench_session_beside stalled ADDRESS up|down FAST_PORT STALLED_PORT COUNT SECONDS
//       one bulk transfer, beside COUNT channels that are full and that nobody reads
//   bench_session_beside mixed ADDRESS up|down BULK_PORT ECHO_PORT one|two SECONDS
//       64-byte echoes beside one bulk transfer, both on one session or on two; "none" for
//       BULK_PORT: the echoes alone
//
// up: the client sends. Prints one line of JSON.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/load/clocks.h"
#include "bench/load/latencies.h"
#include "client/cpp/broker.h"
#include "streams/event_loop.h"
#include "streams/sleep.h"
#include "streams/task.h"

namespace sockbroker::bench {
namespace {

using streams::Task;

constexpr std::size_t kBlock = 64 * 1024;
constexpr std::size_t kEcho = 64;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "session_beside: %s\n", what.c_str());
  std::exit(1);
}

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status().ToString());
  return *std::move(value);
}

struct Counts {
  uint64_t bytes = 0;
  uint64_t echoes = 0;
  Latencies latencies;
};

Task<client::Connection> Open(client::Broker broker, uint16_t port) {
  co_return OrDie(co_await broker.OpenConnection(std::string("127.0.0.1"), port));
}

Task<void> Fetch(client::Connection connection, Counts* counts) {
  while (true) {
    const absl::Cord bytes = OrDie(co_await connection.reader.Read(4 * kBlock));
    if (bytes.empty()) Die("the bulk transfer ended");
    counts->bytes += bytes.size();
  }
}

Task<void> Send(client::Connection connection, Counts* counts) {
  const absl::Cord block(std::string(kBlock, 'x'));
  while (true) {
    if (absl::Status status = connection.writer.Write(block); !status.ok()) Die(status.ToString());
    if (absl::Status status = co_await connection.writer.Drain(); !status.ok()) {
      Die(status.ToString());
    }
    counts->bytes += block.size();
  }
}

void SpawnBulk(bool up, client::Connection connection, Counts* counts) {
  streams::GetRunningLoop()->Spawn(up ? Send(std::move(connection), counts)
                                      : Fetch(std::move(connection), counts));
}

Task<void> Echo(client::Connection connection, Counts* counts) {
  const absl::Cord message(std::string(kEcho, 'x'));
  while (true) {
    const int64_t started = NowNanos();
    if (absl::Status status = connection.writer.Write(message); !status.ok()) {
      Die(status.ToString());
    }
    OrDie(co_await connection.reader.ReadExactly(kEcho));
    counts->latencies.Add(NowNanos() - started);
    counts->echoes++;
  }
}

// How many connections the broker at unix:PATH has accepted and still has: by the kernel's list, in
// which they bear its listener's path.
int AcceptedAt(const std::string& address) {
  const std::string path = address.substr(address.find(':') + 1);
  std::ifstream sockets("/proc/net/unix");
  int count = 0;
  for (std::string line; std::getline(sockets, line);) {
    const bool connected = line.find(" 0001 03 ") != std::string::npos;
    if (connected && line.ends_with(" " + path)) ++count;
  }
  return count;
}

// Lets everything run for `seconds`, of which the first tenth does not count, and prints.
Task<void> Measure(std::string address, double seconds, Counts* counts) {
  (void)co_await streams::Sleep(absl::Seconds(seconds * 0.1));
  *counts = Counts();
  const int64_t began = NowNanos();
  (void)co_await streams::Sleep(absl::Seconds(seconds * 0.9));
  const double taken = static_cast<double>(NowNanos() - began) / 1e9;
  std::printf(
      "{\"rate\": %.2f, \"echoes\": %.1f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"links\": %d}\n",
      static_cast<double>(counts->bytes) / taken / (1 << 20),
      static_cast<double>(counts->echoes) / taken, counts->latencies.Quantile(0.5),
      counts->latencies.Quantile(0.99), AcceptedAt(address));
  (void)std::fflush(stdout);
  std::_Exit(0);
}

Task<void> Stalled(std::string address, bool up, uint16_t fast, uint16_t stalled, int count,
                   double seconds) {
  client::Broker broker = OrDie(co_await client::Broker::Connect(address));
  std::vector<client::Connection> full;
  for (int i = 0; i < count; ++i) {
    full.push_back(co_await Open(broker, stalled));
    // More than any window: it stays full.
    if (up) (void)full.back().writer.Write(absl::Cord(std::string(32 << 20, 'x')));
  }
  Counts counts;
  SpawnBulk(up, co_await Open(broker, fast), &counts);
  co_await Measure(address, seconds, &counts);
}

Task<void> Mixed(std::string address, bool up, std::optional<uint16_t> bulk, uint16_t echo,
                 bool two, double seconds) {
  client::Broker broker = OrDie(co_await client::Broker::Connect(address));
  client::Broker other =
      two ? OrDie(co_await client::Broker::Connect(address)) : client::Broker(broker);
  Counts counts;
  client::Connection small = co_await Open(other, echo);
  if (bulk.has_value()) SpawnBulk(up, co_await Open(broker, *bulk), &counts);
  streams::GetRunningLoop()->Spawn(Echo(std::move(small), &counts));
  co_await Measure(address, seconds, &counts);
}

uint16_t Port(const char* text) { return static_cast<uint16_t>(std::atoi(text)); }

}  // namespace
}  // namespace sockbroker::bench

int main(int argc, char** argv) {
  using namespace sockbroker;  // NOLINT(google-build-using-namespace)
  const std::string mode = argc == 8 ? argv[1] : "";
  if (mode != "stalled" && mode != "mixed") {
    std::fprintf(stderr,
                 "usage: %s stalled ADDRESS up|down FAST_PORT STALLED_PORT COUNT SECONDS\n"
                 "       %s mixed ADDRESS up|down BULK_PORT|none ECHO_PORT one|two SECONDS\n",
                 argv[0], argv[0]);
    return 2;
  }
  const bool up = std::string(argv[3]) == "up";
  const double seconds = std::atof(argv[7]);
  std::optional<uint16_t> bulk;
  if (std::string(argv[4]) != "none") bulk = bench::Port(argv[4]);
  streams::EventLoop loop;
  loop.RunUntilComplete(mode == "stalled"
                            ? bench::Stalled(argv[2], up, bulk.value_or(0), bench::Port(argv[5]),
                                             std::atoi(argv[6]), seconds)
                            : bench::Mixed(argv[2], up, bulk, bench::Port(argv[5]),
                                           std::string(argv[6]) == "two", seconds));
}
