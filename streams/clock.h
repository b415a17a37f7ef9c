// Clock: where an event loop gets its time from. Production uses `MonotonicClock()`; tests use
// streams/testing/manual_clock.h, so that a time-out of a minute takes no time.
//
//   EventLoop loop;                      // real time
//   ManualClock clock;
//   EventLoop virtual_loop(&clock);      // a loop that jumps from timer to timer
#pragma once

#include "absl/time/time.h"

namespace sockbroker::streams {

class Clock {
 public:
  virtual ~Clock() = default;

  // A time that never goes back. Its origin is arbitrary: it is not the wall clock's.
  virtual absl::Time Now() = 0;

  // A clock in virtual time jumps to `time` and returns true when a loop has nothing else to do
  // before it; a real clock returns false, and the loop sleeps in the kernel. `InfiniteFuture`:
  // nothing can ever happen again.
  virtual bool JumpTo(absl::Time /*time*/) { return false; }
};

// CLOCK_MONOTONIC. One for the process, never destroyed; safe from every thread.
Clock* MonotonicClock();

}  // namespace sockbroker::streams
