// Keeps one message in flight on each of N connections to an echo server, and counts. It polls
// without sleeping when told that it has a processor of its own: then its own wake-ups are no part
// of the figure. Usage: bench_echo_load ADDRESS SERVER_PID CONNECTIONS SIZE SECONDS [spin] Prints
// one line of JSON.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "bench/load/clocks.h"
#include "bench/load/connect.h"
#include "bench/load/latencies.h"

namespace sockbroker::bench {
namespace {

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

// One connection: sends a message, waits until all of it came back, sends the next.
class Pinger {
 public:
  // `message` and `scratch` are shared by all: only the first bytes of a message differ.
  Pinger(int fd, std::vector<char>* message, std::vector<char>* scratch)
      : fd_(fd), message_(message), scratch_(scratch) {}

  void SendNext() {
    sent_ = received_ = 0;
    started_ = NowNanos();
    Send();
  }

  // What an edge allows. True when a message has come back; SendNext then goes on.
  bool Advance() {
    if (sent_ < message_->size()) Send();
    while (received_ < message_->size()) {
      const ssize_t got =
          recv(fd_, scratch_->data(), std::min(scratch_->size(), message_->size() - received_), 0);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
      if (got <= 0) Die("echo_load: the server closed the connection");
      if (received_ == 0 && got >= static_cast<ssize_t>(sizeof(sequence_)) &&
          std::memcmp(scratch_->data(), &sequence_, sizeof(sequence_)) != 0) {
        Die("echo_load: the server echoed something else");
      }
      received_ += static_cast<std::size_t>(got);
    }
    sequence_++;
    return true;
  }
  int64_t started() const { return started_; }

 private:
  void Send() {
    if (sent_ == 0) std::memcpy(message_->data(), &sequence_, sizeof(sequence_));
    while (sent_ < message_->size()) {
      const ssize_t put =
          send(fd_, message_->data() + sent_, message_->size() - sent_, MSG_NOSIGNAL);
      if (put < 0 && errno == EAGAIN) return;
      if (put < 0) Die("echo_load: send");
      sent_ += static_cast<std::size_t>(put);
    }
  }

  int fd_;
  std::vector<char>* message_;
  std::vector<char>* scratch_;
  uint64_t sequence_ = 1;
  std::size_t sent_ = 0;
  std::size_t received_ = 0;
  int64_t started_ = 0;
};

int Main(const std::string& address, pid_t server, std::size_t connections, std::size_t size,
         double seconds, bool spin) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);

  const int epoll = epoll_create1(EPOLL_CLOEXEC);
  std::vector<char> message(size, 'x');
  std::vector<char> scratch(256 * 1024);
  std::vector<Pinger> pingers;
  pingers.reserve(connections);
  for (std::size_t i = 0; i < connections; ++i) {
    const int fd = ConnectOrDie(address);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    pingers.emplace_back(fd, &message, &scratch);
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    event.data.u64 = i;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) Die("epoll_ctl");
  }
  for (Pinger& pinger : pingers) pinger.SendNext();

  // A tenth is for warming up and not counted.
  int64_t begin = NowNanos();
  int64_t end = begin + static_cast<int64_t>(seconds * 1e8);
  bool warm = false;
  int64_t cpu = 0;
  uint64_t operations = 0;
  Latencies latencies;
  std::array<epoll_event, 256> events;
  while (true) {
    const int64_t now = NowNanos();
    if (now >= end) {
      if (warm) {
        cpu = CpuNanosOf(server) - cpu;
        end = now;
        break;
      }
      warm = true;
      cpu = CpuNanosOf(server);
      operations = 0;
      latencies.Clear();
      begin = now;
      end = begin + static_cast<int64_t>(seconds * 9e8);
    }
    const int count = epoll_wait(epoll, events.data(), events.size(), spin ? 0 : 1000);
    for (int i = 0; i < count; ++i) {
      Pinger& pinger = pingers[events[static_cast<std::size_t>(i)].data.u64];
      if (!pinger.Advance()) continue;
      operations++;
      latencies.Add(NowNanos() - pinger.started());
      pinger.SendNext();
    }
  }
  const double taken = static_cast<double>(end - begin) / 1e9;
  const auto count = static_cast<double>(operations);
  std::printf(
      "{\"rate\": %.1f, \"cpu_us\": %.4f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"seconds\": %.3f}\n",
      count / taken, count > 0 ? static_cast<double>(cpu) / 1e3 / count : 0.0,
      latencies.Quantile(0.5), latencies.Quantile(0.99), taken);
  return 0;
}

}  // namespace
}  // namespace sockbroker::bench

int main(int argc, char** argv) {
  if (argc != 6 && argc != 7) {
    std::fprintf(stderr, "usage: %s ADDRESS SERVER_PID CONNECTIONS SIZE SECONDS [spin]\n", argv[0]);
    return 2;
  }
  return sockbroker::bench::Main(
      argv[1], std::atoi(argv[2]), std::strtoul(argv[3], nullptr, 10),
      std::max<std::size_t>(std::strtoul(argv[4], nullptr, 10), sizeof(uint64_t)),
      std::atof(argv[5]), argc == 7 && std::string_view(argv[6]) == "spin");
}
