// ManualClock: virtual time. A loop with this clock jumps from timer to timer, so that a time-out
// of a minute takes no time, and a test that would wait for ever fails at once.
//
//   ManualClock clock;
//   EventLoop loop(&clock);
//   absl::Status status = loop.RunUntilComplete(TakesAnHour());
//
// One loop's, and on its thread only: a loop that waits for another thread or for a descriptor
// needs real time.
#pragma once

#include <deque>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "streams/clock.h"

namespace sockbroker::streams {

class ManualClock final : public Clock {
 public:
  explicit ManualClock(absl::Time start = absl::UnixEpoch()) : now_(start) {}

  absl::Time Now() override { return now_; }

  // Lets time pass; timers that became due fire in the loop's next iteration. Never back.
  void Advance(absl::Duration duration);

  // Called by a loop that has nothing else to do before `time`. Throws std::logic_error for
  // InfiniteFuture: whoever waits then would wait for ever.
  bool JumpTo(absl::Time time) override;

  // Runs `callback` once, when the loop has nothing left to do at the present time, instead of
  // jumping. Several run one at a time, in order: what one of them starts comes to rest before the
  // next. Idle (idle.h) is the comfortable form.
  void CallWhenIdle(absl::AnyInvocable<void()> callback);

 private:
  absl::Time now_;
  std::deque<absl::AnyInvocable<void()>> when_idle_;
};

}  // namespace sockbroker::streams
