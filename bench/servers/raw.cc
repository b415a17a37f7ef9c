// Blocking system calls in a loop, one connection after another: what the machine itself can do,
// for the bulk benchmarks. Usage: bench_raw_server discard|source tcp|unix:PATH
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

namespace {

constexpr std::size_t kBlock = 64 * 1024;

void Discard(int fd) {
  std::vector<char> data(kBlock);
  while (recv(fd, data.data(), data.size(), 0) > 0) {
  }
}

void Source(int fd) {
  const std::vector<char> data(kBlock, 'x');
  while (send(fd, data.data(), data.size(), MSG_NOSIGNAL) > 0) {
  }
}

// Prints where it listens. -1 after an error.
int Listen(const std::string& address) {
  if (address == "tcp") {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in local{};
    local.sin_family = AF_INET;
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(local);
    if (bind(fd, reinterpret_cast<sockaddr*>(&local), size) != 0 || listen(fd, 16) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) != 0) {
      return -1;
    }
    std::printf("listening on 127.0.0.1:%d\n", ntohs(local.sin_port));
    return fd;
  }
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un local{};
  local.sun_family = AF_UNIX;
  address.copy(local.sun_path, sizeof(local.sun_path) - 1, 5);
  if (bind(fd, reinterpret_cast<sockaddr*>(&local), sizeof(local)) != 0 || listen(fd, 16) != 0) {
    return -1;
  }
  std::printf("listening on %s\n", address.c_str());
  return fd;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc == 3 ? argv[1] : "";
  const std::string address = argc == 3 ? argv[2] : "";
  if ((mode != "discard" && mode != "source") ||
      (address != "tcp" && !address.starts_with("unix:"))) {
    std::fprintf(stderr, "usage: %s discard|source tcp|unix:PATH\n", argv[0]);
    return 2;
  }
  const int listener = Listen(address);
  if (listener < 0) {
    std::perror("listen");
    return 1;
  }
  std::fflush(stdout);
  while (true) {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    if (mode == "discard") {
      Discard(fd);
    } else {
      Source(fd);
    }
    close(fd);
  }
}
