// TaskGroup: tasks that end before their scope does. asyncio.TaskGroup.
//
//   TaskGroup group;
//   group.Spawn(Copy(a.reader, b.writer));
//   group.Spawn(Copy(b.reader, a.writer));
//   absl::Status status = co_await group.Join();     // the first error, after all have ended
//
// The first child that gives an error (or throws) cancels the others. Cancelling the task that
// joins cancels them all. A group in which something was spawned must be joined before it is
// destroyed.
#pragma once

#include <exception>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/wait_queue.h"
#include "streams/with_cancel.h"

namespace sockbroker::streams {

class TaskGroup {
 public:
  // Children run on `loop`; null: the running one.
  explicit TaskGroup(EventLoop* loop = nullptr)
      : loop_(loop != nullptr ? loop : GetRunningLoop()) {}
  ~TaskGroup() {
    if (running_ != 0) std::terminate();  // a child would outlive what it refers to
  }
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  // Starts a child in a later turn of the loop. After Cancel it still starts, cancelled.
  void Spawn(Task<absl::Status> task) {
    running_++;
    loop_->Spawn(Run(this, std::move(task)), cancel_.token().state());
  }
  void Spawn(Task<void> task) { Spawn(Adapt(std::move(task))); }

  // Asks every child to end.
  void Cancel(absl::Status reason = absl::CancelledError("cancelled")) {
    cancel_.Cancel(std::move(reason));
  }
  bool empty() const { return running_ == 0; }

  // Waits until every child has ended. The first error of a child; the reason if the joining task
  // was cancelled; else OK. Throws what a child threw.
  Task<absl::Status> Join() {
    while (running_ != 0) {
      if (absl::Status status = co_await ended_.Wait(); !status.ok()) {
        if (first_error_.ok()) first_error_ = status;
        Cancel(std::move(status));
        while (running_ != 0) co_await Shielded(WaitOnce());
      }
    }
    if (exception_) std::rethrow_exception(std::exchange(exception_, nullptr));
    co_return first_error_;
  }

 private:
  static Task<absl::Status> Adapt(Task<void> task) {
    co_await std::move(task);
    co_return absl::OkStatus();
  }
  static Task<void> Run(TaskGroup* group, Task<absl::Status> task) {
    absl::Status status;
    try {
      status = co_await std::move(task);
    } catch (...) {
      if (!group->exception_) group->exception_ = std::current_exception();
      status = absl::InternalError("a child of the group threw");
    }
    if (!status.ok() && !group->cancel_.cancelled()) {
      group->first_error_ = status;
      group->Cancel(absl::CancelledError("another task of the group failed"));
    }
    if (--group->running_ == 0) group->ended_.WakeAll();
  }
  Task<void> WaitOnce() { (void)co_await ended_.Wait(); }

  EventLoop* const loop_;
  CancelSource cancel_;
  WaitQueue ended_;
  int running_ = 0;
  absl::Status first_error_;
  std::exception_ptr exception_;
};

}  // namespace sockbroker::streams
