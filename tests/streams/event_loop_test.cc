#include "streams/event_loop.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/sleep.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/manual_clock.h"
#include "streams/wait_queue.h"

namespace sockbroker::streams {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

absl::Time LoopTime() { return GetRunningLoop()->Now(); }

// A loop in virtual time, and where its callbacks leave their notes.
struct LoopTest : ::testing::Test {
  // First, so that they outlive the loop: it runs what is ready when it ends.
  std::vector<std::string> notes;
  ManualClock clock;
  EventLoop loop{&clock};

  auto Note(std::string note) {
    return [this, note = std::move(note)] { notes.push_back(note); };
  }
};

// --- timers

using TimerTest = LoopTest;

TEST_F(TimerTest, FireInTheOrderOfTheirDeadlinesAndThenOfTheirSetting) {
  Timer c(&loop, Note("3s"));
  Timer a(&loop, Note("1s"));
  Timer b1(&loop, Note("2s, set first"));
  Timer b2(&loop, Note("2s, set second"));
  c.SetAfter(absl::Seconds(3));
  b1.SetAfter(absl::Seconds(2));
  b2.SetAfter(absl::Seconds(2));
  a.SetAfter(absl::Seconds(1));
  clock.Advance(absl::Seconds(5));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("1s", "2s, set first", "2s, set second", "3s"));
}

TEST_F(TimerTest, AreInOrderHoweverManyThereAreAndHoweverTheyAreCancelled) {
  std::vector<std::unique_ptr<Timer>> timers;
  std::vector<int> fired;
  for (int i = 0; i < 500; ++i) {
    const int deadline = (i * 263) % 500;
    timers.push_back(
        std::make_unique<Timer>(&loop, [&fired, deadline] { fired.push_back(deadline); }));
    timers.back()->SetAfter(absl::Seconds(deadline));
  }
  std::vector<int> expected;
  for (int i = 0; i < 500; ++i) {
    if ((i * 263) % 500 % 3 == 0) timers[static_cast<std::size_t>(i)]->Cancel();
    if (i % 3 != 0) expected.push_back(i);
  }
  clock.Advance(absl::Seconds(500));
  loop.RunUntilIdle();
  EXPECT_EQ(fired, expected);
}

TEST_F(TimerTest, DoesNotFireBeforeItsDeadline) {
  Timer timer(&loop, Note("fired"));
  timer.SetAfter(absl::Seconds(1));
  EXPECT_TRUE(timer.armed());
  EXPECT_EQ(timer.deadline(), clock.Now() + absl::Seconds(1));
  clock.Advance(absl::Seconds(1) - absl::Nanoseconds(1));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, IsEmpty());
  clock.Advance(absl::Nanoseconds(1));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("fired"));
  EXPECT_FALSE(timer.armed());
}

TEST_F(TimerTest, SetAgainFiresOnceAtTheNewDeadline) {
  Timer timer(&loop, Note("fired"));
  timer.SetAfter(absl::Seconds(1));
  timer.SetAfter(absl::Seconds(3));
  clock.Advance(absl::Seconds(2));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, IsEmpty());
  clock.Advance(absl::Seconds(2));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("fired"));
}

TEST_F(TimerTest, CancelledDestroyedOrSetToInfinityNeverFires) {
  Timer cancelled(&loop, Note("cancelled"));
  Timer infinite(&loop, Note("infinite"));
  {
    Timer destroyed(&loop, Note("destroyed"));
    destroyed.SetAfter(absl::Seconds(1));
    cancelled.SetAfter(absl::Seconds(1));
    infinite.SetAfter(absl::Seconds(1));
  }
  cancelled.Cancel();
  infinite.Set(absl::InfiniteFuture());
  EXPECT_FALSE(cancelled.armed());
  EXPECT_FALSE(infinite.armed());
  clock.Advance(absl::Hours(1));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, IsEmpty());
}

TEST_F(TimerTest, MaySetItselfAgainFromItsCallback) {
  int left = 3;
  Timer* self = nullptr;
  Timer timer(&loop, [&] {
    notes.push_back(absl::StrCat(absl::ToInt64Seconds(clock.Now() - absl::UnixEpoch()), "s"));
    if (--left > 0) self->SetAfter(absl::Seconds(1));
  });
  self = &timer;
  timer.SetAfter(absl::Seconds(1));
  for (int i = 0; i < 5; ++i) {
    clock.Advance(absl::Seconds(1));
    loop.RunUntilIdle();
  }
  EXPECT_THAT(notes, ElementsAre("1s", "2s", "3s"));
}

TEST_F(TimerTest, MayDestroyItselfFromItsCallback) {
  std::unique_ptr<Timer> timer;
  auto data = std::make_shared<std::string>("still there");
  timer = std::make_unique<Timer>(&loop, [&timer, data, this] {
    timer.reset();
    notes.push_back(*data);  // the callback outlives its timer
  });
  timer->SetAfter(absl::Seconds(1));
  clock.Advance(absl::Seconds(1));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("still there"));
  EXPECT_EQ(data.use_count(), 1);
}

TEST_F(TimerTest, MayCancelAnotherThatIsDueAtTheSameTime) {
  Timer second(&loop, Note("second"));
  Timer first(&loop, [&] {
    notes.emplace_back("first");
    second.Cancel();
  });
  first.SetAfter(absl::Seconds(1));
  second.SetAfter(absl::Seconds(1));
  clock.Advance(absl::Seconds(1));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("first"));
}

TEST_F(TimerTest, ThatSetsItselfForNowLetsOthersRunInBetween) {
  Timer* self = nullptr;
  bool other_ran = false;
  int fired = 0;
  Timer busy(&loop, [&] {
    fired++;
    if (!other_ran) self->SetAfter(absl::ZeroDuration());
  });
  self = &busy;
  busy.SetAfter(absl::ZeroDuration());
  loop.CallSoon([&] { other_ran = true; });
  loop.RunUntilIdle();
  EXPECT_TRUE(other_ran);
  EXPECT_LE(fired, 3);
}

// --- callbacks

using CallbackTest = LoopTest;

TEST_F(CallbackTest, RunInTheOrderTheyWereGiven) {
  loop.CallSoon(Note("1"));
  loop.CallSoon(Note("2"));
  loop.CallSoon(Note("3"));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("1", "2", "3"));
}

TEST_F(CallbackTest, WhatBecomesReadyMeanwhileRunsInTheNextIteration) {
  loop.CallSoon([this] {
    notes.emplace_back("1");
    loop.CallSoon(Note("3, in the next iteration"));
  });
  loop.CallSoon(Note("2"));
  loop.Stop();
  loop.RunForever();  // one iteration
  EXPECT_THAT(notes, ElementsAre("1", "2"));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("1", "2", "3, in the next iteration"));
}

TEST_F(CallbackTest, AndTasksShareOneOrder) {
  auto task = [](std::vector<std::string>* out) -> Task<void> {
    out->emplace_back("task");
    co_return;
  };
  loop.CallSoon(Note("before"));
  loop.Spawn(task(&notes));
  loop.CallSoon(Note("after"));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("before", "task", "after"));
}

TEST_F(CallbackTest, CallLaterWaitsForItsTime) {
  loop.CallLater(absl::Seconds(2), Note("2s"));
  loop.CallLater(absl::Seconds(1), Note("1s"));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, IsEmpty());
  clock.Advance(absl::Seconds(1));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("1s"));
  clock.Advance(absl::Seconds(1));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("1s", "2s"));
}

TEST_F(CallbackTest, PostedOnesRunInTheirOrder) {
  loop.Post(Note("1"));
  loop.Post(Note("2"));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("1", "2"));
}

TEST_F(CallbackTest, OnePostedFromAPostedOneRunsInALaterIteration) {
  loop.Post([this] {
    loop.Post(Note("second"));
    notes.emplace_back("first");
  });
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("first", "second"));
}

TEST_F(CallbackTest, WhatOneThrowsGoesToTheExceptionHandlerAndTheLoopGoesOn) {
  std::vector<std::string> messages;
  loop.SetExceptionHandler([&](const EventLoop::ExceptionContext& context) {
    ASSERT_NE(context.exception, nullptr);
    try {
      std::rethrow_exception(context.exception);
    } catch (const std::runtime_error& error) {
      messages.emplace_back(error.what());
    }
  });
  auto thrower = [](const char* what) { return [what] { throw std::runtime_error(what); }; };
  Timer timer(&loop, thrower("timer"));
  timer.SetAfter(absl::ZeroDuration());
  loop.CallLater(absl::ZeroDuration(), thrower("later"));
  loop.Post(thrower("posted"));
  loop.CallSoon(thrower("soon"));
  loop.CallSoon(Note("the next one"));
  loop.RunUntilIdle();
  EXPECT_THAT(messages, ElementsAre("timer", "later", "posted", "soon"));
  EXPECT_THAT(notes, ElementsAre("the next one"));
}

// Notes in `*note` when it is destroyed without having been called.
struct DestructionNote {
  explicit DestructionNote(std::string* n) : note(n) {}
  DestructionNote(const DestructionNote&) = delete;
  DestructionNote& operator=(const DestructionNote&) = delete;
  ~DestructionNote() { *note = "destroyed"; }
  std::string* note;
};

TEST(LoopEndTest, WhatWasPostedOrWasToComeLaterIsDestroyedUnrun) {
  std::string posted;
  std::string later;
  {
    ManualClock clock;
    EventLoop loop(&clock);
    loop.Post([&, d = std::make_unique<DestructionNote>(&posted)] { posted = "ran"; });
    loop.CallLater(absl::Seconds(1),
                   [&, d = std::make_unique<DestructionNote>(&later)] { later = "ran"; });
  }
  EXPECT_EQ(posted, "destroyed");
  EXPECT_EQ(later, "destroyed");
}

Task<void> CleanUpWhenCancelled(std::vector<std::string>* notes) {
  absl::Status status = co_await Sleep(absl::InfiniteDuration());
  notes->push_back(std::string(status.message()));
  co_await Yield();
  notes->emplace_back("cleaned up");
}

TEST(LoopEndTest, TasksThatStillRunAreCancelledAndRunToTheirEnd) {
  std::vector<std::string> notes;
  {
    ManualClock clock;
    EventLoop loop(&clock);
    loop.Spawn(CleanUpWhenCancelled(&notes));
    loop.RunUntilIdle();
    EXPECT_THAT(notes, IsEmpty());
  }
  EXPECT_THAT(notes, ElementsAre("the event loop is shutting down", "cleaned up"));
}

TEST(LoopEndTest, ATaskSpawnedDuringTheEndIsCancelledToo) {
  std::vector<std::string> notes;
  auto spawner = [](std::vector<std::string>* out) -> Task<void> {
    (void)co_await Sleep(absl::InfiniteDuration());
    GetRunningLoop()->Spawn(CleanUpWhenCancelled(out));
  };
  {
    ManualClock clock;
    EventLoop loop(&clock);
    loop.Spawn(spawner(&notes));
    loop.RunUntilIdle();
  }
  EXPECT_THAT(notes, ElementsAre("the event loop is shutting down", "cleaned up"));
}

// --- running

using RunTest = LoopTest;

Task<int> AnswerAfter(absl::Duration delay) {
  (void)co_await Sleep(delay);
  co_return 42;
}

TEST_F(RunTest, UntilCompleteGivesTheResult) {
  EXPECT_EQ(loop.RunUntilComplete(AnswerAfter(absl::Seconds(5))), 42);
  EXPECT_EQ(clock.Now(), absl::UnixEpoch() + absl::Seconds(5));
}

TEST_F(RunTest, UntilCompleteThrowsWhatTheTaskThrows) {
  auto throws = []() -> Task<int> {
    co_await Yield();
    throw std::runtime_error("a bug");
  };
  EXPECT_THROW(loop.RunUntilComplete(throws()), std::runtime_error);
  EXPECT_EQ(loop.RunUntilComplete(AnswerAfter(absl::Seconds(1))), 42) << "the loop can go on";
}

TEST_F(RunTest, UntilCompleteIsNotEndedByAStop) {
  loop.CallLater(absl::Seconds(1), [this] { loop.Stop(); });
  EXPECT_EQ(loop.RunUntilComplete(AnswerAfter(absl::Seconds(2))), 42);
}

TEST_F(RunTest, ForeverEndsAfterTheIterationThatStops) {
  loop.CallSoon([this] {
    notes.emplace_back("stop");
    loop.Stop();
    loop.CallSoon(Note("next iteration"));
  });
  loop.CallSoon(Note("same iteration"));
  loop.RunForever();
  EXPECT_THAT(notes, ElementsAre("stop", "same iteration"));
}

TEST_F(RunTest, ForeverAfterAStopRunsOneIteration) {
  loop.Stop();
  loop.CallSoon(Note("once"));
  loop.RunForever();
  EXPECT_THAT(notes, ElementsAre("once"));
}

TEST_F(RunTest, UntilIdleDoesNotWaitForTimers) {
  loop.CallLater(absl::Nanoseconds(1), Note("later"));
  loop.CallSoon(Note("now"));
  loop.RunUntilIdle();
  EXPECT_THAT(notes, ElementsAre("now"));
  EXPECT_EQ(clock.Now(), absl::UnixEpoch());
}

TEST(ExceptionHandlerTest, GetsWhatATaskThrowsThatNobodyWaitsFor) {
  ManualClock clock;
  EventLoop loop(&clock);
  std::string message;
  bool has_exception = false;
  loop.SetExceptionHandler([&](const EventLoop::ExceptionContext& context) {
    message = context.message;
    has_exception = context.exception != nullptr;
  });
  auto throws = []() -> Task<void> {
    co_await Yield();
    throw std::runtime_error("a bug");
  };
  loop.Spawn(throws());
  loop.RunUntilIdle();
  EXPECT_THAT(message, HasSubstr("nobody waits for"));
  EXPECT_TRUE(has_exception);
}

TEST(ExceptionHandlerTest, ByDefaultWritesOneLineToStderr) {
  EventLoop loop;
  ::testing::internal::CaptureStderr();
  loop.CallExceptionHandler({"something broke", absl::DataLossError("bits fell off"), nullptr});
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "something broke: DATA_LOSS: bits fell off\n");
}

CO_TEST(BudgetTest, RunsOutWithinAnIterationAndIsBackInTheNext) {
  EventLoop* loop = GetRunningLoop();
  int taken = 0;
  while (loop->TakeBudget() && taken < 100'000) taken++;
  EXPECT_GT(taken, 10);
  EXPECT_LT(taken, 10'000);
  EXPECT_FALSE(loop->TakeBudget());
  co_await Yield();
  EXPECT_TRUE(loop->TakeBudget());
}

// --- virtual time

CO_TEST(VirtualTimeTest, AYearOfSleepTakesNoTime) {
  const absl::Time start = LoopTime();
  EXPECT_THAT(co_await Sleep(absl::Hours(24 * 365)), IsOk());
  EXPECT_EQ(LoopTime(), start + absl::Hours(24 * 365));
}

TEST(VirtualTimeTest, ATaskThatCanNeverEndThrowsInsteadOfHanging) {
  WaitQueue never;
  ManualClock clock;
  EventLoop loop(&clock);
  auto wait = [](WaitQueue* queue) -> Task<int> {
    (void)co_await queue->Wait();
    co_return 1;
  };
  try {
    loop.RunUntilComplete(wait(&never));
    FAIL() << "it ended";
  } catch (const std::logic_error& error) {
    EXPECT_STREQ(error.what(), "nothing can ever happen again: the test would hang");
  }
}

TEST(VirtualTimeTest, DoesNotGoBack) {
  ManualClock clock;
  EXPECT_THROW(clock.Advance(-absl::Nanoseconds(1)), std::logic_error);
  EXPECT_TRUE(clock.JumpTo(absl::UnixEpoch() - absl::Seconds(1)));
  EXPECT_EQ(clock.Now(), absl::UnixEpoch());
}

CO_TEST(VirtualTimeTest, AdvanceFiresWhatIsDueInTheNextIteration) {
  bool fired = false;
  GetRunningLoop()->CallLater(absl::Seconds(10), [&] { fired = true; });
  dynamic_cast<ManualClock*>(GetRunningLoop()->clock())->Advance(absl::Seconds(10));
  EXPECT_FALSE(fired);
  co_await Yield();
  EXPECT_TRUE(fired);
}

Task<void> SomeTurns(int turns, bool* done) {
  for (int i = 0; i < turns; ++i) co_await Yield();
  *done = true;
}

CO_TEST(IdleTest, ResumesWhenAllThatCanRunHasRunAndNoTimeHasPassed) {
  const absl::Time start = LoopTime();
  bool done = false;
  bool later = false;
  CreateTask(SomeTurns(100, &done));
  GetRunningLoop()->CallLater(absl::Nanoseconds(1), [&] { later = true; });
  co_await Idle();
  EXPECT_TRUE(done);
  EXPECT_FALSE(later);
  EXPECT_EQ(LoopTime(), start);
}

Task<void> NoteWhenIdle(std::string name, std::vector<std::string>* notes) {
  co_await Idle();
  notes->push_back(std::move(name));
}

CO_TEST(IdleTest, SeveralTakeTheirTurnsOneAfterAnother) {
  std::vector<std::string> notes;
  CreateTask(NoteWhenIdle("first", &notes));
  CreateTask(NoteWhenIdle("second", &notes));
  co_await Yield();
  co_await Idle();
  EXPECT_THAT(notes, ElementsAre("first", "second"));
}

CO_TEST_REAL(IdleTest, IsRefusedInRealTime) {
  bool refused = false;
  try {
    co_await Idle();
  } catch (const std::logic_error&) {
    refused = true;
  }
  EXPECT_TRUE(refused);
}

CO_TEST_REAL(RealTimeTest, TimersWaitForTheClock) {
  const absl::Time start = LoopTime();
  EXPECT_THAT(co_await Sleep(absl::Milliseconds(20)), IsOk());
  EXPECT_GE(LoopTime() - start, absl::Milliseconds(20));
}

}  // namespace
}  // namespace sockbroker::streams
