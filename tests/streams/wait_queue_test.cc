#include "streams/wait_queue.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"

namespace sockbroker::streams {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Task<absl::Status> WaitIn(WaitQueue* queue) { co_return co_await queue->Wait(); }

Task<void> NoteWhenWoken(WaitQueue* queue, std::string name, std::vector<std::string>* order) {
  if ((co_await queue->Wait()).ok()) order->push_back(std::move(name));
}

CO_TEST(WaitQueueTest, AWaiterIsResumedInALaterTurnAndNotInsideWakeAll) {
  WaitQueue queue;
  TaskHandle<absl::Status> waiter = CreateTask(WaitIn(&queue));
  co_await Idle();
  queue.WakeAll();
  EXPECT_FALSE(waiter.done());
  EXPECT_TRUE(queue.empty());
  EXPECT_THAT(co_await waiter.Join(), IsOk());
}

CO_TEST(WaitQueueTest, AWaiterThatNobodyWakesStaysBlocked) {
  WaitQueue queue;
  TaskHandle<absl::Status> waiter = CreateTask(WaitIn(&queue));
  co_await Idle();
  EXPECT_FALSE(waiter.done());
  EXPECT_FALSE(queue.empty());
  queue.WakeAll();
  EXPECT_THAT(co_await waiter.Join(), IsOk());
}

CO_TEST(WaitQueueTest, WakeOneWakesWhoHasWaitedLongest) {
  WaitQueue queue;
  std::vector<std::string> order;
  CreateTask(NoteWhenWoken(&queue, "first", &order));
  CreateTask(NoteWhenWoken(&queue, "second", &order));
  co_await Idle();
  queue.WakeOne();
  co_await Idle();
  EXPECT_THAT(order, ElementsAre("first"));
  queue.WakeOne();
  co_await Idle();
  EXPECT_THAT(order, ElementsAre("first", "second"));
  queue.WakeOne();  // nobody is left: not remembered for the next
  TaskHandle<absl::Status> late = CreateTask(WaitIn(&queue));
  co_await Idle();
  EXPECT_FALSE(late.done());
  queue.WakeAll();
  EXPECT_THAT(co_await late.Join(), IsOk());
}

CO_TEST(WaitQueueTest, WakeAllGivesEveryWaiterItsStatusInTheOrderOfTheirWaiting) {
  WaitQueue queue;
  TaskHandle<absl::Status> a = CreateTask(WaitIn(&queue));
  TaskHandle<absl::Status> b = CreateTask(WaitIn(&queue));
  co_await Idle();
  queue.WakeAll(absl::DataLossError("gone"));
  EXPECT_THAT(co_await a.Join(), StatusIs(absl::StatusCode::kDataLoss, "gone"));
  EXPECT_THAT(co_await b.Join(), StatusIs(absl::StatusCode::kDataLoss, "gone"));
}

CO_TEST(WaitQueueTest, CancellingAWaiterGivesItTheReasonAndLeavesTheOthersWaiting) {
  WaitQueue queue;
  TaskHandle<absl::Status> a = CreateTask(WaitIn(&queue));
  TaskHandle<absl::Status> b = CreateTask(WaitIn(&queue));
  TaskHandle<absl::Status> c = CreateTask(WaitIn(&queue));
  co_await Idle();
  EXPECT_TRUE(b.Cancel(absl::CancelledError("enough")));
  EXPECT_THAT(co_await b.Join(), StatusIs(absl::StatusCode::kCancelled, "enough"));
  EXPECT_FALSE(a.done());
  EXPECT_FALSE(c.done());
  queue.WakeAll();
  EXPECT_THAT(co_await a.Join(), IsOk());
  EXPECT_THAT(co_await c.Join(), IsOk());
}

CO_TEST(WaitQueueTest, AWaiterWokenAndThenCancelledInTheSameTurnCountsAsWoken) {
  WaitQueue queue;
  TaskHandle<absl::Status> waiter = CreateTask(WaitIn(&queue));
  co_await Idle();
  queue.WakeOne();
  waiter.Cancel();
  EXPECT_THAT(co_await waiter.Join(), IsOk());
}

CO_TEST(WaitQueueTest, AWaiterCancelledFirstDoesNotTakeAWakeUpFromTheNext) {
  WaitQueue queue;
  TaskHandle<absl::Status> a = CreateTask(WaitIn(&queue));
  TaskHandle<absl::Status> b = CreateTask(WaitIn(&queue));
  co_await Idle();
  a.Cancel();
  queue.WakeOne();
  EXPECT_THAT(co_await a.Join(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(co_await b.Join(), IsOk());
}

Task<void> CountTurns(int* turns) {
  while (!(co_await GetCancelToken()).cancelled()) {
    ++*turns;
    co_await Yield();
  }
}

Task<std::vector<int>> TurnsAtEachWait(WaitQueue* queue, const int* turns) {
  std::vector<int> at;
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(co_await queue->Wait(), StatusIs(absl::StatusCode::kCancelled));
    at.push_back(*turns);
  }
  co_return at;
}

CO_TEST(WaitQueueTest, EveryWaitUnderACancelledTokenEndsAtOnceButTakesATurn) {
  WaitQueue queue;
  int turns = 0;
  TaskHandle<void> counter = CreateTask(CountTurns(&turns));
  TaskHandle<std::vector<int>> stubborn = CreateTask(TurnsAtEachWait(&queue, &turns));
  stubborn.Cancel();
  EXPECT_THAT(co_await stubborn.Join(), ElementsAre(2, 3, 4));
  EXPECT_TRUE(queue.empty());
  counter.Cancel();
  co_await counter.Join();
}

CO_TEST(WaitQueueTest, AWokenWaiterMayWaitAgainWithoutBeingWokenTwice) {
  WaitQueue queue;
  std::vector<std::string> order;
  auto twice = [](WaitQueue* q, std::vector<std::string>* notes) -> Task<void> {
    EXPECT_THAT(co_await q->Wait(), IsOk());
    notes->emplace_back("once");
    EXPECT_THAT(co_await q->Wait(), IsOk());
    notes->emplace_back("twice");
  };
  TaskHandle<void> waiter = CreateTask(twice(&queue, &order));
  co_await Idle();
  EXPECT_THAT(order, IsEmpty());
  queue.WakeAll();
  co_await Idle();
  EXPECT_THAT(order, ElementsAre("once"));
  queue.WakeAll();
  co_await waiter.Join();
  EXPECT_THAT(order, ElementsAre("once", "twice"));
}

}  // namespace
}  // namespace sockbroker::streams
