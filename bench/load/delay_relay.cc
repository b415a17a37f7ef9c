// A long way in between, where the kernel can't make one (tc netem): whatever is connected to it
// goes on to TARGET, every byte so much later, and no faster than so much.
//
//   bench_delay_relay unix:PATH|HOST:PORT MILLISECONDS MBIT    each way; says "listening on ..."
//
// TCP sees two short ways, so its own windows are not put to the test; those of what runs over it
// are.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kBlock = 64 * 1024;
// What waits at the entrance of the way, as a router's queue would have it.
constexpr auto kQueue = std::chrono::milliseconds(20);

struct Way {
  std::chrono::milliseconds delay;
  double bytes_per_second;
};

// One direction of a connection: what was read, and when it comes out.
class Direction {
 public:
  Direction(int from, int to, Way way) : from_(from), to_(to), way_(way) {}

  void Read() {
    Clock::time_point passed = Clock::now();  // when the last byte was through the narrow place
    std::string block(kBlock, '\0');
    while (true) {
      const ssize_t size = recv(from_, block.data(), block.size(), 0);
      const Clock::time_point now = Clock::now();
      if (size > 0) {
        passed = std::max(passed, now) +
                 std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(
                     static_cast<double>(size) / way_.bytes_per_second));
      }
      {
        const std::lock_guard lock(mutex_);
        under_way_.emplace_back(passed + way_.delay,
                                block.substr(0, size > 0 ? static_cast<std::size_t>(size) : 0));
      }
      readable_.notify_one();
      if (size <= 0) return;
      if (passed - now > kQueue) std::this_thread::sleep_until(passed - kQueue);
    }
  }

  void Write() {
    while (true) {
      std::unique_lock lock(mutex_);
      readable_.wait(lock, [this] { return !under_way_.empty(); });
      const auto [due, block] = std::move(under_way_.front());
      under_way_.pop_front();
      lock.unlock();
      std::this_thread::sleep_until(due);
      std::size_t sent = 0;
      while (sent < block.size()) {
        const ssize_t size = send(to_, block.data() + sent, block.size() - sent, MSG_NOSIGNAL);
        if (size <= 0) break;
        sent += static_cast<std::size_t>(size);
      }
      if (block.empty() || sent < block.size()) {
        // The other side's reader sees an end too, and both threads of either direction end.
        shutdown(to_, SHUT_RDWR);
        shutdown(from_, SHUT_RDWR);
        return;
      }
    }
  }

 private:
  const int from_;
  const int to_;
  const Way way_;
  std::mutex mutex_;
  std::condition_variable readable_;
  std::deque<std::pair<Clock::time_point, std::string>> under_way_;
};

int Dial(const std::string& target) {
  if (target.starts_with("unix:")) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    target.copy(address.sun_path, sizeof(address.sun_path) - 1, 5);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) return fd;
    close(fd);
    return -1;
  }
  const std::size_t colon = target.rfind(':');
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(target.c_str() + colon + 1)));
  if (inet_pton(AF_INET, target.substr(0, colon).c_str(), &address.sin_addr) == 1 &&
      connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    return fd;
  }
  close(fd);
  return -1;
}

void Relay(int near, const std::string& target, Way way) {
  const int far = Dial(target);
  if (far < 0) {
    close(near);
    return;
  }
  const int on = 1;
  for (const int fd : {near, far}) (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  Direction there(near, far, way);
  Direction back(far, near, way);
  std::thread threads[] = {std::thread([&] { there.Read(); }), std::thread([&] { there.Write(); }),
                           std::thread([&] { back.Read(); }), std::thread([&] { back.Write(); })};
  for (std::thread& thread : threads) thread.join();
  close(near);
  close(far);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s unix:PATH|HOST:PORT MILLISECONDS MBIT\n", argv[0]);
    return 2;
  }
  const std::string target = argv[1];
  const Way way{std::chrono::milliseconds(std::atoi(argv[2])), std::atof(argv[3]) * 1e6 / 8};
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in local{};
  local.sin_family = AF_INET;
  local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(local);
  if (bind(listener, reinterpret_cast<sockaddr*>(&local), size) != 0 || listen(listener, 16) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&local), &size) != 0) {
    std::perror("listen");
    return 1;
  }
  std::printf("listening on 127.0.0.1:%d\n", ntohs(local.sin_port));
  (void)std::fflush(stdout);
  while (true) {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd >= 0) std::thread(Relay, fd, target, way).detach();
  }
}
