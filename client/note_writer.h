// NoteWriter: stderr for those who must not wait for its reader: an event loop that carries other
// people's bytes.
//
//   NoteWriter notes(STDERR_FILENO, [](uint64_t lines) { return absl::StrCat(lines, " lost\n"); });
//   notes.Write("sockbroker: the broker is back\n");   // never waits
//   notes.Flush(interrupt.fd());                        // it does
//
// What a pipe or terminal does not take at once is written by a thread. Beyond a quarter of a
// megabyte that waits, what comes is dropped, and what `missing` says of it stands in its place.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace sockbroker::client {

class NoteWriter {
 public:
  static constexpr std::size_t kMostWaiting = 256 << 10;

  using Missing = std::function<std::string(uint64_t notes)>;

  // Borrows `fd`.
  NoteWriter(int fd, Missing missing);
  // What waits still is dropped.
  ~NoteWriter();
  NoteWriter(const NoteWriter&) = delete;
  NoteWriter& operator=(const NoteWriter&) = delete;

  void Write(absl::string_view text);
  // Waits until everything is written, or can't be; when `stop_fd` becomes readable, or is, half a
  // second more.
  void Flush(int stop_fd);

 private:
  void Run();
  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return waiting_.empty() && !writing_; }
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stopping_ || !waiting_.empty(); }

  const int fd_;
  const Missing missing_;
  // eventfds: one that is always readable, and one that is when the thread is to end.
  const int at_once_fd_;
  const int stop_fd_;
  absl::Mutex mutex_;
  std::string waiting_ ABSL_GUARDED_BY(mutex_);
  uint64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  // The thread has taken something that it has not written yet.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Started when it is needed first.
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sockbroker::client
