// EventLoop::Dispatch: callers that run the loop themselves while its own thread waits.
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/event_loop.h"
#include "streams/loop_thread.h"
#include "streams/run_coroutine_threadsafe.h"
#include "streams/sleep.h"
#include "streams/wait_queue.h"
#include "streams/with_cancel.h"

namespace sockbroker::streams {
namespace {

using ::testing::ElementsAre;

// absl's Notification is not built for ThreadSanitizer.
class Event {
 public:
  void Notify() { happened_.set_value(); }
  void Wait() { happened_.get_future().wait(); }

 private:
  std::promise<void> happened_;
};

// Dispatches `function` again and again until this thread has run it: until the loop slept.
template <typename Function>
void DispatchHere(EventLoop* loop, Function function) {
  bool here = false;
  while (!here) {
    Event ran;
    loop->Dispatch([&, self = std::this_thread::get_id()] {
      here = std::this_thread::get_id() == self;
      if (here) function();
      ran.Notify();
    });
    ran.Wait();
  }
}

struct DispatchTest : ::testing::Test {
  DispatchTest() { thread.loop()->EnableDispatch(); }
  LoopThread thread{"test"};
  EventLoop* loop = thread.loop();
};

TEST_F(DispatchTest, RunsOnTheCallingThreadWhileTheLoopsOwnWaits) {
  EventLoop* running = nullptr;
  DispatchHere(loop, [&] { running = GetRunningLoop(); });
  EXPECT_EQ(running, loop);
  EXPECT_FALSE(loop->IsRunningHere());
}

TEST(Dispatch, IsPostUnlessItWasEnabled) {
  LoopThread thread("test");
  for (int i = 0; i < 100; ++i) {
    std::promise<std::thread::id> ran_on;
    thread.loop()->Dispatch([&] { ran_on.set_value(std::this_thread::get_id()); });
    ASSERT_NE(ran_on.get_future().get(), std::this_thread::get_id());
  }
}

TEST_F(DispatchTest, IsPostFromAThreadThatRunsALoop) {
  LoopThread other("other");
  other.loop()->EnableDispatch();
  bool inside = false;
  Event done;
  DispatchHere(loop, [&] {
    const std::thread::id self = std::this_thread::get_id();
    other.loop()->Dispatch([&, self] {
      inside = std::this_thread::get_id() == self;
      done.Notify();
    });
  });
  done.Wait();
  EXPECT_FALSE(inside);
}

TEST_F(DispatchTest, ComesAfterWhatTheSameThreadHasPosted) {
  for (int i = 0; i < 1000; ++i) {
    std::vector<int> order;  // the loop's
    Event done;
    loop->Post([&] { order.push_back(1); });
    loop->Dispatch([&] { order.push_back(2); });
    loop->Post([&] {
      order.push_back(3);
      done.Notify();
    });
    done.Wait();
    ASSERT_THAT(order, ElementsAre(1, 2, 3));
  }
}

TEST_F(DispatchTest, RunsWhatGetsReadyByItBeforeItReturns) {
  int steps = 0;
  DispatchHere(loop, [&] {
    loop->Spawn([](int* steps) -> Task<void> {
      ++*steps;
      (void)co_await Sleep(absl::ZeroDuration());
      ++*steps;
    }(&steps));
    loop->CallSoon([&] { steps += 10; });
  });
  EXPECT_EQ(steps, 12);
}

TEST_F(DispatchTest, ATimerThatItSetsWakesTheLoopThatSlept) {
  Event fired;
  std::thread::id fired_on;
  DispatchHere(loop, [&] {
    loop->CallLater(absl::Milliseconds(1), [&] {
      fired_on = std::this_thread::get_id();
      fired.Notify();
    });
  });
  fired.Wait();
  EXPECT_NE(fired_on, std::this_thread::get_id());
}

TEST_F(DispatchTest, ADescriptorThatItRegistersIsPolledAtOnce) {
  std::array<int, 2> ends;
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()), 0);
  struct Reader final : internal::PollHandler {
    void OnPollEvents(uint32_t) override {
      char byte;
      if (read(fd, &byte, 1) == 1) readable.Notify();
    }
    int fd;
    Event readable;
  } reader;
  reader.fd = ends[0];
  internal::PollRegistration* registration = nullptr;
  DispatchHere(loop, [&] { registration = *loop->Register(ends[0], &reader); });
  ASSERT_EQ(write(ends[1], "x", 1), 1);
  reader.readable.Wait();
  DispatchHere(loop, [&] { loop->Deregister(ends[0], registration); });
  close(ends[0]);
  close(ends[1]);
}

TEST_F(DispatchTest, ADescriptorThatItDeregistersIsNotPolledAnyMore) {
  struct Reader final : internal::PollHandler {
    void OnPollEvents(uint32_t) override {
      // Under the loop's turn, as all else; a registration that is gone would be a crash.
      char bytes[16];
      while (read(fd, bytes, sizeof(bytes)) > 0) {
      }
    }
    int fd = -1;
  };
  for (int i = 0; i < 2000; ++i) {
    std::array<int, 2> ends;
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()), 0);
    auto reader = std::make_unique<Reader>();
    reader->fd = ends[0];
    Event gone;
    loop->Dispatch([&] {
      internal::PollRegistration* registration = *loop->Register(ends[0], reader.get());
      (void)!write(ends[1], "x", 1);  // wakes the loop's thread, which has to wait for its turn
      loop->Deregister(ends[0], registration);
      reader.reset();
      gone.Notify();
    });
    gone.Wait();
    close(ends[0]);
    close(ends[1]);
  }
}

TEST_F(DispatchTest, ManyThreadsTakeTurnsAndNothingIsLostOrOutOfOrder) {
  constexpr int kThreads = 4;
  constexpr int kEach = 5000;
  int total = 0;  // no atomic: one thread at a time runs the loop
  std::array<int, kThreads> last{};
  bool in_order = true;
  Event done;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 1; i <= kEach; ++i) {
        auto count = [&, t, i] {
          in_order = in_order && last[t] == i - 1;
          last[t] = i;
          if (++total == kThreads * kEach) done.Notify();
        };
        if (i % 3 == 0) {
          loop->Post(count);
        } else {
          loop->Dispatch(count);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  done.Wait();
  EXPECT_TRUE(in_order);
}

TEST_F(DispatchTest, WorkThatNeverEndsGoesBackToTheLoopsOwnThread) {
  // Each round makes the next one ready; whoever dispatched it must come out all the same.
  std::atomic<bool> stop{false};
  Event ended;
  std::function<void()> again = [&] {
    if (stop) return ended.Notify();
    loop->CallSoon(again);
  };
  DispatchHere(loop, again);
  stop = true;
  ended.Wait();
}

// The system call that the thread sleeps in; 0 if it does not sleep.
int64_t SleepsIn(pid_t thread) {
  int64_t call = 0;
  std::ifstream("/proc/self/task/" + std::to_string(thread) + "/syscall") >> call;
  return call;
}

// Wakes the loop's own thread up while another has borrowed the turn, until it waits for the turn.
// Whether it then runs what `later` makes ready.
template <typename Later>
bool OwnerGetsTheTurnItWaitsFor(EventLoop* loop, Later later) {
  std::promise<pid_t> told;
  loop->Post([&] { told.set_value(gettid()); });
  const pid_t owner = told.get_future().get();
  std::array<int, 2> ends;
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()), 0);
  struct Ignored final : internal::PollHandler {
    void OnPollEvents(uint32_t) override {}
  } ignored;
  internal::PollRegistration* registration = nullptr;
  std::promise<pid_t> ran_on;
  DispatchHere(loop, [&] {
    registration = *loop->Register(ends[0], &ignored);  // it is writable: an event
    while (SleepsIn(owner) != SYS_futex) std::this_thread::yield();
    later([&] { ran_on.set_value(gettid()); });
  });
  const bool owners = ran_on.get_future().get() == owner;
  DispatchHere(loop, [&] { loop->Deregister(ends[0], registration); });
  close(ends[0]);
  close(ends[1]);
  return owners;
}

TEST_F(DispatchTest, TheLoopsOwnThreadGetsTheTurnThatItWaitsForBeforeWhatIsReady) {
  EXPECT_TRUE(OwnerGetsTheTurnItWaitsFor(loop, [&](std::function<void()> function) {
    // What a callback makes ready still belongs to its round.
    loop->CallSoon([&, function] { loop->CallSoon(function); });
  }));
}

TEST_F(DispatchTest, TheLoopsOwnThreadGetsTheTurnThatItWaitsForBeforeWhatIsPosted) {
  EXPECT_TRUE(OwnerGetsTheTurnItWaitsFor(
      loop, [&](std::function<void()> function) { loop->Post(std::move(function)); }));
}

TEST(Dispatch, WhatEndsTheLoopMayBeDispatchedAndTheLoopWaitsForItsVisitors) {
  for (int i = 0; i < 500; ++i) {
    auto loop = std::make_unique<EventLoop>();
    loop->EnableDispatch();
    std::thread visitor([visit = std::make_unique<EventLoop::Visit>(loop.get())]() mutable {
      visit->Dispatch([] { GetRunningLoop()->Stop(); });
      visit.reset();
    });
    loop->RunForever();
    loop.reset();
    visitor.join();
  }
}

TEST(Dispatch, TheLastTaskOfALoopThatIsDestroyedMayBeEndedByAnotherThread) {
  for (int i = 0; i < 200; ++i) {
    WaitQueue queue;
    bool set = false;
    std::atomic<bool> waiting{false};
    auto loop = std::make_unique<EventLoop>();
    loop->EnableDispatch();
    // A clean-up that cancellation does not end.
    loop->Spawn([](WaitQueue* queue, bool* set, std::atomic<bool>* waiting) -> Task<void> {
      *waiting = true;
      while (!*set) {
        co_await Shielded(
            [](WaitQueue* queue) -> Task<void> { (void)co_await queue->Wait(); }(queue));
      }
    }(&queue, &set, &waiting));
    std::thread other([&, visit = std::make_unique<EventLoop::Visit>(loop.get())]() mutable {
      while (!waiting) std::this_thread::yield();
      visit->Dispatch([&] {
        set = true;
        queue.WakeAll();
      });
      visit.reset();
    });
    loop.reset();
    other.join();
  }
}

TEST(Dispatch, ATaskThatItEndsEndsRunUntilComplete) {
  for (int i = 0; i < 200; ++i) {
    EventLoop loop;
    loop.EnableDispatch();
    WaitQueue queue;
    bool set = false;
    std::atomic<bool> waiting{false};
    std::thread other([&] {
      while (!waiting) std::this_thread::yield();
      loop.Dispatch([&] {
        set = true;
        queue.WakeAll();
      });
    });
    const int result = loop.RunUntilComplete(
        [](WaitQueue* queue, bool* set, std::atomic<bool>* waiting) -> Task<int> {
          *waiting = true;
          while (!*set) (void)co_await queue->Wait();
          co_return 42;
        }(&queue, &set, &waiting));
    EXPECT_EQ(result, 42);
    other.join();
  }
}

TEST_F(DispatchTest, RunCoroutineThreadsafeRunsAsFarAsItGetsOnTheCallingThread) {
  // Until the loop slept at the time of the call.
  while (true) {
    auto future = RunCoroutineThreadsafe(
        []() -> Task<std::thread::id> { co_return std::this_thread::get_id(); }(), loop);
    if (*future.Result() == std::this_thread::get_id()) break;
  }
}

}  // namespace
}  // namespace sockbroker::streams
