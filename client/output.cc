#include "client/output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace sockbroker::client {

Output::Output(int fd) : fd_(fd) {
  struct stat information{};
  if (fstat(fd, &information) != 0) return;
  is_socket_ = S_ISSOCK(information.st_mode);
  // Not for a regular file: a second descriptor would have a position of its own, and writing there
  // never waits.
  if (S_ISFIFO(information.st_mode) || isatty(fd) == 1) {
    nonblocking_fd_ = open(absl::StrCat("/proc/self/fd/", fd).c_str(),
                           O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  }
}

Output::~Output() { Release(); }

void Output::Release() {
  if (nonblocking_fd_ >= 0) close(nonblocking_fd_);
  nonblocking_fd_ = -1;
}

Output::Result Output::Write(absl::string_view bytes, int stop_fd,
                             absl::FunctionRef<void(std::size_t bytes)> on_written) {
  while (!bytes.empty()) {
    ssize_t written = 0;
    if (is_socket_) {
      written = send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
      written = write(nonblocking_fd_ >= 0 ? nonblocking_fd_ : fd_, bytes.data(), bytes.size());
    }
    if (written >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(written));
      on_written(static_cast<std::size_t>(written));
      continue;
    }
    error_ = errno;
    if (error_ == EPIPE || error_ == ECONNRESET) return Result::kClosed;
    if (error_ == EINTR) continue;
    if (error_ != EAGAIN && error_ != EWOULDBLOCK) return Result::kFailed;
    pollfd fds[] = {{fd_, POLLOUT, 0}, {stop_fd, POLLIN, 0}};
    if (poll(fds, stop_fd >= 0 ? 2 : 1, -1) > 0 && stop_fd >= 0 && (fds[1].revents & POLLIN) != 0) {
      return Result::kStopped;
    }
  }
  return Result::kOk;
}

}  // namespace sockbroker::client
