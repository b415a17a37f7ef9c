// Sleep and Yield: asyncio.sleep.
//
//   absl::Status status = co_await Sleep(absl::Seconds(1));  // OK, or why it ended early
//   co_await Yield();                                        // all that is ready runs once
#pragma once

#include <coroutine>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"

namespace sockbroker::streams {

// Waits for `delay`. Zero or less yields exactly once. Gives OK, or the token's reason when
// cancelled.
class [[nodiscard]] Sleep final : private internal::CancelListener {
 public:
  explicit Sleep(absl::Duration delay) : delay_(delay) {}

  bool await_ready() const noexcept { return false; }
  template <typename Promise>
  bool await_suspend(std::coroutine_handle<Promise> self) {
    const internal::TaskContext context = self.promise().context();
    loop_ = context.loop;
    self_ = self;
    if (context.cancel != nullptr && context.cancel->cancelled()) {
      status_ = context.cancel->reason();
      loop_->Ready(self_);
    } else if (delay_ <= absl::ZeroDuration()) {
      loop_->Ready(self_);
    } else {
      if (context.cancel != nullptr) context.cancel->Link(this);
      timer_.emplace(loop_, [this] {
        Unlink();
        loop_->Ready(self_);
      });
      timer_->SetAfter(delay_);
    }
    return true;
  }
  absl::Status await_resume() { return std::move(status_); }

 private:
  void OnCancel(const absl::Status& reason) override {
    timer_->Cancel();
    status_ = reason;
    loop_->Ready(self_);
  }

  const absl::Duration delay_;
  EventLoop* loop_ = nullptr;
  std::coroutine_handle<> self_;
  std::optional<Timer> timer_;
  absl::Status status_;
};

// One turn of the loop, whatever the token says. asyncio.sleep(0).
struct Yield {
  bool await_ready() const noexcept { return false; }
  template <typename Promise>
  void await_suspend(std::coroutine_handle<Promise> self) {
    self.promise().context().loop->Ready(self);
  }
  void await_resume() const noexcept {}
};

}  // namespace sockbroker::streams
