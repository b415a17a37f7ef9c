#include "server/descriptor_budget.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace sockbroker::server {
namespace {

TEST(DescriptorBudget, KeepsBackATenthButAtLeast256) {
  EXPECT_EQ(DescriptorBudget(100'000).reserve(), 10'000u);
  EXPECT_EQ(DescriptorBudget(1024).reserve(), 256u);
  EXPECT_EQ(DescriptorBudget(1024).capacity(), 768u);
}

TEST(DescriptorBudget, GivesNothingWhenTheLimitIsBelowTheReserve) {
  // why: the reserve is strict; a limit this small must not turn capacity into a huge unsigned
  // number
  DescriptorBudget budget(100);
  EXPECT_EQ(budget.capacity(), 0u);
  EXPECT_EQ(budget.Acquire(), std::nullopt);
}

TEST(DescriptorBudget, RefusesTheFirstOneTooManyAndServesAgainAfterARelease) {
  DescriptorBudget budget(258);
  std::optional<DescriptorBudget::Hold> first = budget.Acquire();
  std::optional<DescriptorBudget::Hold> second = budget.Acquire();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(budget.Acquire(), std::nullopt);
  EXPECT_EQ(budget.in_use(), 2u);
  first.reset();
  EXPECT_EQ(budget.in_use(), 1u);
  EXPECT_TRUE(budget.Acquire().has_value());
}

TEST(DescriptorBudget, AMovedHoldIsReleasedOnce) {
  DescriptorBudget budget(300);
  {
    DescriptorBudget::Hold outer;
    {
      DescriptorBudget::Hold inner = *budget.Acquire();
      outer = std::move(inner);
    }
    EXPECT_EQ(budget.in_use(), 1u);
    EXPECT_TRUE(outer.held());
    outer = *budget.Acquire();  // the assigned-over one is given back
    EXPECT_EQ(budget.in_use(), 1u);
    outer.Release();
    outer.Release();
    EXPECT_EQ(budget.in_use(), 0u);
  }
  EXPECT_EQ(budget.in_use(), 0u);
}

TEST(DescriptorBudget, NeverExceedsItsCapacityWhenManyThreadsAsk) {
  DescriptorBudget budget(256 + 50);
  std::atomic<int> given = 0;
  std::vector<std::thread> threads;
  std::vector<std::vector<DescriptorBudget::Hold>> kept(8);
  threads.reserve(kept.size());
  for (std::vector<DescriptorBudget::Hold>& mine : kept) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; i++) {
        if (auto hold = budget.Acquire()) {
          given++;
          mine.push_back(*std::move(hold));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(given, 50);
  EXPECT_EQ(budget.in_use(), 50u);
}

TEST(RaiseDescriptorLimit, BringsTheSoftLimitToTheHardOne) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit lowered = before;
  lowered.rlim_cur = before.rlim_max / 2;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lowered), 0);
  EXPECT_EQ(*RaiseDescriptorLimit(), before.rlim_max);
  rlimit after;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  setrlimit(RLIMIT_NOFILE, &before);
}

}  // namespace
}  // namespace sockbroker::server
