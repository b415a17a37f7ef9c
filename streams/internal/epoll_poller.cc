#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <utility>
#include <vector>

#include "streams/error.h"
#include "streams/internal/poller.h"

namespace sockbroker::streams::internal {
namespace {

class EpollPoller final : public Poller {
 public:
  EpollPoller()
      : epoll_fd_(epoll_create1(EPOLL_CLOEXEC)), wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    event.data.ptr = nullptr;
    // Without these two descriptors nothing can run: a process that can't have them has no loop.
    if (epoll_fd_ < 0 || wake_fd_ < 0 ||
        epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &event) != 0) {
      perror("sockbroker: cannot create an event loop");
      std::abort();
    }
  }

  ~EpollPoller() override {
    Reclaim();
    close(wake_fd_);
    close(epoll_fd_);
  }

  absl::StatusOr<PollRegistration*> Register(int fd, PollHandler* handler) override {
    auto registration = std::make_unique<PollRegistration>(PollRegistration{handler});
    epoll_event event{};
    event.events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.ptr = registration.get();
    if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0)
      return ErrnoToStatus(errno, "epoll_ctl");
    registered_++;
    return registration.release();
  }

  void Deregister(int fd, PollRegistration* registration) override {
    epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
    registration->handler = nullptr;
    // An event of the batch in hand may still point to it.
    retired_.emplace_back(registration);
    registered_--;
  }

  void Wait(absl::Duration timeout) override {
    // Round up, so that a timer is never found "not yet due" and spun for.
    int timeout_ms = -1;
    if (timeout != absl::InfiniteDuration()) {
      const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(timeout, absl::Milliseconds(1)));
      timeout_ms = static_cast<int>(std::min<int64_t>(std::max<int64_t>(ms, 0), 3'600'000));
    }
    count_ = epoll_wait(epoll_fd_, events_.data(), static_cast<int>(events_.size()), timeout_ms);
  }

  bool DealOut() override {
    const int count = std::exchange(count_, 0);
    for (int i = 0; i < count; ++i) {
      auto* registration = static_cast<PollRegistration*>(events_[i].data.ptr);
      if (registration == nullptr) {
        uint64_t ignored;
        (void)!read(wake_fd_, &ignored, sizeof(ignored));
      } else if (registration->handler != nullptr) {
        registration->handler->OnPollEvents(events_[i].events);
      }
    }
    Reclaim();
    return count > 0;
  }

  void Wake() override {
    const uint64_t one = 1;
    (void)!write(wake_fd_, &one, sizeof(one));
  }

  std::size_t registered() const override { return registered_; }

 private:
  void Reclaim() { retired_.clear(); }

  const int epoll_fd_;
  const int wake_fd_;
  std::size_t registered_ = 0;
  std::array<epoll_event, 512> events_;
  int count_ = 0;  // of them, not dealt out yet
  std::vector<std::unique_ptr<PollRegistration>> retired_;
};

}  // namespace

std::unique_ptr<Poller> MakeEpollPoller() { return std::make_unique<EpollPoller>(); }

}  // namespace sockbroker::streams::internal
