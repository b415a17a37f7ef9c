// What other threads may do with a loop: Post, Stop, RunCoroutineThreadsafe; and LoopThread. In
// real time.
#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/event_loop.h"
#include "streams/loop_thread.h"
#include "streams/run_coroutine_threadsafe.h"
#include "streams/sleep.h"
#include "streams/testing/co_test.h"
#include "streams/wait_queue.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::Optional;

Task<std::thread::id> WhereAmI() { co_return std::this_thread::get_id(); }

// Ends only when it is cancelled; says when it began and gives why it ended.
Task<absl::Status> UntilCancelled(std::shared_ptr<std::promise<void>> began) {
  began->set_value();
  co_return co_await Sleep(absl::InfiniteDuration());
}

// --- Post and Stop

TEST(PostTest, RunsOnTheLoopsThreadAndWakesALoopThatSleeps) {
  LoopThread thread("loop");
  for (int i = 0; i < 100; ++i) {
    std::promise<std::thread::id> ran;
    thread.loop()->Post([&] { ran.set_value(std::this_thread::get_id()); });
    EXPECT_NE(ran.get_future().get(), std::this_thread::get_id());
  }
}

TEST(PostTest, KeepsTheOrderOfEachCallerAndLosesNone) {
  constexpr int kCallers = 4;
  constexpr int kPosts = 5'000;
  std::vector<std::vector<int>> seen(kCallers);  // the loop's thread only, until it has ended
  {
    LoopThread thread("loop");
    std::vector<std::thread> callers;
    callers.reserve(kCallers);
    for (int caller = 0; caller < kCallers; ++caller) {
      callers.emplace_back([&, caller] {
        for (int i = 0; i < kPosts; ++i) {
          thread.loop()->Post(
              [&seen, caller, i] { seen[static_cast<std::size_t>(caller)].push_back(i); });
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    std::promise<void> all_ran;
    thread.loop()->Post([&] { all_ran.set_value(); });
    all_ran.get_future().wait();
  }
  for (const std::vector<int>& one : seen) {
    ASSERT_EQ(one.size(), static_cast<std::size_t>(kPosts));
    for (int i = 0; i < kPosts; ++i) ASSERT_EQ(one[static_cast<std::size_t>(i)], i);
  }
}

TEST(StopTest, FromAnotherThreadEndsALoopThatSleeps) {
  for (int i = 0; i < 100; ++i) {
    EventLoop loop;
    std::thread other([&] { loop.Stop(); });
    loop.RunForever();
    other.join();
  }
}

TEST(LoopThreadTest, ItsEndCancelsItsTasksAndWaitsForThem) {
  auto began = std::make_shared<std::promise<void>>();
  std::atomic<bool> ended{false};
  auto run = [](std::shared_ptr<std::promise<void>> b, std::atomic<bool>* e) -> Task<void> {
    (void)co_await UntilCancelled(std::move(b));
    co_await Yield();
    *e = true;
  };
  {
    LoopThread thread("loop");
    thread.loop()->Post([&] { thread.loop()->Spawn(run(began, &ended)); });
    began->get_future().wait();
    EXPECT_FALSE(ended);
  }
  EXPECT_TRUE(ended);
}

// --- RunCoroutineThreadsafe

// Rows: 251
TEST(RunCoroutineThreadsafeTest, RunsTheTaskOnTheLoopsThreadAndGivesItsResult) {
  LoopThread thread("loop");
  ConcurrentFuture<std::thread::id> future = RunCoroutineThreadsafe(WhereAmI(), thread.loop());
  const std::optional<std::thread::id> where = future.Result();
  ASSERT_TRUE(where.has_value());
  EXPECT_NE(*where, std::this_thread::get_id());
  EXPECT_TRUE(future.Done());
  EXPECT_FALSE(future.Cancelled());
}

// Rows: 251
TEST(RunCoroutineThreadsafeTest, MayBeCalledOnTheLoopsOwnThread) {
  EventLoop loop;
  auto run = [](EventLoop* l) -> Task<ConcurrentFuture<std::thread::id>> {
    co_return RunCoroutineThreadsafe(WhereAmI(), l);
  };
  ConcurrentFuture<std::thread::id> future = loop.RunUntilComplete(run(&loop));
  EXPECT_FALSE(future.Done());
  loop.RunUntilIdle();
  EXPECT_THAT(future.Result(), Optional(std::this_thread::get_id()));
}

// Rows: 252
TEST(RunCoroutineThreadsafeTest, AResultThatIsNotThereInTimeDoesNotCancelTheTask) {
  LoopThread thread("loop");
  WaitQueue go;
  std::promise<void> began;
  auto run = [](std::promise<void>* b, WaitQueue* queue) -> Task<absl::Status> {
    b->set_value();
    co_return co_await queue->Wait();
  };
  ConcurrentFuture<absl::Status> future = RunCoroutineThreadsafe(run(&began, &go), thread.loop());
  began.get_future().wait();
  EXPECT_EQ(future.Result(absl::Milliseconds(1)), std::nullopt);
  EXPECT_EQ(future.Result(absl::ZeroDuration()), std::nullopt);
  EXPECT_FALSE(future.Done());
  thread.loop()->Post([&] { go.WakeAll(); });
  EXPECT_THAT(future.Result(), Optional(IsOk()));
}

// Rows: 252
TEST(RunCoroutineThreadsafeTest, CancelSettlesTheFutureAtOnceAndCancelsTheTaskOnItsLoop) {
  LoopThread thread("loop");
  auto began = std::make_shared<std::promise<void>>();
  std::promise<absl::Status> ended;
  auto run = [](std::shared_ptr<std::promise<void>> b,
                std::promise<absl::Status>* e) -> Task<absl::Status> {
    absl::Status status = co_await UntilCancelled(std::move(b));
    e->set_value(status);
    co_return status;
  };
  ConcurrentFuture<absl::Status> future = RunCoroutineThreadsafe(run(began, &ended), thread.loop());
  began->get_future().wait();
  EXPECT_TRUE(future.Cancel());
  EXPECT_TRUE(future.Cancelled());
  EXPECT_TRUE(future.Done());
  EXPECT_EQ(future.Result(), std::nullopt);
  EXPECT_THAT(ended.get_future().get(), StatusIs(StatusCode::kCancelled));
  EXPECT_FALSE(future.Cancel()) << "it was settled";
}

// Rows: 252
TEST(RunCoroutineThreadsafeTest, CancelSucceedsBeforeTheTaskHasBegun) {
  EventLoop loop;
  ConcurrentFuture<std::thread::id> future = RunCoroutineThreadsafe(WhereAmI(), &loop);
  EXPECT_TRUE(future.Cancel());
  loop.RunUntilIdle();
  EXPECT_TRUE(future.Cancelled());
  EXPECT_EQ(future.Result(), std::nullopt);
}

// Rows: 252
TEST(RunCoroutineThreadsafeTest, CancelAfterTheEndGivesFalseAndLeavesTheResult) {
  LoopThread thread("loop");
  ConcurrentFuture<std::thread::id> future = RunCoroutineThreadsafe(WhereAmI(), thread.loop());
  while (!future.Done()) std::this_thread::yield();
  EXPECT_FALSE(future.Cancel());
  EXPECT_FALSE(future.Cancelled());
  EXPECT_TRUE(future.Result().has_value());
}

// Rows: 253
TEST(RunCoroutineThreadsafeTest, AnExceptionOfTheTaskIsThrownByResult) {
  LoopThread thread("loop");
  auto throws = []() -> Task<int> {
    co_await Yield();
    throw std::runtime_error("a bug");
  };
  ConcurrentFuture<int> future = RunCoroutineThreadsafe(throws(), thread.loop());
  EXPECT_THROW(future.Result(), std::runtime_error);
}

// Rows: 253
TEST(RunCoroutineThreadsafeTest, ATaskThatEndsCancelledGivesThatStatus) {
  LoopThread thread("loop");
  auto ends_cancelled = []() -> Task<absl::Status> { co_return absl::CancelledError("inside"); };
  ConcurrentFuture<absl::Status> future = RunCoroutineThreadsafe(ends_cancelled(), thread.loop());
  EXPECT_THAT(future.Result(), Optional(StatusIs(StatusCode::kCancelled, "inside")));
  EXPECT_FALSE(future.Cancelled());
}

}  // namespace
}  // namespace sockbroker::streams
