#include "client/broker_address.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sockbroker::client {
namespace {

absl::Status Malformed(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "'", text, "' is not a broker's address: unix:PATH, HOST:PORT or [IPV6]:PORT is"));
}

}  // namespace

BrokerAddress::BrokerAddress(std::string text, std::string target, std::string unix_path)
    : text_(std::move(text)), target_(std::move(target)), unix_path_(std::move(unix_path)) {}

absl::StatusOr<BrokerAddress> BrokerAddress::Parse(absl::string_view text) {
  absl::string_view path = text;
  if (absl::ConsumePrefix(&path, "unix:") || absl::StartsWith(path, "/")) {
    // "unix:///run/x" is how gRPC writes an absolute path.
    if (absl::StartsWith(path, "//")) absl::ConsumePrefix(&path, "//");
    if (path.empty()) return Malformed(text);
    if (path.size() >= sizeof(sockaddr_un::sun_path)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the path of a Unix socket has at most 107 bytes, '", path, "' has ", path.size()));
    }
    return BrokerAddress(absl::StrCat("unix:", path), absl::StrCat("unix:", path),
                         std::string(path));
  }
  const std::size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return Malformed(text);
  const absl::string_view host = text.substr(0, colon);
  const bool bracketed = absl::StartsWith(host, "[") && absl::EndsWith(host, "]");
  uint32_t port = 0;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &port) || port == 0 || port > 65535 ||
      (!bracketed && absl::StrContains(host, ':')) || absl::StrContains(host, '/')) {
    return Malformed(text);
  }
  return BrokerAddress(std::string(text), absl::StrCat("dns:///", text), "");
}

BrokerAddress BrokerAddress::Default() {
  std::string path = "/run/sockbroker/sockbroker.sock";
  if (geteuid() != 0) {
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");
    path =
        absl::StrCat(runtime != nullptr && *runtime != '\0' ? std::string(runtime)
                                                            : absl::StrCat("/run/user/", geteuid()),
                     "/sockbroker/sockbroker.sock");
  }
  return BrokerAddress(absl::StrCat("unix:", path), absl::StrCat("unix:", path), path);
}

absl::StatusOr<BrokerAddress> BrokerAddress::Choose(absl::string_view option) {
  if (!option.empty()) return Parse(option);
  const char* variable = std::getenv("SOCKBROKER_ADDRESS");
  if (variable == nullptr || *variable == '\0') return Default();
  absl::StatusOr<BrokerAddress> address = Parse(variable);
  if (!address.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("SOCKBROKER_ADDRESS: ", address.status().message()));
  }
  return address;
}

int BrokerAddress::ProbeErrno() const {
  if (!is_unix()) return 0;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // Parse bounds it; the default's length hangs on the environment.
  if (unix_path_.size() >= sizeof(address.sun_path)) return ENAMETOOLONG;
  std::memcpy(address.sun_path, unix_path_.data(), unix_path_.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return 0;
  int error = 0;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) error = errno;
  close(fd);
  // The queue of a listener that is alive but busy may be full.
  return error == EAGAIN ? 0 : error;
}

}  // namespace sockbroker::client
