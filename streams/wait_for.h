// WaitFor: asyncio.wait_for.
//
//   absl::StatusOr<absl::Cord> line = co_await WaitFor(reader.ReadLine(), absl::Seconds(5));
//   if (absl::IsDeadlineExceeded(line.status())) ...
#pragma once

#include <optional>
#include <type_traits>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/with_cancel.h"

namespace sockbroker::streams {

namespace internal {

template <typename T>
struct WaitForResult {
  using type = absl::StatusOr<T>;
};
template <>
struct WaitForResult<void> {
  using type = absl::Status;
};
template <>
struct WaitForResult<absl::Status> {
  using type = absl::Status;
};
template <typename T>
struct WaitForResult<absl::StatusOr<T>> {
  using type = absl::StatusOr<T>;
};

}  // namespace internal

// Awaits `task`, and cancels it with kDeadlineExceeded after `timeout`; then waits until it has
// really ended. A result that it gives all the same (it ignored the cancellation, or had it in the
// same turn) wins: nothing is ever lost to the race (asyncio since 3.12 drops it).
// InfiniteDuration: just awaits. Zero or less: a task is never started.
template <typename T>
Task<typename internal::WaitForResult<T>::type> WaitFor(Task<T> task, absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration()) co_return absl::DeadlineExceededError("timed out");
  const internal::TaskContext context = co_await internal::CurrentContext{};
  CancelSource source{CancelToken(context.cancel)};
  bool timed_out = false;
  Timer timer(context.loop, [&] {
    timed_out = true;
    source.Cancel(absl::DeadlineExceededError("timed out"));
  });
  if (timeout != absl::InfiniteDuration()) timer.SetAfter(timeout);
  if constexpr (std::is_void_v<T>) {
    co_await WithCancel(std::move(task), source.token());
    co_return timed_out ? absl::DeadlineExceededError("timed out") : absl::OkStatus();
  } else {
    co_return co_await WithCancel(std::move(task), source.token());
  }
}

}  // namespace sockbroker::streams
