#include "server/creation.h"

#include <optional>
#include <string>

#include "gtest/gtest.h"
#include "sockbroker/v1/connection.pb.h"
#include "streams/event_loop.h"
#include "streams/testing/manual_clock.h"

namespace sockbroker::server {
namespace {

class CreationTableTest : public testing::Test {
 protected:
  CreationTable::Entered Enter(const std::string& key, const std::string& fingerprint,
                               std::optional<CreationOutcome>* got, bool abandonable = false) {
    return table_.Enter(key, fingerprint, abandonable, &loop_,
                        [got](const CreationOutcome& outcome) { *got = outcome; });
  }
  static CreationOutcome Made() {
    return {RpcStatus(), Handle::Random(BrokerIdentity::Draw("test"))};
  }
  static CreationOutcome Refused() { return {WrongState(v1::CONNECTION_REFUSED, "refused"), {}}; }

  streams::ManualClock clock_;
  streams::EventLoop loop_{&clock_};
  CreationTable table_{&clock_, absl::Minutes(10), 3};
  std::optional<CreationOutcome> a_;
  std::optional<CreationOutcome> b_;
};

TEST_F(CreationTableTest, ARetryWaitsForTheAttemptUnderWay) {
  const auto first = Enter("key", "content", &a_);
  EXPECT_TRUE(first.start);
  const auto second = Enter("key", "content", &b_);
  EXPECT_FALSE(second.start);
  EXPECT_EQ(first.attempt, second.attempt);
  const CreationOutcome made = Made();
  EXPECT_TRUE(table_.Finish(first.attempt, made));
  EXPECT_EQ(a_->handle, made.handle);
  EXPECT_EQ(b_->handle, made.handle);
  // And later it gets the result at once.
  b_.reset();
  EXPECT_FALSE(Enter("key", "content", &b_).start);
  EXPECT_EQ(b_->handle, made.handle);
}

TEST_F(CreationTableTest, OtherContentIsRefused) {
  const auto first = Enter("key", "content", &a_);
  const auto other = Enter("key", "other", &b_);
  EXPECT_EQ(other.status.reason(), v1::DIFFERENT_REQUEST);
  table_.Finish(first.attempt, Made());
  EXPECT_EQ(Enter("key", "other", &b_).status.reason(), v1::DIFFERENT_REQUEST);
  EXPECT_FALSE(b_.has_value());
}

TEST_F(CreationTableTest, WithoutAKeyEachIsItsOwn) {
  EXPECT_TRUE(Enter("", "content", &a_, true).start);
  EXPECT_TRUE(Enter("", "content", &b_, true).start);
  EXPECT_EQ(table_.pending(), 2u);
}

TEST_F(CreationTableTest, AnAttemptNobodyWaitsForIsCancelledIfItMayBe) {
  const auto kept = Enter("kept", "content", &a_);
  table_.Leave(kept.attempt, kept.waiter);
  const auto abandoned = Enter("abandoned", "content", &b_, true);
  table_.Leave(abandoned.attempt, abandoned.waiter);
  loop_.RunUntilIdle();
  EXPECT_FALSE(kept.attempt->cancel.cancelled());
  EXPECT_TRUE(abandoned.attempt->cancel.cancelled());
  // What it made all the same is to be undone, and a retry begins anew.
  EXPECT_TRUE(Enter("abandoned", "content", &b_, true).start);
  EXPECT_FALSE(table_.Finish(abandoned.attempt, Made()));
  EXPECT_FALSE(b_.has_value());
  EXPECT_TRUE(table_.Finish(kept.attempt, Made()));
}

TEST_F(CreationTableTest, FailuresAreRememberedForAWhileAndResultsUntilForgotten) {
  table_.Finish(Enter("failed", "content", &a_).attempt, Refused());
  table_.Finish(Enter("made", "content", &a_).attempt, Made());
  clock_.Advance(absl::Minutes(9));
  EXPECT_FALSE(Enter("failed", "content", &b_).start);
  EXPECT_EQ(b_->status.reason(), v1::CONNECTION_REFUSED);
  clock_.Advance(absl::Hours(1));
  EXPECT_TRUE(Enter("failed", "content", &b_).start);
  EXPECT_FALSE(Enter("made", "content", &b_).start);
  table_.Forget("made");
  EXPECT_TRUE(Enter("made", "content", &b_).start);
}

TEST_F(CreationTableTest, WhatMayPassIsToldAndNotRemembered) {
  for (const RpcStatus& status :
       {Draining(), CallerGone(),
        Exhausted(v1::DESCRIPTOR_RESERVE, "descriptors", 1, absl::Seconds(1), "full")}) {
    const auto entered = Enter("key", "content", &a_);
    EXPECT_TRUE(entered.start);
    table_.Finish(entered.attempt, {status, {}});
    EXPECT_EQ(a_->status.code(), status.code());
  }
  EXPECT_EQ(table_.remembered(), 0u);
}

TEST_F(CreationTableTest, TheOldestAreForgottenWhenThereAreTooMany) {
  for (const char* key : {"1", "2", "3", "4", "5"}) {
    table_.Finish(Enter(key, "content", &a_).attempt, Made());
  }
  EXPECT_EQ(table_.remembered(), 3u);
  EXPECT_FALSE(Enter("5", "content", &a_).start);
  EXPECT_TRUE(Enter("1", "content", &a_).start);
}

TEST_F(CreationTableTest, ADrainCancelsEverything) {
  const auto one = Enter("one", "content", &a_);
  const auto two = Enter("", "content", &b_, true);
  table_.CancelAll();
  loop_.RunUntilIdle();
  EXPECT_TRUE(one.attempt->cancel.cancelled());
  EXPECT_TRUE(two.attempt->cancel.cancelled());
}

TEST(FingerprintTest, TellsMethodsAndContentsApartAndNotTheOrderOfLabels) {
  v1::OpenConnectionRequest a;
  v1::OpenConnectionRequest b;
  for (int i = 0; i < 16; i++) {
    (*a.mutable_options()->mutable_labels())[std::to_string(i)] = "x";
    (*b.mutable_options()->mutable_labels())[std::to_string(15 - i)] = "x";
  }
  EXPECT_EQ(Fingerprint("Open", a), Fingerprint("Open", b));
  EXPECT_NE(Fingerprint("Open", a), Fingerprint("Start", a));
  b.set_host("h");
  EXPECT_NE(Fingerprint("Open", a), Fingerprint("Open", b));
}

}  // namespace
}  // namespace sockbroker::server
