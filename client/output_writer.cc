#include "client/output_writer.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

namespace sockbroker::client {
namespace {

// What one write(2) gets at most.
constexpr std::size_t kBlock = 256 << 10;

}  // namespace

OutputWriter::OutputWriter(int fd, std::shared_ptr<streams::WaitQueue> news)
    : news_(std::move(news)),
      loop_(streams::GetRunningLoop()),
      output_(fd),
      stop_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

OutputWriter::~OutputWriter() {
  Stop();
  close(stop_fd_);
  close(wake_fd_);
}

void OutputWriter::Stop() {
  if (!thread_.joinable()) return;
  eventfd_write(stop_fd_, 1);
  thread_.join();
  output_.Release();
}

void OutputWriter::Write(absl::Cord bytes) {
  absl::MutexLock lock(&mutex_);
  if (state_ != State::kOpen) return;
  const bool idle = bytes_.empty() && in_hand_ == 0;
  bytes_.Append(std::move(bytes));
  if (idle) eventfd_write(wake_fd_, 1);
}

uint64_t OutputWriter::written() {
  // In this order: what is written from here on is told again.
  notified_.store(false);
  return written_.load();
}

std::size_t OutputWriter::pending() const {
  absl::MutexLock lock(&mutex_);
  return bytes_.size() + in_hand_;
}

OutputWriter::State OutputWriter::state() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

void OutputWriter::Notify() {
  if (!notified_.exchange(true)) loop_->Post([news = news_] { news->WakeAll(); });
}

void OutputWriter::Run() {
  std::string block;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      in_hand_ = std::min(bytes_.size(), kBlock);
      block = std::string(bytes_.Subcord(0, in_hand_));
      bytes_.RemovePrefix(in_hand_);
    }
    Output::Result result = Output::Result::kOk;
    if (block.empty()) {
      // Errors are always reported: the reader's going shows at once, not with the next byte.
      pollfd fds[] = {{stop_fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}, {output_.fd(), 0, 0}};
      if (poll(fds, 3, -1) <= 0) continue;
      if (fds[0].revents != 0) return;
      eventfd_t ignored = 0;
      if (fds[1].revents != 0) {
        eventfd_read(wake_fd_, &ignored);
        continue;
      }
      result = Output::Result::kClosed;
    } else {
      result = output_.Write(block, stop_fd_, [this](std::size_t bytes) {
        written_.fetch_add(bytes);
        {
          absl::MutexLock lock(&mutex_);
          in_hand_ -= bytes;
        }
        Notify();
      });
    }
    if (result == Output::Result::kOk) continue;
    if (result == Output::Result::kStopped) return;
    {
      absl::MutexLock lock(&mutex_);
      state_ = result == Output::Result::kClosed ? State::kClosed : State::kFailed;
    }
    notified_.store(false);
    Notify();
    return;
  }
}

}  // namespace sockbroker::client
