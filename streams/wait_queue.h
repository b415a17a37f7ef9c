// WaitQueue: where coroutines of one loop wait for something to happen. The one suspension point of
// the engine besides Sleep; everything that waits (a reader for data, a writer for room, a server
// for its end) waits in one of these.
//
//   WaitQueue changed;
//   while (!condition) {
//     absl::Status status = co_await changed.Wait();
//     if (!status.ok()) co_return status;  // cancelled, deadline
//   }
//   ...  condition = true; changed.WakeAll();
//
// A woken waiter is resumed in the next turn of the loop, not inside WakeAll. A waiter that was
// woken and cancelled in the same turn counts as woken: what happened is not lost to the race.
#pragma once

#include <coroutine>
#include <utility>

#include "absl/status/status.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"
#include "streams/task.h"

namespace sockbroker::streams {

class WaitQueue {
 public:
  class Waiter;

  WaitQueue() = default;
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  // Nobody may wait any more.
  ~WaitQueue() = default;

  // Awaitable; gives OK when woken, the token's reason when cancelled, or what WakeAll was given.
  Waiter Wait();

  void WakeOne(absl::Status status = absl::OkStatus());
  void WakeAll(absl::Status status = absl::OkStatus());
  bool empty() const { return head_ == nullptr; }

 private:
  void Push(Waiter* waiter);
  void Remove(Waiter* waiter);

  Waiter* head_ = nullptr;
  Waiter* tail_ = nullptr;
};

class [[nodiscard]] WaitQueue::Waiter final : private internal::CancelListener {
 public:
  explicit Waiter(WaitQueue* queue) : queue_(queue) {}

  bool await_ready() const noexcept { return false; }
  template <typename Promise>
  bool await_suspend(std::coroutine_handle<Promise> self) {
    const internal::TaskContext context = self.promise().context();
    loop_ = context.loop;
    self_ = self;
    if (context.cancel != nullptr) {
      if (context.cancel->cancelled()) {
        // Through the loop all the same: code that ignores a cancellation must not spin without
        // yielding.
        status_ = context.cancel->reason();
        loop_->Ready(self_);
        return true;
      }
      context.cancel->Link(this);
    }
    queue_->Push(this);
    return true;
  }
  absl::Status await_resume() { return std::move(status_); }

 private:
  friend class WaitQueue;

  void OnCancel(const absl::Status& reason) override {
    queue_->Remove(this);
    Resume(reason);
  }
  void Resume(absl::Status status) {
    Unlink();
    status_ = std::move(status);
    loop_->Ready(self_);
  }

  WaitQueue* queue_;
  Waiter* previous_ = nullptr;
  Waiter* next_ = nullptr;
  EventLoop* loop_ = nullptr;
  std::coroutine_handle<> self_;
  absl::Status status_;
};

inline WaitQueue::Waiter WaitQueue::Wait() { return Waiter(this); }

inline void WaitQueue::Push(Waiter* waiter) {
  waiter->previous_ = tail_;
  waiter->next_ = nullptr;
  (tail_ != nullptr ? tail_->next_ : head_) = waiter;
  tail_ = waiter;
}

inline void WaitQueue::Remove(Waiter* waiter) {
  (waiter->previous_ != nullptr ? waiter->previous_->next_ : head_) = waiter->next_;
  (waiter->next_ != nullptr ? waiter->next_->previous_ : tail_) = waiter->previous_;
}

inline void WaitQueue::WakeOne(absl::Status status) {
  if (Waiter* waiter = head_; waiter != nullptr) {
    Remove(waiter);
    waiter->Resume(std::move(status));
  }
}

inline void WaitQueue::WakeAll(absl::Status status) {
  while (head_ != nullptr) WakeOne(status);
}

}  // namespace sockbroker::streams
