#include "streams/descriptor.h"

#include <fcntl.h>

#include <cerrno>

#include "streams/error.h"

namespace sockbroker::streams {

void Descriptor::Reset(int fd) {
  if (fd_ >= 0) {
    const int saved = errno;
    close(fd_);
    errno = saved;
  }
  fd_ = fd;
}

absl::Status MakeNonBlocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return ErrnoToStatus(errno, "fcntl");
  if ((flags & O_NONBLOCK) == 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return ErrnoToStatus(errno, "fcntl");
  }
  return absl::OkStatus();
}

}  // namespace sockbroker::streams
