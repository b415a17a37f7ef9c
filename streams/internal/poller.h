// Poller: which descriptors have something to say. epoll today; another interface of the kernel can
// stand behind the same few calls.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace sockbroker::streams::internal {

// Bits as epoll has them (EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR),
// edge-triggered: each edge is told once.
class PollHandler {
 public:
  virtual void OnPollEvents(uint32_t events) = 0;

 protected:
  ~PollHandler() = default;
};

// One registered descriptor. A descriptor's number is used again the moment it is closed, so events
// are matched by this object, which lives until the batch of events it could appear in has been
// dealt out.
struct PollRegistration {
  PollHandler* handler;  // null once deregistered
};

class Poller {
 public:
  virtual ~Poller() = default;
  virtual absl::StatusOr<PollRegistration*> Register(int fd, PollHandler* handler) = 0;
  // Before `fd` is closed.
  virtual void Deregister(int fd, PollRegistration* registration) = 0;
  // Waits at most `timeout` for something to happen. Meanwhile another thread may register and
  // deregister.
  virtual void Wait(absl::Duration timeout) = 0;
  // Calls the handlers of what Wait found. True if anything was dealt out (wake-ups too).
  virtual bool DealOut() = 0;
  // Ends a Wait under way, or the next one. Any thread.
  virtual void Wake() = 0;
  // How many descriptors are registered.
  virtual std::size_t registered() const = 0;
};

std::unique_ptr<Poller> MakeEpollPoller();

}  // namespace sockbroker::streams::internal
