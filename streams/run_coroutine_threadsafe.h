// RunCoroutineThreadsafe: asyncio.run_coroutine_threadsafe. Hands a task to a loop that another
// thread runs.
//
//   ConcurrentFuture<absl::StatusOr<int>> future = RunCoroutineThreadsafe(Answer(), &loop);
//   auto answer = future.Result(absl::Seconds(5));  // nullopt: not yet; the task goes on
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"
#include "streams/task.h"

namespace sockbroker::streams {

// concurrent.futures.Future. Every method is safe from every thread; copies share the state.
template <typename T>
class ConcurrentFuture {
 public:
  // Waits at most `timeout` and takes the result, once; throws what the task threw. No value: it
  // has not ended yet (a time-out does not cancel it), or Cancel was called.
  std::optional<T> Result(absl::Duration timeout = absl::InfiniteDuration()) {
    State& state = *state_;
    std::unique_lock lock(state.mutex);
    if (timeout == absl::InfiniteDuration()) {
      state.settled_or_cancelled.wait(lock, [&] { return state.settled(); });
    } else {
      state.settled_or_cancelled.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                                          [&] { return state.settled(); });
    }
    if (state.cancelled || !state.slot.done) return std::nullopt;
    return state.slot.Take();
  }
  // True when the result is there, or it was cancelled.
  bool Done() const {
    const std::lock_guard lock(state_->mutex);
    return state_->settled();
  }
  // Settles the future as cancelled at once and asks the task to end, on its loop. False when it
  // had settled.
  bool Cancel() {
    {
      const std::lock_guard lock(state_->mutex);
      if (state_->settled()) return false;
      state_->cancelled = true;
    }
    state_->settled_or_cancelled.notify_all();
    state_->loop->Post([state = state_] { state->cancel.Cancel(); });
    return true;
  }
  bool Cancelled() const {
    const std::lock_guard lock(state_->mutex);
    return state_->cancelled;
  }

 private:
  struct State {
    explicit State(EventLoop* l) : loop(l) {}
    EventLoop* const loop;
    CancelSource cancel;  // the loop's thread only
    // The standard's, not Abseil's: ThreadSanitizer can't see into Debian's build of the latter.
    std::mutex mutex;
    std::condition_variable settled_or_cancelled;
    bool cancelled = false;        // under mutex
    internal::ResultSlot<T> slot;  // under mutex
    bool settled() const { return cancelled || slot.done; }
  };
  explicit ConcurrentFuture(std::shared_ptr<State> state) : state_(std::move(state)) {}

  static Task<void> Run(std::shared_ptr<State> state, Task<T> task) {
    internal::ResultSlot<T> slot;
    co_await internal::RunInto(std::move(task), &slot);
    {
      const std::lock_guard lock(state->mutex);
      state->slot = std::move(slot);
    }
    state->settled_or_cancelled.notify_all();
  }

  template <typename U>
  friend ConcurrentFuture<U> RunCoroutineThreadsafe(Task<U> task, EventLoop* loop);

  std::shared_ptr<State> state_;
};

// Safe from every thread. `loop` must outlive the future's use.
template <typename T>
ConcurrentFuture<T> RunCoroutineThreadsafe(Task<T> task, EventLoop* loop) {
  auto state = std::make_shared<typename ConcurrentFuture<T>::State>(loop);
  loop->Dispatch([loop, state, task = std::move(task)]() mutable {
    internal::CancelState* cancel = state->cancel.token().state();
    loop->Spawn(ConcurrentFuture<T>::Run(std::move(state), std::move(task)), cancel);
  });
  return ConcurrentFuture<T>(std::move(state));
}

}  // namespace sockbroker::streams
