#include "streams/testing/manual_clock.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace sockbroker::streams {

void ManualClock::Advance(absl::Duration duration) {
  if (duration < absl::ZeroDuration()) throw std::logic_error("time does not go back");
  now_ += duration;
}

bool ManualClock::JumpTo(absl::Time time) {
  if (!when_idle_.empty()) {
    absl::AnyInvocable<void()> callback = std::move(when_idle_.front());
    when_idle_.pop_front();
    callback();
    return true;
  }
  if (time == absl::InfiniteFuture()) {
    throw std::logic_error("nothing can ever happen again: the test would hang");
  }
  now_ = std::max(now_, time);
  return true;
}

void ManualClock::CallWhenIdle(absl::AnyInvocable<void()> callback) {
  when_idle_.push_back(std::move(callback));
}

}  // namespace sockbroker::streams
