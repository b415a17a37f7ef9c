// LoopGate: how gRPC's threads reach an event loop that may go before they do.
//
//   gate->Dispatch([...] { ... });  // any thread; dropped once the gate is closed
//   gate->Close();                  // the loop's thread, at the latest when the loop ends
#pragma once

#include <mutex>
#include <optional>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "streams/event_loop.h"

namespace sockbroker::client::internal {

class LoopGate {
 public:
  explicit LoopGate(streams::EventLoop* loop) : loop_(loop) {}
  LoopGate(const LoopGate&) = delete;
  LoopGate& operator=(const LoopGate&) = delete;

  void Dispatch(absl::AnyInvocable<void()> callback) {
    std::optional<streams::EventLoop::Visit> visit;
    {
      // Not held any longer: the callback may close the gate. The loop waits for its visitors.
      const std::lock_guard lock(mutex_);
      if (loop_ == nullptr) return;
      visit.emplace(loop_);
    }
    visit->Dispatch(std::move(callback));
  }
  void Close() {
    const std::lock_guard lock(mutex_);
    loop_ = nullptr;
  }

 private:
  std::mutex mutex_;
  streams::EventLoop* loop_;
};

}  // namespace sockbroker::client::internal
