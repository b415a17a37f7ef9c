// CreateTask: asyncio.create_task. Starts a task beside the running one.
//
//   TaskHandle<absl::StatusOr<int>> handle = CreateTask(Answer());
//   ...
//   absl::StatusOr<int> answer = co_await handle.Join();
//
// The loop owns the task until it ends; the handle may be dropped (asyncio keeps only a weak
// reference: ours never vanishes in flight). Prefer TaskGroup (task_group.h), whose children can't
// outlive their scope.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/wait_queue.h"
#include "streams/with_cancel.h"

namespace sockbroker::streams {

template <typename T>
class TaskHandle {
 public:
  // Asks the task to end; it ends in its own time. False when it has ended already (asyncio's
  // Task.cancel()).
  bool Cancel(absl::Status reason = absl::CancelledError("cancelled")) {
    if (done()) return false;
    state_->cancel.Cancel(std::move(reason));
    return true;
  }
  bool done() const { return state_->slot.done; }
  const std::string& name() const { return state_->name; }

  // Waits for the end and takes the result (throws what the task threw). At most once. As in
  // asyncio, cancelling the awaiter cancels the task, and waits until it has ended.
  Task<T> Join() { return Join(state_); }

 private:
  struct State {
    CancelSource cancel;
    internal::ResultSlot<T> slot;
    WaitQueue ended;
    std::string name;
  };
  explicit TaskHandle(std::shared_ptr<State> state) : state_(std::move(state)) {}

  static Task<T> Join(std::shared_ptr<State> state) {
    while (!state->slot.done) {
      if (absl::Status status = co_await state->ended.Wait(); !status.ok()) {
        state->cancel.Cancel(std::move(status));
        while (!state->slot.done) co_await Shielded(WaitUninterrupted(state));
      }
    }
    co_return state->slot.Take();
  }
  static Task<void> WaitUninterrupted(std::shared_ptr<State> state) {
    (void)co_await state->ended.Wait();
  }
  static Task<void> Run(std::shared_ptr<State> state, Task<T> task) {
    co_await internal::RunInto(std::move(task), &state->slot);
    state->ended.WakeAll();
  }

  template <typename U>
  friend TaskHandle<U> CreateTask(Task<U> task, std::string name, EventLoop* loop);

  std::shared_ptr<State> state_;
};

// `task` starts in a later turn of `loop` (null: the running one; throws std::logic_error outside a
// loop). `name` is for people.
template <typename T>
TaskHandle<T> CreateTask(Task<T> task, std::string name = "", EventLoop* loop = nullptr) {
  if (loop == nullptr) loop = GetRunningLoop();
  auto state = std::make_shared<typename TaskHandle<T>::State>();
  state->name = std::move(name);
  internal::CancelState* cancel = state->cancel.token().state();
  loop->Spawn(TaskHandle<T>::Run(state, std::move(task)), cancel);
  return TaskHandle<T>(std::move(state));
}

}  // namespace sockbroker::streams
