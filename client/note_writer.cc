#include "client/note_writer.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/output.h"

namespace sockbroker::client {
namespace {

constexpr absl::Duration kGrace = absl::Milliseconds(500);
// How soon Flush sees that it is to stop.
constexpr absl::Duration kSlice = absl::Milliseconds(50);

bool IsReadable(int fd) {
  pollfd ready{fd, POLLIN, 0};
  return poll(&ready, 1, 0) > 0;
}

}  // namespace

NoteWriter::NoteWriter(int fd, Missing missing)
    : fd_(fd),
      missing_(std::move(missing)),
      at_once_fd_(eventfd(1, EFD_CLOEXEC)),
      stop_fd_(eventfd(0, EFD_CLOEXEC)) {}

NoteWriter::~NoteWriter() {
  std::thread thread;
  {
    const absl::MutexLock lock(&mutex_);
    stopping_ = true;
    thread = std::move(thread_);
  }
  eventfd_write(stop_fd_, 1);
  if (thread.joinable()) thread.join();
  close(at_once_fd_);
  close(stop_fd_);
}

void NoteWriter::Write(absl::string_view text) {
  const absl::MutexLock lock(&mutex_);
  if (IsIdle()) {
    const Output::Result result = Output(fd_).Write(
        text, at_once_fd_, [&](std::size_t written) { text.remove_prefix(written); });
    // Nothing helps when nobody reads it.
    if (result != Output::Result::kStopped) return;
  } else if (waiting_.size() + text.size() > kMostWaiting) {
    ++dropped_;
    return;
  }
  absl::StrAppend(&waiting_, text);
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
}

void NoteWriter::Flush(int stop_fd) {
  const absl::MutexLock lock(&mutex_);
  const absl::Condition idle(this, &NoteWriter::IsIdle);
  while (!mutex_.AwaitWithTimeout(idle, kSlice)) {
    if (!IsReadable(stop_fd)) continue;
    mutex_.AwaitWithTimeout(idle, kGrace);
    return;
  }
}

void NoteWriter::Run() {
  while (true) {
    std::string text;
    {
      const absl::MutexLock lock(&mutex_);
      writing_ = false;
      mutex_.Await(absl::Condition(this, &NoteWriter::HasWork));
      if (stopping_) return;
      writing_ = true;
      text = std::exchange(waiting_, "");
      if (const uint64_t dropped = std::exchange(dropped_, 0); dropped > 0) {
        waiting_ = missing_(dropped);
      }
    }
    (void)Output(fd_).Write(text, stop_fd_);
  }
}

}  // namespace sockbroker::client
