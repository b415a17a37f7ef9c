#include "session/flight.h"

#include <gtest/gtest.h>

namespace sockbroker::session {
namespace {

constexpr uint64_t kLeast = 1000;

class FlightTest : public testing::Test {
 protected:
  FlightTest() { flight_.Share(now_); }

  // Sends as much as there is room for, and a ping behind it; the answer comes `later`.
  void FillAndAnswer(absl::Duration later) {
    flight_.Share(now_);
    flight_.Sent(flight_.room());
    flight_.HeldBack();
    const uint64_t nonce = flight_.Ping(now_);
    now_ += later;
    flight_.OnPong(nonce, now_);
  }

  absl::Time now_ = absl::UnixEpoch();
  Flight flight_{kLeast};
};

TEST_F(FlightTest, TheLimitHoldsForATenthOfASecondAfterSomebodyHadLittleToSay) {
  EXPECT_EQ(flight_.room(), kLeast);
  flight_.Begin(now_ + absl::Milliseconds(99));
  EXPECT_EQ(flight_.room(), kLeast);
  flight_.Begin(now_ + absl::Milliseconds(100));
  EXPECT_EQ(flight_.room(), Flight::kMost);
  flight_.Share(now_ + absl::Milliseconds(100));
  EXPECT_EQ(flight_.room(), kLeast);
}

TEST_F(FlightTest, ThereIsRoomAgainOnlyForWhatAnAnsweredPingStandsBehind) {
  flight_.Sent(600);
  const uint64_t nonce = flight_.Ping(now_);
  flight_.Sent(400);
  EXPECT_EQ(flight_.room(), 0u);
  flight_.OnPong(nonce, now_);
  EXPECT_EQ(flight_.room(), 600u);
}

TEST_F(FlightTest, AnAnswerToNoPingMakesNoRoom) {
  flight_.Sent(kLeast);
  (void)flight_.Ping(now_);
  flight_.OnPong(77, now_);
  flight_.OnPong(0, now_);
  EXPECT_EQ(flight_.room(), 0u);
}

TEST_F(FlightTest, AnAnswerStandsForThePingsBeforeItAndTheirsComeToNothing) {
  flight_.Sent(kLeast / 2);
  const uint64_t first = flight_.Ping(now_);
  flight_.Sent(kLeast / 2);
  const uint64_t second = flight_.Ping(now_);
  flight_.OnPong(second, now_);
  EXPECT_EQ(flight_.room(), kLeast);
  flight_.OnPong(first, now_);
  EXPECT_EQ(flight_.room(), kLeast);
}

TEST_F(FlightTest, EveryQuarterIsFollowedByAPingSoThatTheNextOneNeverWaitsForAll) {
  flight_.Sent(kLeast / 4 - 1);
  EXPECT_FALSE(flight_.PingDue());
  flight_.Sent(1);
  EXPECT_TRUE(flight_.PingDue());
  (void)flight_.Ping(now_);
  EXPECT_FALSE(flight_.PingDue());
}

TEST_F(FlightTest, TheRoundTripIsMeasuredOnceASecondThoughLittleIsSent) {
  EXPECT_TRUE(flight_.PingDue(now_));
  (void)flight_.Ping(now_);
  EXPECT_FALSE(flight_.PingDue(now_ + absl::Milliseconds(999)));
  EXPECT_TRUE(flight_.PingDue(now_ + absl::Seconds(1)));
}

TEST_F(FlightTest, OnALongWayMoreAndMoreMayBeUnderWay) {
  for (int i = 0; i < 12; ++i) FillAndAnswer(absl::Milliseconds(100));
  EXPECT_GE(flight_.limit(), 1024 * kLeast);
}

TEST_F(FlightTest, ARoundTripThatGetsLongerWithTheDataIsAQueueAndLeavesTheLimitSmall) {
  FillAndAnswer(absl::Milliseconds(1));
  EXPECT_EQ(flight_.limit(), 2 * kLeast);
  for (int i = 0; i < 12; ++i) FillAndAnswer(absl::Microseconds(1500));
  EXPECT_EQ(flight_.limit(), 2 * kLeast);
  for (int i = 0; i < 12; ++i) FillAndAnswer(absl::Milliseconds(3));
  EXPECT_EQ(flight_.limit(), kLeast);
}

TEST_F(FlightTest, TheLimitDoesNotGrowWhileNothingIsHeldBack) {
  for (int i = 0; i < 12; ++i) {
    flight_.Sent(10);
    flight_.OnPong(flight_.Ping(now_), now_);
  }
  EXPECT_EQ(flight_.limit(), kLeast);
}

}  // namespace
}  // namespace sockbroker::session
