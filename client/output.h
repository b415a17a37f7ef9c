// Output: a descriptor to write to, whose reader may be slow, gone, or told to wait no longer.
//
//   Output output(STDOUT_FILENO);
//   Output::Result result = output.Write(bytes, stop_fd);     // kOk, kClosed, kStopped, kFailed
//
// Writes never leave the caller stuck in the kernel: a pipe or terminal is opened a second time as
// non-blocking, so that whoever shares the descriptor notices nothing. Needs SIGPIPE ignored.
#pragma once

#include <cstddef>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace sockbroker::client {

class Output {
 public:
  enum class Result {
    kOk,
    // Nobody reads it any more (EPIPE).
    kClosed,
    // `stop_fd` became readable first; part of the bytes may have been written.
    kStopped,
    // Anything else (a full disk): error() has the errno.
    kFailed,
  };

  // Does not own `fd`.
  explicit Output(int fd);
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  // Writes all of it. `stop_fd` may be -1. `on_written` is told what each write(2) has taken.
  Result Write(
      absl::string_view bytes, int stop_fd,
      absl::FunctionRef<void(std::size_t bytes)> on_written = [](std::size_t) {});
  int error() const { return error_; }
  // Lets go of the descriptor: no write may follow.
  void Release();
  // To poll for POLLERR: whether the reader has gone.
  int fd() const { return fd_; }

 private:
  int fd_;
  // A non-blocking second descriptor for the same pipe or terminal; -1 when there is none.
  int nonblocking_fd_ = -1;
  bool is_socket_ = false;
  int error_ = 0;
};

}  // namespace sockbroker::client
