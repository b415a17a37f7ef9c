// Gather: asyncio.gather. Runs tasks side by side and gives their results in the order of the
// arguments.
//
//   auto both = co_await Gather(Fetch(a), Fetch(b));  // a StatusOr of both, or the first error
//   auto [x, y] = co_await GatherSettled(Fetch(a), Fetch(b));  // a StatusOr each
//
// As in asyncio, Gather's first error does not cancel the siblings: they go on in the background
// and what they give is dropped. Cancelling the gather cancels every child and waits until all have
// ended. An exception counts as an error and is thrown from the gather. For children that must end
// together, use TaskGroup.
#pragma once

#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/wait_queue.h"
#include "streams/with_cancel.h"

namespace sockbroker::streams {

namespace internal {

struct GatherState {
  CancelSource cancel;
  WaitQueue changed;
  std::size_t running = 0;
  absl::Status first_error;
  std::exception_ptr first_exception;
};

inline absl::Status StatusOf(const absl::Status& status) { return status; }
template <typename T>
absl::Status StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// Runs one child; its result goes to `slot`, which `state` keeps alive.
template <typename T>
Task<void> GatherChild(std::shared_ptr<GatherState> state, Task<T> task,
                       std::shared_ptr<std::optional<T>> slot) {
  try {
    slot->emplace(co_await std::move(task));
    if (!StatusOf(**slot).ok() && state->first_error.ok() && !state->first_exception) {
      state->first_error = StatusOf(**slot);
    }
  } catch (...) {
    if (state->first_error.ok() && !state->first_exception)
      state->first_exception = std::current_exception();
  }
  state->running--;
  state->changed.WakeAll();
}

template <typename T>
std::shared_ptr<std::optional<T>> StartGatherChild(const std::shared_ptr<GatherState>& state,
                                                   EventLoop* loop, Task<T> task) {
  auto slot = std::make_shared<std::optional<T>>();
  state->running++;
  loop->Spawn(GatherChild(state, std::move(task), slot), state->cancel.token().state());
  return slot;
}

// Waits for all children, or (fail_fast) for the first error. Gives the awaiter's own cancellation
// as the status.
inline Task<absl::Status> AwaitGather(std::shared_ptr<GatherState> state, bool fail_fast) {
  absl::Status cancelled;
  while (state->running != 0) {
    if (cancelled.ok() && fail_fast && (!state->first_error.ok() || state->first_exception)) break;
    if (!cancelled.ok()) {
      co_await Shielded(
          [](GatherState* s) -> Task<void> { (void)co_await s->changed.Wait(); }(state.get()));
    } else if (absl::Status status = co_await state->changed.Wait(); !status.ok()) {
      cancelled = status;
      state->cancel.Cancel(std::move(status));
    }
  }
  if (state->first_exception) std::rethrow_exception(state->first_exception);
  co_return cancelled;
}

template <typename T>
struct ValueOf;
template <typename T>
struct ValueOf<absl::StatusOr<T>> {
  using type = T;
};

}  // namespace internal

// Fail fast: the values, or the first error in time. Tasks must give absl::StatusOr<...>.
template <typename... T>
Task<absl::StatusOr<std::tuple<typename internal::ValueOf<T>::type...>>> Gather(Task<T>... tasks) {
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  auto state = std::make_shared<internal::GatherState>();
  auto slots = std::make_tuple(internal::StartGatherChild(state, loop, std::move(tasks))...);
  absl::Status cancelled = co_await internal::AwaitGather(state, /*fail_fast=*/true);
  if (!cancelled.ok()) co_return cancelled;
  if (!state->first_error.ok()) co_return state->first_error;
  co_return std::apply([](auto&... slot) { return std::make_tuple(*std::move(**slot)...); }, slots);
}
template <typename T>
Task<absl::StatusOr<std::vector<T>>> Gather(std::vector<Task<absl::StatusOr<T>>> tasks) {
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  auto state = std::make_shared<internal::GatherState>();
  std::vector<std::shared_ptr<std::optional<absl::StatusOr<T>>>> slots;
  slots.reserve(tasks.size());
  for (auto& task : tasks)
    slots.push_back(internal::StartGatherChild(state, loop, std::move(task)));
  absl::Status cancelled = co_await internal::AwaitGather(state, /*fail_fast=*/true);
  if (!cancelled.ok()) co_return cancelled;
  if (!state->first_error.ok()) co_return state->first_error;
  std::vector<T> values;
  values.reserve(slots.size());
  for (auto& slot : slots) values.push_back(*std::move(**slot));
  co_return values;
}

// return_exceptions=True: each task's own result (absl::Status or absl::StatusOr<...>), errors
// included.
template <typename... T>
Task<std::tuple<T...>> GatherSettled(Task<T>... tasks) {
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  auto state = std::make_shared<internal::GatherState>();
  auto slots = std::make_tuple(internal::StartGatherChild(state, loop, std::move(tasks))...);
  (void)co_await internal::AwaitGather(state, /*fail_fast=*/false);
  co_return std::apply([](auto&... slot) { return std::make_tuple(std::move(**slot)...); }, slots);
}
template <typename T>
Task<std::vector<T>> GatherSettled(std::vector<Task<T>> tasks) {
  EventLoop* loop = (co_await internal::CurrentContext{}).loop;
  auto state = std::make_shared<internal::GatherState>();
  std::vector<std::shared_ptr<std::optional<T>>> slots;
  slots.reserve(tasks.size());
  for (auto& task : tasks)
    slots.push_back(internal::StartGatherChild(state, loop, std::move(task)));
  (void)co_await internal::AwaitGather(state, /*fail_fast=*/false);
  std::vector<T> results;
  results.reserve(slots.size());
  for (auto& slot : slots) results.push_back(std::move(**slot));
  co_return results;
}

}  // namespace sockbroker::streams
