#include "server/lease.h"

#include <optional>

#include "gtest/gtest.h"
#include "streams/event_loop.h"
#include "streams/testing/manual_clock.h"

namespace sockbroker::server {
namespace {

class LeaseTest : public testing::Test {
 protected:
  void Advance(absl::Duration duration) {
    clock_.Advance(duration);
    loop_.RunUntilIdle();
  }

  streams::ManualClock clock_;
  streams::EventLoop loop_{&clock_};
  int expired_ = 0;
  Lease lease_{&loop_, absl::Seconds(10), [this] { expired_++; }};
};

TEST_F(LeaseTest, ExpiresOnceAfterItsTime) {
  Advance(absl::Seconds(9));
  EXPECT_EQ(expired_, 0);
  Advance(absl::Seconds(1));
  EXPECT_EQ(expired_, 1);
  Advance(absl::Hours(1));
  EXPECT_EQ(expired_, 1);
}

TEST_F(LeaseTest, ACallTouchesItAtBothEnds) {
  Advance(absl::Seconds(9));
  {
    const Lease::Use use = lease_.Begin();
    Advance(absl::Hours(1));
    EXPECT_EQ(expired_, 0);
  }
  Advance(absl::Seconds(9));
  EXPECT_EQ(expired_, 0);
  Advance(absl::Seconds(1));
  EXPECT_EQ(expired_, 1);
}

TEST_F(LeaseTest, AnotherTimeCountsFromItsSetting) {
  Advance(absl::Seconds(9));
  lease_.SetDuration(absl::Seconds(20));
  Advance(absl::Seconds(19));
  EXPECT_EQ(expired_, 0);
  Advance(absl::Seconds(1));
  EXPECT_EQ(expired_, 1);
}

TEST_F(LeaseTest, CallsThatAreQueuedWhenItEndsGoFirst) {
  clock_.Advance(absl::Seconds(10));
  std::optional<Lease::Use> use;
  loop_.Post([&] { use.emplace(lease_.Begin()); });
  loop_.RunUntilIdle();
  EXPECT_EQ(expired_, 0);
  use.reset();
  Advance(absl::Seconds(10));
  EXPECT_EQ(expired_, 1);
}

TEST_F(LeaseTest, AfterAStallThereIsAMomentOfGrace) {
  Advance(absl::Minutes(5));
  EXPECT_EQ(expired_, 0);
  Advance(absl::Seconds(1));
  EXPECT_EQ(expired_, 1);
}

TEST_F(LeaseTest, StoppedItNeverExpires) {
  lease_.Stop();
  Advance(absl::Hours(1));
  {
    const Lease::Use use = lease_.Begin();
  }
  Advance(absl::Hours(1));
  EXPECT_EQ(expired_, 0);
}

TEST(LeaseLifetimeTest, ItMayBeDestroyedWithItsEndUnderWay) {
  streams::ManualClock clock;
  streams::EventLoop loop(&clock);
  int expired = 0;
  std::optional<Lease> lease;
  lease.emplace(&loop, absl::Seconds(10), [&] { expired++; });
  clock.Advance(absl::Seconds(10));
  loop.Post([&] { lease.reset(); });
  loop.RunUntilIdle();
  EXPECT_EQ(expired, 0);
  // Also by its own callback.
  lease.emplace(&loop, absl::Seconds(10), [&] {
    expired++;
    lease.reset();
  });
  clock.Advance(absl::Seconds(10));
  loop.RunUntilIdle();
  EXPECT_EQ(expired, 1);
}

}  // namespace
}  // namespace sockbroker::server
