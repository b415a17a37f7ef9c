// Task, cancellation, CreateTask, Gather, WaitFor, Sleep and TaskGroup, against asyncio's.
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/cancel.h"
#include "streams/create_task.h"
#include "streams/gather.h"
#include "streams/sleep.h"
#include "streams/task.h"
#include "streams/task_group.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/wait_for.h"
#include "streams/wait_queue.h"
#include "streams/with_cancel.h"

namespace sockbroker::streams {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using absl::StatusCode;

// Sets a flag when it begins.
Task<absl::StatusOr<int>> Begin(bool* began) {
  *began = true;
  co_return 1;
}

// Gives `value` after `delay`, or the reason why it ended early.
Task<absl::StatusOr<int>> ValueAfter(absl::Duration delay, int value) {
  if (absl::Status status = co_await Sleep(delay); !status.ok()) co_return status;
  co_return value;
}

Task<absl::StatusOr<int>> ErrorAfter(absl::Duration delay, absl::Status error) {
  if (absl::Status status = co_await Sleep(delay); !status.ok()) co_return status;
  co_return error;
}

Task<absl::StatusOr<int>> ThrowAfter(absl::Duration delay, const char* what) {
  (void)co_await Sleep(delay);
  throw std::runtime_error(what);
}

// Ignores cancellation until `delay` has passed.
Task<absl::StatusOr<int>> StubbornValueAfter(absl::Duration delay, int value) {
  auto sleep = [](absl::Duration d) -> Task<void> { (void)co_await Sleep(d); };
  co_await Shielded(sleep(delay));
  co_return value;
}

// Takes `delay` to end after it was cancelled, and notes that it has.
Task<absl::StatusOr<int>> EndSlowlyWhenCancelled(absl::Duration delay, bool* ended) {
  absl::Status status = co_await Sleep(absl::InfiniteDuration());
  auto sleep = [](absl::Duration d) -> Task<void> { (void)co_await Sleep(d); };
  co_await Shielded(sleep(delay));
  *ended = true;
  co_return status;
}

Task<void> SetAfter(absl::Duration delay, bool* flag) {
  if ((co_await Sleep(delay)).ok()) *flag = true;
}

absl::Time LoopTime() { return GetRunningLoop()->Now(); }

// --- Task

CO_TEST(TaskTest, NothingRunsBeforeItIsAwaited) {
  bool began = false;
  Task<absl::StatusOr<int>> task = Begin(&began);
  co_await Idle();
  EXPECT_FALSE(began);
  EXPECT_THAT(co_await std::move(task), IsOkAndHolds(1));
  EXPECT_TRUE(began);
}

TEST(TaskTest, OneThatWasNeverAwaitedIsSimplyDestroyed) {
  auto argument = std::make_shared<int>(7);
  auto hold = [](std::shared_ptr<int> value) -> Task<int> { co_return *value; };
  {
    Task<int> task = hold(argument);
    EXPECT_EQ(argument.use_count(), 2);
  }
  EXPECT_EQ(argument.use_count(), 1);
}

CO_TEST(TaskTest, AnExceptionReachesTheAwaiter) {
  auto throws = []() -> Task<int> {
    co_await Yield();
    throw std::runtime_error("a bug");
  };
  std::string caught;
  try {
    co_await throws();
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  EXPECT_EQ(caught, "a bug");
}

CO_TEST(TaskTest, MoveOnlyResultsReachTheAwaiter) {
  auto make = []() -> Task<std::unique_ptr<int>> { co_return std::make_unique<int>(3); };
  std::unique_ptr<int> three = co_await make();
  EXPECT_EQ(*three, 3);
}

CO_TEST(TaskTest, AVeryLongChainOfAwaitsThatNeedNotWaitDoesNotGrowTheStack) {
  auto one = []() -> Task<int> { co_return 1; };
  int sum = 0;
  for (int i = 0; i < 1'000'000; ++i) sum += co_await one();
  EXPECT_EQ(sum, 1'000'000);
}

// --- cancellation

Task<absl::Status> SleepDeep(int depth) {
  if (depth == 0) co_return co_await Sleep(absl::Hours(1));
  co_return co_await SleepDeep(depth - 1);
}

CO_TEST(CancelTest, ReachesTheInnermostWait) {
  const absl::Time start = LoopTime();
  TaskHandle<absl::Status> task = CreateTask(SleepDeep(10));
  co_await Idle();
  task.Cancel(absl::CancelledError("stop that"));
  EXPECT_THAT(co_await task.Join(), StatusIs(StatusCode::kCancelled, "stop that"));
  EXPECT_EQ(LoopTime(), start);
}

CO_TEST(CancelTest, OfATaskThatHasNotBegunStillLetsItBegin) {
  auto status_of_token = []() -> Task<absl::Status> {
    co_return (co_await GetCancelToken()).status();
  };
  TaskHandle<absl::Status> task = CreateTask(status_of_token());
  EXPECT_TRUE(task.Cancel());
  EXPECT_THAT(co_await task.Join(), StatusIs(StatusCode::kCancelled));
}

CO_TEST(CancelTest, TheFirstReasonStays) {
  CancelSource source;
  source.Cancel(absl::CancelledError("first"));
  source.Cancel(absl::CancelledError("second"));
  EXPECT_THAT(source.token().status(), StatusIs(StatusCode::kCancelled, "first"));
  co_return;
}

CO_TEST(CancelTest, ACancelledParentCancelsItsChildrenForItsReasonAndNotTheOtherWay) {
  CancelSource parent;
  CancelSource child(parent.token());
  CancelSource sibling(parent.token());
  child.Cancel(absl::CancelledError("the child's own"));
  EXPECT_FALSE(parent.cancelled());
  parent.Cancel(absl::DeadlineExceededError("late"));
  EXPECT_THAT(child.token().status(), StatusIs(StatusCode::kCancelled, "the child's own"));
  EXPECT_THAT(sibling.token().status(), StatusIs(StatusCode::kDeadlineExceeded, "late"));
  CancelSource born_late(parent.token());
  EXPECT_THAT(born_late.token().status(), StatusIs(StatusCode::kDeadlineExceeded, "late"));
  co_return;
}

CO_TEST(CancelTest, AResultThatCameFirstWins) {
  TaskHandle<absl::StatusOr<int>> task = CreateTask(ValueAfter(absl::ZeroDuration(), 5));
  co_await Yield();  // it sleeps, and its turn has come
  task.Cancel();
  EXPECT_THAT(co_await task.Join(), IsOkAndHolds(5));
}

CO_TEST(CancelTest, WithCancelEndsOnlyWhatItIsGiven) {
  CancelSource source;
  GetRunningLoop()->CallLater(absl::Seconds(1), [&] { source.Cancel(); });
  EXPECT_THAT(co_await WithCancel(ValueAfter(absl::Seconds(5), 1), source.token()),
              StatusIs(StatusCode::kCancelled));
  EXPECT_THAT(co_await Sleep(absl::Seconds(1)), IsOk());
}

CO_TEST(CancelTest, ShieldedCleanUpWaitsThoughItsAwaiterIsCancelled) {
  bool cleaned = false;
  auto work = [](bool* flag) -> Task<absl::Status> {
    absl::Status status = co_await Sleep(absl::InfiniteDuration());
    co_await Shielded(SetAfter(absl::Seconds(1), flag));
    co_return status;
  };
  TaskHandle<absl::Status> task = CreateTask(work(&cleaned));
  co_await Idle();
  task.Cancel();
  co_await Idle();
  EXPECT_FALSE(task.done());
  EXPECT_THAT(co_await task.Join(), StatusIs(StatusCode::kCancelled));
  EXPECT_TRUE(cleaned);
}

// --- the running loop and CreateTask

// Rows: 235
TEST(GetRunningLoopTest, ThrowsOutsideACoroutineOrCallback) {
  try {
    GetRunningLoop();
    FAIL() << "it gave a loop";
  } catch (const std::logic_error& error) {
    EXPECT_STREQ(error.what(), "no running event loop");
  }
}

// Rows: 235
TEST(GetRunningLoopTest, GivesTheLoopInACoroutineAndInACallbackAndNotAfterwards) {
  EventLoop loop;
  EventLoop* in_callback = nullptr;
  auto ask = []() -> Task<EventLoop*> { co_return GetRunningLoop(); };
  loop.CallSoon([&] { in_callback = GetRunningLoop(); });
  EXPECT_EQ(loop.RunUntilComplete(ask()), &loop);
  EXPECT_EQ(in_callback, &loop);
  EXPECT_THROW(GetRunningLoop(), std::logic_error);
  EXPECT_FALSE(loop.IsRunningHere());
}

// Rows: 236
TEST(CreateTaskTest, NeedsARunningLoop) {
  bool began = false;
  EXPECT_THROW(CreateTask(Begin(&began)), std::logic_error);
  EXPECT_FALSE(began);
}

// Rows: 236
CO_TEST(CreateTaskTest, TheBodyStartsInALaterIteration) {
  bool began = false;
  TaskHandle<absl::StatusOr<int>> task = CreateTask(Begin(&began));
  EXPECT_FALSE(began);
  EXPECT_FALSE(task.done());
  co_await Yield();
  EXPECT_TRUE(began);
  EXPECT_TRUE(task.done());
}

// Rows: 236
CO_TEST(CreateTaskTest, TheLoopKeepsATaskWhoseHandleWasDropped) {
  bool ended = false;
  CreateTask(SetAfter(absl::Seconds(1), &ended));
  co_await PassTime(absl::Seconds(2));
  EXPECT_TRUE(ended);
}

// Rows: 237
CO_TEST(CreateTaskTest, ATaskHasTheNameItWasGiven) {
  bool began = false;
  EXPECT_EQ(CreateTask(Begin(&began), "reader of 7").name(), "reader of 7");
  EXPECT_EQ(CreateTask(Begin(&began)).name(), "");
  co_await Idle();
}

CO_TEST(CreateTaskTest, JoinGivesTheResultOfATaskThatHasEndedLongAgo) {
  TaskHandle<absl::StatusOr<int>> task = CreateTask(ValueAfter(absl::Seconds(1), 5));
  co_await PassTime(absl::Seconds(10));
  EXPECT_THAT(co_await task.Join(), IsOkAndHolds(5));
}

CO_TEST(CreateTaskTest, JoinThrowsWhatTheTaskThrew) {
  TaskHandle<absl::StatusOr<int>> task = CreateTask(ThrowAfter(absl::Seconds(1), "a bug"));
  std::string caught;
  try {
    (void)co_await task.Join();
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  EXPECT_EQ(caught, "a bug");
}

CO_TEST(CreateTaskTest, CancellingWhoJoinsCancelsTheTaskAndWaitsUntilItHasEnded) {
  bool ended = false;
  TaskHandle<absl::StatusOr<int>> child =
      CreateTask(EndSlowlyWhenCancelled(absl::Seconds(3), &ended));
  TaskHandle<absl::StatusOr<int>> parent = CreateTask(child.Join());
  co_await Idle();
  parent.Cancel(absl::CancelledError("the parent is tired"));
  co_await Idle();
  EXPECT_FALSE(parent.done());
  EXPECT_THAT(co_await parent.Join(), StatusIs(StatusCode::kCancelled, "the parent is tired"));
  EXPECT_TRUE(ended);
}

// Rows: 243
CO_TEST(CreateTaskTest, CancelOnAFinishedTaskGivesFalseAndDoesNothing) {
  TaskHandle<absl::StatusOr<int>> task = CreateTask(ValueAfter(absl::ZeroDuration(), 5));
  co_await Idle();
  EXPECT_FALSE(task.Cancel());
  EXPECT_THAT(co_await task.Join(), IsOkAndHolds(5));
}

// --- Sleep

Task<void> CountTurns(int* turns) {
  while (!(co_await GetCancelToken()).cancelled()) {
    ++*turns;
    co_await Yield();
  }
}

// Rows: 238
CO_TEST(SleepTest, OfZeroOrLessYieldsExactlyOnce) {
  const absl::Time start = LoopTime();
  int turns = 0;
  TaskHandle<void> counter = CreateTask(CountTurns(&turns));
  co_await Yield();
  EXPECT_EQ(turns, 1);
  EXPECT_THAT(co_await Sleep(absl::ZeroDuration()), IsOk());
  EXPECT_EQ(turns, 2);
  EXPECT_THAT(co_await Sleep(-absl::Seconds(5)), IsOk());
  EXPECT_EQ(turns, 3);
  EXPECT_EQ(LoopTime(), start);
  counter.Cancel();
  co_await counter.Join();
}

CO_TEST(SleepTest, LastsExactlyItsTime) {
  const absl::Time start = LoopTime();
  EXPECT_THAT(co_await Sleep(absl::Minutes(90)), IsOk());
  EXPECT_EQ(LoopTime(), start + absl::Minutes(90));
}

CO_TEST(SleepTest, EndsAtOnceWhenCancelled) {
  const absl::Time start = LoopTime();
  TaskHandle<absl::Status> task = CreateTask(SleepDeep(0));
  co_await PassTime(absl::Seconds(1));
  task.Cancel();
  EXPECT_THAT(co_await task.Join(), StatusIs(StatusCode::kCancelled));
  EXPECT_EQ(LoopTime(), start + absl::Seconds(1));
}

// --- Gather

// Rows: 239
CO_TEST(GatherTest, GivesResultsInTheOrderOfTheArgumentsWhateverEndsFirst) {
  const absl::Time start = LoopTime();
  auto both = co_await Gather(ValueAfter(absl::Seconds(3), 1), ValueAfter(absl::Seconds(2), 2));
  CO_ASSERT_OK(both);
  EXPECT_EQ(*both, std::make_tuple(1, 2));
  EXPECT_EQ(LoopTime(), start + absl::Seconds(3)) << "they run side by side";

  std::vector<Task<absl::StatusOr<int>>> tasks;
  tasks.reserve(5);
  for (int i = 0; i < 5; ++i) tasks.push_back(ValueAfter(absl::Seconds(5 - i), i));
  absl::StatusOr<std::vector<int>> all = co_await Gather(std::move(tasks));
  CO_ASSERT_OK(all);
  EXPECT_THAT(*all, ElementsAre(0, 1, 2, 3, 4));
}

// Rows: 239
CO_TEST(GatherTest, OfNothingIsNothing) {
  EXPECT_THAT(co_await Gather(), IsOk());
  absl::StatusOr<std::vector<int>> none = co_await Gather(std::vector<Task<absl::StatusOr<int>>>());
  CO_ASSERT_OK(none);
  EXPECT_THAT(*none, IsEmpty());
  EXPECT_THAT(co_await GatherSettled(std::vector<Task<absl::Status>>()), IsEmpty());
}

Task<absl::StatusOr<int>> NoteEnd(absl::Duration delay, absl::Status result,
                                  std::vector<std::string>* notes) {
  absl::Status status = co_await Sleep(delay);
  notes->emplace_back(status.ok() ? "ran to its end" : "cancelled");
  if (!result.ok()) co_return result;
  co_return 0;
}

// Rows: 240
CO_TEST(GatherTest, TheFirstErrorInTimeIsGivenAtOnceAndTheSiblingsGoOnUncancelled) {
  const absl::Time start = LoopTime();
  std::vector<std::string> notes;
  auto result = co_await Gather(NoteEnd(absl::Seconds(5), absl::DataLossError("later"), &notes),
                                ErrorAfter(absl::Seconds(1), absl::InternalError("first in time")));
  EXPECT_THAT(result, StatusIs(StatusCode::kInternal, "first in time"));
  EXPECT_EQ(LoopTime(), start + absl::Seconds(1));
  EXPECT_THAT(notes, IsEmpty());
  co_await PassTime(absl::Seconds(10));  // its own error is swallowed
  EXPECT_THAT(notes, ElementsAre("ran to its end"));
}

// Rows: 240
CO_TEST(GatherTest, AnExceptionOfAChildIsThrownAtOnce) {
  const absl::Time start = LoopTime();
  std::string caught;
  try {
    (void)co_await Gather(ValueAfter(absl::Seconds(5), 1), ThrowAfter(absl::Seconds(1), "a bug"));
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  EXPECT_EQ(caught, "a bug");
  EXPECT_EQ(LoopTime(), start + absl::Seconds(1));
}

// Rows: 241
CO_TEST(GatherTest, AChildThatIsCancelledCountsAsAnErrorAndItsSiblingsGoOn) {
  std::vector<std::string> notes;
  TaskHandle<absl::StatusOr<int>> child = CreateTask(ValueAfter(absl::Hours(1), 1));
  TaskHandle<absl::StatusOr<std::tuple<int, int>>> gather =
      CreateTask(Gather(child.Join(), NoteEnd(absl::Seconds(5), absl::OkStatus(), &notes)));
  co_await Idle();
  child.Cancel(absl::CancelledError("only the child"));
  EXPECT_THAT(co_await gather.Join(), StatusIs(StatusCode::kCancelled, "only the child"));
  EXPECT_THAT(notes, IsEmpty());
  co_await PassTime(absl::Seconds(10));
  EXPECT_THAT(notes, ElementsAre("ran to its end"));
}

// Rows: 242
CO_TEST(GatherTest, SettledGivesErrorsAndCancellationsAsItems) {
  TaskHandle<absl::StatusOr<int>> child = CreateTask(ValueAfter(absl::Hours(1), 1));
  GetRunningLoop()->CallLater(absl::Seconds(1), [&] { child.Cancel(); });
  auto [value, error, cancelled] =
      co_await GatherSettled(ValueAfter(absl::Seconds(3), 7),
                             ErrorAfter(absl::Seconds(2), absl::InternalError("no")), child.Join());
  EXPECT_THAT(value, IsOkAndHolds(7));
  EXPECT_THAT(error, StatusIs(StatusCode::kInternal, "no"));
  EXPECT_THAT(cancelled, StatusIs(StatusCode::kCancelled));

  std::vector<Task<absl::StatusOr<int>>> tasks;
  tasks.push_back(ErrorAfter(absl::Seconds(1), absl::InternalError("no")));
  tasks.push_back(ValueAfter(absl::Seconds(2), 8));
  std::vector<absl::StatusOr<int>> results = co_await GatherSettled(std::move(tasks));
  CO_ASSERT_THAT(results, SizeIs(2));
  EXPECT_THAT(results[0], StatusIs(StatusCode::kInternal));
  EXPECT_THAT(results[1], IsOkAndHolds(8));
}

// Rows: 243
CO_TEST(GatherTest, CancellingItCancelsEveryUnfinishedChildAndWaitsUntilAllHaveEnded) {
  bool ended = false;
  bool other_ended = false;
  TaskHandle<absl::StatusOr<std::tuple<int, int>>> gather =
      CreateTask(Gather(EndSlowlyWhenCancelled(absl::Seconds(1), &ended),
                        EndSlowlyWhenCancelled(absl::Seconds(3), &other_ended)));
  co_await Idle();
  const absl::Time cancelled_at = LoopTime();
  EXPECT_TRUE(gather.Cancel(absl::CancelledError("enough")));
  EXPECT_THAT(co_await gather.Join(), StatusIs(StatusCode::kCancelled, "enough"));
  EXPECT_TRUE(ended);
  EXPECT_TRUE(other_ended);
  EXPECT_EQ(LoopTime(), cancelled_at + absl::Seconds(3));
}

// Rows: 243
CO_TEST(GatherTest, CancellingASettledOneCancelsEveryChildAndWaitsUntilAllHaveEnded) {
  bool ended = false;
  TaskHandle<std::tuple<absl::StatusOr<int>, absl::StatusOr<int>>> gather =
      CreateTask(GatherSettled(ValueAfter(absl::Hours(1), 1),
                               EndSlowlyWhenCancelled(absl::Seconds(3), &ended)));
  co_await Idle();
  gather.Cancel();
  auto [a, b] = co_await gather.Join();
  EXPECT_THAT(a, StatusIs(StatusCode::kCancelled));
  EXPECT_THAT(b, StatusIs(StatusCode::kCancelled));
  EXPECT_TRUE(ended);
}

// --- WaitFor

// Rows: 244
CO_TEST(WaitForTest, WithoutATimeOutItJustAwaits) {
  EXPECT_THAT(co_await WaitFor(ValueAfter(absl::Hours(1000), 4), absl::InfiniteDuration()),
              IsOkAndHolds(4));
}

// Rows: 244
CO_TEST(WaitForTest, AZeroOrNegativeTimeOutNeverStartsTheTask) {
  bool began = false;
  EXPECT_THAT(co_await WaitFor(Begin(&began), absl::ZeroDuration()),
              StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_THAT(co_await WaitFor(Begin(&began), -absl::Seconds(1)),
              StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_FALSE(began);
}

CO_TEST(WaitForTest, AResultInTimeIsGivenAtOnce) {
  const absl::Time start = LoopTime();
  EXPECT_THAT(co_await WaitFor(ValueAfter(absl::Seconds(1), 4), absl::Seconds(2)), IsOkAndHolds(4));
  EXPECT_EQ(LoopTime(), start + absl::Seconds(1));
}

// Rows: 12, 245
CO_TEST(WaitForTest, OnTimeOutTheTaskIsCancelledAndAwaitedUntilItHasReallyEnded) {
  const absl::Time start = LoopTime();
  bool ended = false;
  EXPECT_THAT(co_await WaitFor(EndSlowlyWhenCancelled(absl::Seconds(3), &ended), absl::Seconds(2)),
              StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_TRUE(ended);
  EXPECT_EQ(LoopTime(), start + absl::Seconds(5));
}

// Rows: 246
CO_TEST(WaitForTest, AValueThatIsGivenInSpiteOfTheCancellationIsReturned) {
  EXPECT_THAT(co_await WaitFor(StubbornValueAfter(absl::Seconds(5), 9), absl::Seconds(1)),
              IsOkAndHolds(9));
}

// Rows: 246
CO_TEST(WaitForTest, AnotherErrorThatFollowsTheCancellationIsGivenInsteadOfTheTimeOut) {
  auto fail = []() -> Task<absl::Status> {
    (void)co_await Sleep(absl::InfiniteDuration());
    co_return absl::DataLossError("while ending");
  };
  EXPECT_THAT(co_await WaitFor(fail(), absl::Seconds(1)),
              StatusIs(StatusCode::kDataLoss, "while ending"));
}

// Rows: 247
CO_TEST(WaitForTest, CancellingItCancelsTheTaskAndGivesTheReason) {
  bool ended = false;
  TaskHandle<absl::StatusOr<int>> waiting =
      CreateTask(WaitFor(EndSlowlyWhenCancelled(absl::Seconds(1), &ended), absl::Minutes(1)));
  co_await Idle();
  waiting.Cancel(absl::CancelledError("from outside"));
  EXPECT_THAT(co_await waiting.Join(), StatusIs(StatusCode::kCancelled, "from outside"));
  EXPECT_TRUE(ended);
}

// Rows: 248
CO_TEST(WaitForTest, AResultInTheSameTurnAsTheTimeOutWins) {
  // The wake-up fires first, then the time-out, and only then is the task resumed.
  WaitQueue queue;
  auto wait = [](WaitQueue* q) -> Task<absl::Status> { co_return co_await q->Wait(); };
  Timer wake(GetRunningLoop(), [&] { queue.WakeAll(); });
  wake.SetAfter(absl::Seconds(1));
  EXPECT_THAT(co_await WaitFor(wait(&queue), absl::Seconds(1)), IsOk());
}

// Rows: 249
CO_TEST(WaitForTest, AResultInTheSameTurnAsACancellationWins) {
  WaitQueue queue;
  auto wait = [](WaitQueue* q) -> Task<absl::Status> { co_return co_await q->Wait(); };
  TaskHandle<absl::Status> waiting = CreateTask(WaitFor(wait(&queue), absl::Minutes(1)));
  co_await Idle();
  queue.WakeAll();
  waiting.Cancel();
  EXPECT_THAT(co_await waiting.Join(), IsOk());
}

// Rows: 250
CO_TEST(WaitForTest, ShieldedWorkRunsToItsEndThoughTheTimePassed) {
  bool done = false;
  auto shield = [](bool* flag) -> Task<absl::Status> {
    co_await Shielded(SetAfter(absl::Seconds(5), flag));
    co_return absl::OkStatus();
  };
  const absl::Time begin = LoopTime();
  EXPECT_THAT(co_await WaitFor(shield(&done), absl::Seconds(1)), IsOk());
  EXPECT_TRUE(done);
  EXPECT_EQ(LoopTime() - begin, absl::Seconds(5));
}

// Rows: 250
CO_TEST(WaitForTest, ATaskOfItsOwnGoesOnWhenTheTimeToWaitForWhatItTellsHasPassed) {
  bool done = false;
  WaitQueue told;
  auto work = [](bool* flag, WaitQueue* queue) -> Task<void> {
    co_await SetAfter(absl::Seconds(5), flag);
    queue->WakeAll();
  };
  auto wait = [](WaitQueue* queue) -> Task<absl::Status> { co_return co_await queue->Wait(); };
  TaskHandle<void> task = CreateTask(work(&done, &told));
  const absl::Time begin = LoopTime();
  EXPECT_THAT(co_await WaitFor(wait(&told), absl::Seconds(1)),
              StatusIs(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(LoopTime() - begin, absl::Seconds(1));
  EXPECT_FALSE(done);
  co_await task.Join();
  EXPECT_TRUE(done);
}

CO_TEST(WaitForTest, TheInnerOfTwoTimeOutsEndsOnlyTheInner) {
  auto outer = []() -> Task<absl::Status> {
    EXPECT_THAT(co_await WaitFor(ValueAfter(absl::Minutes(1), 1), absl::Seconds(1)),
                StatusIs(StatusCode::kDeadlineExceeded));
    co_return co_await Sleep(absl::Seconds(1));
  };
  EXPECT_THAT(co_await WaitFor(outer(), absl::Seconds(10)), IsOk());
}

CO_TEST(WaitForTest, OfATaskWithoutAResultSaysWhetherItTimedOut) {
  bool flag = false;
  EXPECT_THAT(co_await WaitFor(SetAfter(absl::Seconds(1), &flag), absl::Seconds(2)), IsOk());
  EXPECT_TRUE(flag);
  EXPECT_THAT(co_await WaitFor(SetAfter(absl::Seconds(3), &flag), absl::Seconds(2)),
              StatusIs(StatusCode::kDeadlineExceeded));
}

// --- TaskGroup

Task<absl::Status> NoteAfter(absl::Duration delay, std::string name, absl::Status result,
                             std::vector<std::string>* notes) {
  absl::Status status = co_await Sleep(delay);
  notes->push_back(name + (status.ok() ? " ended" : " cancelled"));
  co_return status.ok() ? result : status;
}

CO_TEST(TaskGroupTest, JoinWaitsUntilEveryChildHasEnded) {
  std::vector<std::string> notes;
  TaskGroup group;
  group.Spawn(NoteAfter(absl::Seconds(2), "slow", absl::OkStatus(), &notes));
  group.Spawn(NoteAfter(absl::Seconds(1), "quick", absl::OkStatus(), &notes));
  EXPECT_FALSE(group.empty());
  EXPECT_THAT(notes, IsEmpty());
  EXPECT_THAT(co_await group.Join(), IsOk());
  EXPECT_THAT(notes, ElementsAre("quick ended", "slow ended"));
  EXPECT_TRUE(group.empty());
}

CO_TEST(TaskGroupTest, AnEmptyGroupJoinsAtOnce) {
  TaskGroup group;
  EXPECT_THAT(co_await group.Join(), IsOk());
}

CO_TEST(TaskGroupTest, TheFirstErrorCancelsTheOthersAndIsGivenAfterAllHaveEnded) {
  const absl::Time start = LoopTime();
  std::vector<std::string> notes;
  TaskGroup group;
  group.Spawn(NoteAfter(absl::Seconds(9), "slow", absl::OkStatus(), &notes));
  group.Spawn(NoteAfter(absl::Seconds(1), "bad", absl::DataLossError("bad"), &notes));
  EXPECT_THAT(co_await group.Join(), StatusIs(StatusCode::kDataLoss, "bad"));
  EXPECT_THAT(notes, ElementsAre("bad ended", "slow cancelled"));
  EXPECT_EQ(LoopTime(), start + absl::Seconds(1));
}

CO_TEST(TaskGroupTest, CancellingWhoJoinsCancelsEveryChildAndWaitsForThem) {
  bool ended = false;
  std::vector<std::string> notes;
  auto run = [](bool* flag, std::vector<std::string>* notes_out) -> Task<absl::Status> {
    TaskGroup group;
    auto slowly = [](bool* f) -> Task<absl::Status> {
      co_return (co_await EndSlowlyWhenCancelled(absl::Seconds(2), f)).status();
    };
    group.Spawn(slowly(flag));
    group.Spawn(NoteAfter(absl::Hours(1), "other", absl::OkStatus(), notes_out));
    co_return co_await group.Join();
  };
  TaskHandle<absl::Status> task = CreateTask(run(&ended, &notes));
  co_await Idle();
  task.Cancel(absl::CancelledError("enough"));
  EXPECT_THAT(co_await task.Join(), StatusIs(StatusCode::kCancelled, "enough"));
  EXPECT_TRUE(ended);
  EXPECT_THAT(notes, ElementsAre("other cancelled"));
}

CO_TEST(TaskGroupTest, AnExceptionOfAChildCancelsTheOthersAndIsThrownByJoin) {
  std::vector<std::string> notes;
  TaskGroup group;
  auto throws = []() -> Task<absl::Status> {
    co_await PassTime(absl::Seconds(1));
    throw std::runtime_error("a bug");
  };
  group.Spawn(NoteAfter(absl::Hours(1), "other", absl::OkStatus(), &notes));
  group.Spawn(throws());
  std::string caught;
  try {
    (void)co_await group.Join();
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  EXPECT_EQ(caught, "a bug");
  EXPECT_THAT(notes, ElementsAre("other cancelled"));
}

CO_TEST(TaskGroupTest, AChildMaySpawnAnotherWhichJoinWaitsForToo) {
  std::vector<std::string> notes;
  TaskGroup group;
  auto parent = [](TaskGroup* g, std::vector<std::string>* notes_out) -> Task<absl::Status> {
    co_await PassTime(absl::Seconds(1));
    g->Spawn(NoteAfter(absl::Seconds(1), "grandchild", absl::OkStatus(), notes_out));
    co_return absl::OkStatus();
  };
  group.Spawn(parent(&group, &notes));
  EXPECT_THAT(co_await group.Join(), IsOk());
  EXPECT_THAT(notes, ElementsAre("grandchild ended"));
}

CO_TEST(TaskGroupTest, WhatIsSpawnedAfterCancelStartsCancelled) {
  std::vector<std::string> notes;
  TaskGroup group;
  group.Cancel(absl::CancelledError("closed"));
  group.Spawn(NoteAfter(absl::Hours(1), "late", absl::OkStatus(), &notes));
  (void)co_await group.Join();
  EXPECT_THAT(notes, ElementsAre("late cancelled"));
}

}  // namespace
}  // namespace sockbroker::streams
