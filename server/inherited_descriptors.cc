#include "server/inherited_descriptors.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace sockbroker::server {
namespace {

// What systemd calls a descriptor when LISTEN_FDNAMES is absent.
constexpr char kUnnamed[] = "unknown";

std::optional<std::string> TakeVariable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): no thread runs yet
  if (value == nullptr) return std::nullopt;
  std::string copy = value;
  unsetenv(name);
  return copy;
}

int SocketOption(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof(value);
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

absl::Status CheckKind(int fd, absl::string_view name, InheritedDescriptors::Kind kind) {
  using Kind = InheritedDescriptors::Kind;
  if (kind == Kind::kAny) return absl::OkStatus();
  if (SocketOption(fd, SO_TYPE) != SOCK_STREAM) {
    return absl::InvalidArgumentError(
        absl::StrCat("inherited descriptor \"", name, "\" is not a stream socket"));
  }
  const bool listening = SocketOption(fd, SO_ACCEPTCONN) == 1;
  if (kind == Kind::kListening && !listening) {
    return absl::InvalidArgumentError(
        absl::StrCat("inherited descriptor \"", name, "\" is not a listening socket"));
  }
  if (kind == Kind::kConnection && listening) {
    return absl::InvalidArgumentError(
        absl::StrCat("inherited descriptor \"", name, "\" is a listening socket"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<InheritedDescriptors>> InheritedDescriptors::FromEnvironment() {
  ListenEnvironment environment;
  environment.listen_pid = TakeVariable("LISTEN_PID");
  environment.listen_fds = TakeVariable("LISTEN_FDS");
  environment.listen_fdnames = TakeVariable("LISTEN_FDNAMES");
  return From(environment, getpid());
}

absl::StatusOr<std::unique_ptr<InheritedDescriptors>> InheritedDescriptors::From(
    const ListenEnvironment& environment, pid_t self, int first) {
  std::unique_ptr<InheritedDescriptors> result(new InheritedDescriptors);
  if (!environment.listen_pid || !environment.listen_fds) return result;
  int64_t pid;
  if (!absl::SimpleAtoi(*environment.listen_pid, &pid) || pid <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("LISTEN_PID is not a process: \"", *environment.listen_pid, "\""));
  }
  if (pid != self) return result;
  int count;
  if (!absl::SimpleAtoi(*environment.listen_fds, &count) || count <= 0 || count > (1 << 20)) {
    return absl::InvalidArgumentError(absl::StrCat("LISTEN_FDS is not a number of descriptors: \"",
                                                   *environment.listen_fds, "\""));
  }
  std::vector<std::string> names(count, kUnnamed);
  if (environment.listen_fdnames) {
    names = absl::StrSplit(*environment.listen_fdnames, ':');
    if (static_cast<int>(names.size()) != count) {
      return absl::InvalidArgumentError(
          absl::StrCat("LISTEN_FDNAMES has ", names.size(), " names for ", count, " descriptors"));
    }
  }
  // All are looked at before one is owned: a number that is not open must not be closed later, when
  // it may have become something else.
  for (int fd = first; fd < first + count; fd++) {
    if (fcntl(fd, F_GETFD) < 0) {
      return absl::InvalidArgumentError(absl::StrCat("LISTEN_FDS promises descriptor ", fd, ", \"",
                                                     names[fd - first],
                                                     "\": ", std::strerror(errno)));
    }
  }
  absl::MutexLock lock(&result->mutex_);
  for (int i = 0; i < count; i++) {
    const int fd = first + i;
    fcntl(fd, F_SETFD, fcntl(fd, F_GETFD) | FD_CLOEXEC);
    result->by_name_[names[i]].emplace_back(fd);
  }
  return result;
}

std::vector<std::string> InheritedDescriptors::names() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> names;
  names.reserve(by_name_.size());
  for (const auto& [name, descriptors] : by_name_) names.push_back(name);
  return names;
}

absl::StatusOr<std::vector<streams::Descriptor>> InheritedDescriptors::Take(absl::string_view name,
                                                                            Kind kind) {
  absl::MutexLock lock(&mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) {
    if (by_name_.empty()) {
      return absl::NotFoundError(absl::StrCat("no inherited descriptor is named \"", name,
                                              "\": the broker was started without any"));
    }
    return absl::NotFoundError(absl::StrCat(
        "no inherited descriptor is named \"", name,
        "\"; there are: ", absl::StrJoin(by_name_, ", ", [](std::string* out, const auto& entry) {
          out->append(entry.first);
        })));
  }
  if (found->second.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("inherited descriptor \"", name, "\" was taken already"));
  }
  for (const streams::Descriptor& descriptor : found->second) {
    if (absl::Status status = CheckKind(descriptor.get(), name, kind); !status.ok()) return status;
  }
  return std::exchange(found->second, {});
}

}  // namespace sockbroker::server
