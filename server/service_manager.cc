#include "server/service_manager.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "streams/descriptor.h"

namespace sockbroker::server {

ServiceManager ServiceManager::FromEnvironment() {
  const char* value = std::getenv("NOTIFY_SOCKET");  // NOLINT(concurrency-mt-unsafe): no thread yet
  ServiceManager manager(value == nullptr ? "" : value);
  unsetenv("NOTIFY_SOCKET");
  return manager;
}

absl::Status ServiceManager::Tell(absl::string_view state) const {
  if (address_.empty()) return absl::OkStatus();
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  if ((address_[0] != '/' && address_[0] != '@') || address_.size() >= sizeof(to.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("NOTIFY_SOCKET is no Unix socket: \"", address_, "\""));
  }
  std::memcpy(to.sun_path, address_.data(), address_.size());
  socklen_t size = offsetof(sockaddr_un, sun_path) + address_.size();
  if (address_[0] == '@') {
    to.sun_path[0] = '\0';
  } else {
    size++;  // the terminating zero
  }
  const streams::Descriptor fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  // A manager that does not listen must not hold up a drain.
  const timeval patience{.tv_sec = 0, .tv_usec = 200'000};
  (void)setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  if (!fd.valid() || sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL,
                            reinterpret_cast<const sockaddr*>(&to), size) < 0) {
    return absl::UnavailableError(absl::StrCat("the service manager at ", address_,
                                               " can't be told: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace sockbroker::server
