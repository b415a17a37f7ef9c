#include "tests/streams/sockets.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sockbroker::streams {
namespace {

int Check(int result, const char* call) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), call);
  return result;
}

}  // namespace

Descriptor BoundSocket(const std::string& host) {
  const SocketAddress address = SocketAddress::FromIp(host, 0).value();
  Descriptor fd(Check(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  Check(bind(fd.get(), address.data(), address.size()), "bind");
  return fd;
}

bool HasIpv6() {
  const Descriptor fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  return fd.valid() &&
         bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

Descriptor ListeningSocket(const std::string& host, int backlog) {
  Descriptor fd = BoundSocket(host);
  Check(listen(fd.get(), backlog), "listen");
  return fd;
}

Descriptor ConnectNow(const SocketAddress& address) {
  Descriptor fd(Check(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  Check(connect(fd.get(), address.data(), address.size()), "connect");
  return fd;
}

int TryConnect(const SocketAddress& address) {
  const Descriptor fd(Check(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  return connect(fd.get(), address.data(), address.size()) == 0 ? 0 : errno;
}

StalledListener::StalledListener(const std::string& host)
    : listener_(ListeningSocket(host, /*backlog=*/0)),
      address_(SocketAddress::OfLocal(listener_.get())),
      filler_(ConnectNow(address_)) {}

int GetOption(int fd, int level, int option) {
  int value = 0;
  socklen_t size = sizeof(value);
  Check(getsockopt(fd, level, option, &value, &size), "getsockopt");
  return value;
}

bool IsNonBlocking(int fd) { return (Check(fcntl(fd, F_GETFL), "fcntl") & O_NONBLOCK) != 0; }

std::size_t OpenDescriptors() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(files), end(files)));
}

TempDir::TempDir() {
  path_ = absl::StrCat(std::filesystem::temp_directory_path().string(), "/sockbroker.XXXXXX");
  if (mkdtemp(path_.data()) == nullptr) Check(-1, "mkdtemp");
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::File(absl::string_view name) const { return absl::StrCat(path_, "/", name); }

bool Exists(const std::string& path) {
  struct stat file;
  return lstat(path.c_str(), &file) == 0;
}

std::string AbstractName(absl::string_view suffix) {
  return absl::StrCat(absl::string_view("\0", 1), "sockbroker-test-", getpid(), "-", suffix);
}

}  // namespace sockbroker::streams
