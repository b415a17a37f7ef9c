#include "client/input_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "client/crlf.h"
#include "client/error_text.h"

namespace sockbroker::client {
namespace {

constexpr std::size_t kBlock = 256 << 10;
constexpr std::size_t kReadAhead = 512 << 10;

}  // namespace

InputReader::InputReader(int fd, bool crlf, std::shared_ptr<streams::WaitQueue> news)
    : fd_(fd),
      crlf_(crlf),
      news_(std::move(news)),
      loop_(streams::GetRunningLoop()),
      stop_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

InputReader::~InputReader() {
  Stop();
  close(stop_fd_);
}

void InputReader::Stop() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  eventfd_write(stop_fd_, 1);
  thread_.join();
}

InputReader::Piece InputReader::Take() {
  absl::MutexLock lock(&mutex_);
  return {std::exchange(bytes_, absl::Cord()), ended_, error_};
}

bool InputReader::HasSomething() const {
  {
    absl::MutexLock lock(&mutex_);
    if (reading_ || !bytes_.empty()) return true;
    if (ended_) return false;
  }
  pollfd fds{fd_, POLLIN, 0};
  return poll(&fds, 1, 0) > 0;
}

bool InputReader::exhausted() const {
  absl::MutexLock lock(&mutex_);
  return ended_ && bytes_.empty();
}

void InputReader::Notify() {
  loop_->Post([news = news_] { news->WakeAll(); });
}

bool InputReader::HasRoom() const { return stopping_ || bytes_.size() + kBlock <= kReadAhead; }

void InputReader::Append(absl::string_view bytes) {
  // Who has not taken the rest will find this with it.
  const bool news = bytes_.empty();
  bytes_.Append(bytes);
  if (news) Notify();
}

absl::Status CheckReadable(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  const int error = flags < 0 ? errno : (flags & O_ACCMODE) == O_WRONLY ? EBADF : 0;
  return error == 0 ? absl::OkStatus() : absl::UnknownError(ErrnoText(error));
}

void InputReader::Run() {
  if (absl::Status status = CheckReadable(fd_); !status.ok()) {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    error_ = std::move(status);
    Notify();
    return;
  }
  std::string block(kBlock, '\0');
  std::string converted;
  CrlfConverter converter;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &InputReader::HasRoom));
      if (stopping_) return;
    }
    pollfd fds[] = {{fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents != 0) return;
    {
      absl::MutexLock lock(&mutex_);
      reading_ = true;
    }
    const ssize_t got = read(fd_, block.data(), block.size());
    const int error = errno;
    absl::string_view bytes(block.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
    if (crlf_) {
      converted.clear();
      converter.Append(bytes, &converted);
      bytes = converted;
    }
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (got > 0) {
      Append(bytes);
    } else if (got == 0 || (error != EINTR && error != EAGAIN)) {
      ended_ = true;
      // A terminal that was hung up has ended.
      if (got < 0 && error != EIO) error_ = absl::UnknownError(ErrnoText(error));
      Notify();
      return;
    }
  }
}

}  // namespace sockbroker::client
