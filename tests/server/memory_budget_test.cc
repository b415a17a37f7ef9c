#include "server/memory_budget.h"

#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "streams/event_loop.h"

namespace sockbroker::server {
namespace {

constexpr std::size_t kKiB = 1024;

TEST(MemoryBudgetTest, GivesAsMuchAsThereIsAndLeavesAQuarterToReserves) {
  MemoryBudget budget(64 * kKiB);
  EXPECT_EQ(budget.Acquire(40 * kKiB), 40 * kKiB);
  EXPECT_EQ(budget.Acquire(40 * kKiB), 8 * kKiB);
  EXPECT_EQ(budget.Acquire(1), 0u);
  EXPECT_TRUE(budget.AcquireReserve());
  EXPECT_TRUE(budget.AcquireReserve());
  EXPECT_FALSE(budget.AcquireReserve());
  EXPECT_EQ(budget.used(), 64 * kKiB);
  budget.Release(20 * kKiB);
  EXPECT_EQ(budget.Acquire(40 * kKiB), 4 * kKiB);
}

TEST(MemoryBudgetTest, APrincipalHasNoMoreThanAllTogetherHave) {
  MemoryBudget process(64 * kKiB);
  MemoryBudget one(40 * kKiB, &process);
  MemoryBudget two(64 * kKiB, &process);
  EXPECT_EQ(one.Acquire(64 * kKiB), 30 * kKiB);
  EXPECT_EQ(two.Acquire(64 * kKiB), 18 * kKiB);
  EXPECT_EQ(two.used(), 18 * kKiB);
  one.Release(30 * kKiB);
  EXPECT_EQ(process.used(), 18 * kKiB);
}

TEST(MemoryBudgetTest, WhoWaitsIsCalledOnceSomethingHasComeBack) {
  streams::EventLoop loop;
  MemoryBudget budget(64 * kKiB);
  EXPECT_EQ(budget.Acquire(64 * kKiB), 48 * kKiB);
  int called = 0;
  budget.WaitForRoom(&loop, [&] { called++; });
  budget.Release(kKiB);
  loop.RunUntilIdle();
  EXPECT_EQ(called, 0) << "for so little nobody is woken";
  budget.Release(32 * kKiB);
  loop.RunUntilIdle();
  EXPECT_EQ(called, 1);
  budget.Release(kKiB);
  loop.RunUntilIdle();
  EXPECT_EQ(called, 1);
}

TEST(MemoryBudgetTest, WhoCameTooLateForAReleaseIsCalledAtOnce) {
  streams::EventLoop loop;
  MemoryBudget process(64 * kKiB);
  MemoryBudget budget(64 * kKiB, &process);
  int called = 0;
  budget.WaitForRoom(&loop, [&] { called++; });
  loop.RunUntilIdle();
  EXPECT_EQ(called, 1);
}

TEST(MemoryBudgetTest, WhoIsHeldBackByAllTogetherIsCalledWhenAnotherPrincipalGivesBack) {
  streams::EventLoop loop;
  MemoryBudget process(64 * kKiB);
  MemoryBudget one(64 * kKiB, &process);
  MemoryBudget two(64 * kKiB, &process);
  EXPECT_EQ(one.Acquire(64 * kKiB), 48 * kKiB);
  int called = 0;
  two.WaitForRoom(&loop, [&] { called++; });
  loop.RunUntilIdle();
  EXPECT_EQ(called, 0);
  one.Release(48 * kKiB);
  loop.RunUntilIdle();
  EXPECT_EQ(called, 1);
}

TEST(MemoryGrantTest, GivesBackWhatItHasWhenItGoes) {
  auto budget = std::make_shared<MemoryBudget>(64 * kKiB);
  {
    MemoryGrant grant(budget);
    EXPECT_TRUE(grant.GetReserve());
    EXPECT_EQ(grant.Grow(20 * kKiB), 20 * kKiB);
    EXPECT_EQ(grant.Grow(100 * kKiB), 48 * kKiB);
    grant.Shrink(10 * kKiB);
    EXPECT_EQ(budget->used(), 10 * kKiB);
    MemoryGrant other = std::move(grant);
    EXPECT_EQ(other.bytes(), 10 * kKiB);
    EXPECT_EQ(grant.bytes(), 0u);  // NOLINT(bugprone-use-after-move)
  }
  EXPECT_EQ(budget->used(), 0u);
}

TEST(MemoryBudgetsTest, APrincipalsBudgetIsOneForAllItsSessions) {
  MemoryBudgets budgets({.process = 128 * kKiB, .principal = 64 * kKiB});
  const MemoryBudgets::Pair first = budgets.OfPrincipal("a");
  const MemoryBudgets::Pair second = budgets.OfPrincipal("a");
  EXPECT_EQ(first.read, second.read);
  EXPECT_NE(first.read, first.write);
  EXPECT_EQ(budgets.OfPrincipal("b").read->Acquire(60 * kKiB), 48 * kKiB);
}

}  // namespace
}  // namespace sockbroker::server
