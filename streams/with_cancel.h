// WithCancel and Shielded: run a task under another token than its awaiter's.
//
//   CancelSource source(co_await GetCancelToken());  // ends with us, or when we say so
//   auto line = co_await WithCancel(reader.ReadLine(), source.token());
//   co_await Shielded(writer.WaitClosed());          // clean-up that waits though we are cancelled
#pragma once

#include <coroutine>
#include <utility>

#include "streams/cancel.h"
#include "streams/task.h"

namespace sockbroker::streams {

namespace internal {

template <typename T>
class [[nodiscard]] UnderToken {
 public:
  UnderToken(Task<T> task, CancelState* cancel)
      : task_(std::move(task)), awaiter_(std::move(task_).AwaitUnder(cancel)) {}
  bool await_ready() const noexcept { return false; }
  template <typename Promise>
  auto await_suspend(std::coroutine_handle<Promise> self) noexcept {
    return awaiter_.await_suspend(self);
  }
  T await_resume() { return awaiter_.await_resume(); }

 private:
  Task<T> task_;
  decltype(std::declval<Task<T>>().AwaitUnder(nullptr)) awaiter_;
};

}  // namespace internal

// `task` is told to end when `token` is cancelled, and only then. To end with the awaiter as well,
// make the token's source a child of the awaiter's token. The source must outlive the await.
template <typename T>
internal::UnderToken<T> WithCancel(Task<T> task, CancelToken token) {
  return {std::move(task), token.state()};
}

// `task` runs to its end whatever happens to the awaiter; the awaiter waits for it. Use it for
// short clean-up.
template <typename T>
internal::UnderToken<T> Shielded(Task<T> task) {
  return {std::move(task), nullptr};
}

}  // namespace sockbroker::streams
