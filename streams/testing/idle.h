// Idle, PassTime, Turns and Until: how a test sees that something is still blocked, without
// sleeping.
//
//   auto read = CreateTask(reader.Read(1));
//   co_await Idle();                // everything that can run has run, and no time has passed
//   EXPECT_FALSE(read.done());
#pragma once

#include <coroutine>
#include <stdexcept>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/time/time.h"
#include "streams/event_loop.h"
#include "streams/sleep.h"
#include "streams/task.h"
#include "streams/testing/manual_clock.h"

namespace sockbroker::streams {

// Virtual time only: resumes when the loop has nothing left to do before time would have to pass.
class [[nodiscard]] Idle {
 public:
  bool await_ready() const noexcept { return false; }
  template <typename Promise>
  void await_suspend(std::coroutine_handle<Promise> self) const {
    EventLoop* loop = self.promise().context().loop;
    auto* clock = dynamic_cast<ManualClock*>(loop->clock());
    if (clock == nullptr) throw std::logic_error("Idle() needs virtual time; see Turns()");
    clock->CallWhenIdle([loop, self] { loop->Ready(self); });
  }
  void await_resume() const noexcept {}
};

// Virtual time: lets it pass, and everything happen that is due in it.
inline Task<void> PassTime(absl::Duration duration) { (void)co_await Sleep(duration); }

// Real time: gives everybody else, and the kernel's events, `count` turns of the loop. What must
// happen is awaited itself; this is for what must not: it can miss a late fault, but never reports
// one that isn't there.
inline Task<void> Turns(int count = 20) {
  for (int i = 0; i < count; ++i) co_await Yield();
}

// Real time: turns of the loop until `condition` is true; the test's own limit ends it when it
// never is. For what can't be awaited, such as bytes at a socket that the test plays by hand.
inline Task<void> Until(absl::AnyInvocable<bool()> condition) {
  while (!condition() && !(co_await GetCancelToken()).cancelled()) co_await Yield();
}

}  // namespace sockbroker::streams
