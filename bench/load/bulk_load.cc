// One connection, one direction, as fast as it goes: sends to a discarding server, or receives from
// a source. Blocking calls, so that nothing but the server differs. Usage: bench_bulk_load
// send|receive ADDRESS SERVER_PID BLOCK SECONDS Prints one line of JSON.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench/load/clocks.h"
#include "bench/load/connect.h"

namespace sockbroker::bench {
namespace {

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

int Main(const std::string& mode, const std::string& address, pid_t server, std::size_t block,
         double seconds) {
  const bool sending = mode == "send";
  const int fd = ConnectOrDie(address);
  std::vector<char> data(sending ? block : std::max<std::size_t>(block, 256 * 1024), 'x');
  const auto move = [&] {
    const ssize_t moved = sending ? send(fd, data.data(), data.size(), MSG_NOSIGNAL)
                                  : recv(fd, data.data(), data.size(), 0);
    if (moved <= 0) Die("bulk_load: the server closed the connection");
    return static_cast<uint64_t>(moved);
  };

  const int64_t start = NowNanos();
  while (NowNanos() - start < static_cast<int64_t>(seconds * 1e8)) move();  // warms up
  uint64_t bytes = 0;
  int64_t cpu = CpuNanosOf(server);
  const int64_t begin = NowNanos();
  int64_t end = begin;
  for (; end - begin < static_cast<int64_t>(seconds * 9e8); end = NowNanos()) bytes += move();
  cpu = CpuNanosOf(server) - cpu;

  const double taken = static_cast<double>(end - begin) / 1e9;
  const double mebibytes = static_cast<double>(bytes) / (1024 * 1024);
  std::printf("{\"rate\": %.1f, \"cpu_us\": %.4f, \"seconds\": %.3f}\n", mebibytes / taken,
              static_cast<double>(cpu) / 1e3 / mebibytes, taken);
  return 0;
}

}  // namespace
}  // namespace sockbroker::bench

int main(int argc, char** argv) {
  const std::string mode = argc == 6 ? argv[1] : "";
  if (mode != "send" && mode != "receive") {
    std::fprintf(stderr, "usage: %s send|receive ADDRESS SERVER_PID BLOCK SECONDS\n", argv[0]);
    return 2;
  }
  return sockbroker::bench::Main(mode, argv[2], std::atoi(argv[3]),
                                 std::strtoul(argv[4], nullptr, 10), std::atof(argv[5]));
}
