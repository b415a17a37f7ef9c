// The two ideas of RFC 8305, apart from sockets so that they can be tested in virtual time: in
// which order addresses are tried, and when the next attempt starts. asyncio's
// _interleave_addrinfos and staggered_race.
//
//   auto order = InterleaveFamilies(addresses, /*first_family_count=*/1);
//   auto winner = co_await StaggeredRace<Descriptor>(order.size(), attempt,
//   absl::Milliseconds(250));
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "streams/address.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/task_group.h"
#include "streams/wait_queue.h"
#include "streams/with_cancel.h"

namespace sockbroker::streams::internal {

// `first_family_count` addresses of the first family (at least 1), then one of each family in turn.
std::vector<SocketAddress> InterleaveFamilies(const std::vector<SocketAddress>& addresses,
                                              std::size_t first_family_count);

template <typename T>
struct RaceResult {
  std::optional<T> winner;
  std::vector<absl::Status>
      errors;  // of the attempts that began and failed, in the order of their begin
};

// Runs attempt(0), attempt(1), ... until one succeeds; the others are then cancelled and waited
// for. Without `delay` strictly one after another; with it, attempt k+1 begins when attempt k fails
// or `delay` after attempt k began, whichever is first. When the awaiter is cancelled there is no
// winner, and every attempt has ended.
template <typename T>
Task<RaceResult<T>> StaggeredRace(std::size_t count,
                                  std::function<Task<absl::StatusOr<T>>(std::size_t)> attempt,
                                  std::optional<absl::Duration> delay) {
  struct Race {
    WaitQueue changed;
    std::optional<T> winner;
    std::vector<std::optional<absl::Status>> ended;  // per begun attempt
    bool thrown = false;                             // by an attempt; the group keeps what

    static Task<void> Run(Race* race, std::size_t index, Task<absl::StatusOr<T>> attempt) {
      try {
        absl::StatusOr<T> result = co_await std::move(attempt);
        race->ended[index] = result.status();
        if (result.ok() && !race->winner.has_value()) race->winner = *std::move(result);
        race->changed.WakeAll();
      } catch (...) {
        race->thrown = true;
        race->changed.WakeAll();
        throw;
      }
    }
    bool over() const { return winner.has_value() || thrown; }
  };
  Race race;
  absl::Status cancelled;
  const internal::TaskContext context = co_await internal::CurrentContext{};
  TaskGroup attempts(context.loop);
  for (std::size_t i = 0; i < count && cancelled.ok() && !race.over(); ++i) {
    race.ended.emplace_back();
    attempts.Spawn(Race::Run(&race, i, attempt(i)));
    bool stagger = false;
    Timer timer(context.loop, [&] {
      stagger = true;
      race.changed.WakeAll();
    });
    // The last attempt has nobody to make way for.
    if (delay.has_value() && i + 1 < count) timer.SetAfter(*delay);
    while (cancelled.ok() && !race.over() && !stagger) {
      const bool all_ended = attempts.empty();
      if (i + 1 < count ? race.ended[i].has_value() : all_ended) break;
      cancelled = co_await race.changed.Wait();
    }
  }
  attempts.Cancel();
  (void)co_await Shielded(attempts.Join());
  RaceResult<T> result;
  if (cancelled.ok()) result.winner = std::move(race.winner);
  for (std::optional<absl::Status>& ended : race.ended) {
    if (ended.has_value() && !ended->ok()) result.errors.push_back(*std::move(ended));
  }
  co_return result;
}

}  // namespace sockbroker::streams::internal
