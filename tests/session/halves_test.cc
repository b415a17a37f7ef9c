#include <string>

#include "gtest/gtest.h"
#include "session/fair_queue.h"
#include "session/receive_half.h"
#include "session/send_half.h"

namespace sockbroker::session {
namespace {

std::string TakeAll(SendHalf* half) {
  std::string all;
  while (true) {
    if (half->TakeMark().has_value()) {
      all.push_back('|');
    } else if (auto data = half->TakeData(3)) {
      all.append(std::string(data->bytes));
    } else {
      return all;
    }
  }
}

TEST(SendHalf, NeverPassesTheEdge) {
  SendHalf half({}, 5);
  half.Append(absl::Cord("0123456789"));
  EXPECT_EQ(TakeAll(&half), "01234");
  ASSERT_TRUE(half.OnAck({2, 0}, 7).ok());
  EXPECT_EQ(TakeAll(&half), "56");
}

TEST(SendHalf, MarksKeepTheirPlaceAmongTheBytesAndNeedNoWindow) {
  SendHalf half({}, 4);
  half.Append(absl::Cord("ab"));
  half.AddMark();
  half.Append(absl::Cord("cd"));
  half.AddMark();
  EXPECT_EQ(TakeAll(&half), "ab|cd|");
}

TEST(SendHalf, AfterARewindItSendsExactlyWhatTheReceiverLacks) {
  SendHalf half({}, 100);
  half.Append(absl::Cord("abc"));
  half.AddMark();
  half.Append(absl::Cord("def"));
  TakeAll(&half);
  ASSERT_TRUE(half.Rewind({3, 0}, 100).ok());
  EXPECT_EQ(TakeAll(&half), "|def");
  ASSERT_TRUE(half.Rewind({4, 1}, 100).ok());
  EXPECT_EQ(TakeAll(&half), "ef");
}

TEST(SendHalf, ARewindOutsideWhatIsKeptIsOutOfRange) {
  SendHalf half({}, 100);
  half.Append(absl::Cord("abcdef"));
  TakeAll(&half);
  ASSERT_TRUE(half.OnAck({3, 0}, 100).ok());
  EXPECT_EQ(half.kept_bytes(), 3u);
  EXPECT_EQ(half.Rewind({2, 0}, 100).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(half.Rewind({7, 0}, 100).code(), absl::StatusCode::kOutOfRange);
}

TEST(SendHalf, AnAckOfWhatWasNeverSentIsRefused) {
  SendHalf half({}, 2);
  half.Append(absl::Cord("abcdef"));
  TakeAll(&half);
  EXPECT_FALSE(half.OnAck({3, 0}, 10).ok());
  EXPECT_FALSE(half.OnAck({2, 1}, 10).ok());
}

TEST(SendHalf, AnAckOfAMarkWithoutTheBytesBeforeItIsRefused) {
  SendHalf half({}, 100);
  half.Append(absl::Cord("abc"));
  half.AddMark();
  TakeAll(&half);
  EXPECT_FALSE(half.OnAck({2, 1}, 100).ok());
}

TEST(SendHalf, ALateAckChangesNothing) {
  SendHalf half({}, 10);
  half.Append(absl::Cord("abcdef"));
  TakeAll(&half);
  ASSERT_TRUE(half.OnAck({4, 0}, 20).ok());
  ASSERT_TRUE(half.OnAck({2, 0}, 12).ok());
  EXPECT_EQ(half.taken().offset, 4u);
  EXPECT_EQ(half.edge(), 20u);
}

TEST(SendHalf, WhatIsTakenBackLeavesAnOffsetThatNamesNothing) {
  SendHalf half({}, 100);
  half.Append(absl::Cord("plainHELLO"));
  TakeAll(&half);
  EXPECT_EQ(half.TakeBack(5), "HELLO");
  half.AddMark();
  half.Append(absl::Cord("secret"));
  EXPECT_EQ(half.end().offset, 16u);
  auto mark = half.TakeMark();
  ASSERT_TRUE(mark.has_value());
  EXPECT_EQ(mark->offset, 10u);
  // A client that lost the link in between has 5 bytes and goes on behind the void.
  ASSERT_TRUE(half.Rewind({5, 0}, 100).ok());
  EXPECT_EQ(TakeAll(&half), "|secret");
}

TEST(SendHalf, ARevokedEdgeFallsNoLowerThanWhatWasSent) {
  SendHalf half({}, 100);
  half.Append(absl::Cord("abcdef"));
  TakeAll(&half);
  EXPECT_EQ(half.LowerEdge(3), 6u);
  half.Append(absl::Cord("g"));
  EXPECT_EQ(TakeAll(&half), "");
}

TEST(ReceiveHalf, ARevokedEdgeIsNotRaisedByAcksAndWhatWasUnderWayIsTaken) {
  ReceiveHalf in({}, /*window=*/1000);
  ASSERT_TRUE(in.OnData(0, absl::Cord(std::string(500, 'x'))).ok());
  EXPECT_EQ(in.Revoke(100), 600u);
  in.Consume(100);
  EXPECT_EQ(in.TakeAck(in.consumed()), 600u);
  // The sender had not heard of it.
  EXPECT_TRUE(in.OnData(500, absl::Cord(std::string(400, 'x'))).ok());
  in.OnRevoked(900);
  EXPECT_FALSE(in.revoking());
  EXPECT_EQ(in.edge(), 900u);
  EXPECT_FALSE(in.OnData(900, absl::Cord("x")).ok());
  in.Consume(800);
  EXPECT_EQ(in.TakeAck(in.consumed()), 1000u);
}

TEST(ReceiveHalf, DropsDuplicatesWholeOrInPart) {
  ReceiveHalf half({}, 100);
  EXPECT_EQ(half.OnData(0, absl::Cord("abc")).value(), "abc");
  EXPECT_EQ(half.OnData(0, absl::Cord("abc")).value(), "");
  EXPECT_EQ(half.OnData(1, absl::Cord("bcde")).value(), "de");
}

TEST(ReceiveHalf, RefusesGapsAndWhatPassesTheEdge) {
  ReceiveHalf half({}, 4);
  EXPECT_FALSE(half.OnData(1, absl::Cord("x")).ok());
  EXPECT_FALSE(half.OnData(0, absl::Cord("abcde")).ok());
  EXPECT_TRUE(half.OnData(0, absl::Cord("abcd")).ok());
}

TEST(ReceiveHalf, TakesAMarkOnceAndOnlyInItsPlace) {
  ReceiveHalf half({}, 100);
  ASSERT_TRUE(half.OnData(0, absl::Cord("ab")).ok());
  EXPECT_FALSE(half.OnMark({3, 0}).ok());
  EXPECT_FALSE(half.OnMark({2, 1}).ok());
  EXPECT_EQ(half.OnMark({2, 0}).value(), true);
  EXPECT_EQ(half.OnMark({2, 0}).value(), false);
}

TEST(ReceiveHalf, AcksAtAQuarterOfTheWindowAndMovesTheEdgeAlong) {
  ReceiveHalf half({}, 100);
  ASSERT_TRUE(half.OnData(0, absl::Cord(std::string(30, 'x'))).ok());
  half.Consume(24);
  EXPECT_FALSE(half.AckDue(half.consumed()));
  EXPECT_TRUE(half.AckDue(half.received()));
  half.Consume(1);
  EXPECT_TRUE(half.AckDue(half.consumed()));
  const uint64_t edge = half.TakeAck(half.consumed());
  EXPECT_EQ(edge, 125u);
  EXPECT_FALSE(half.AckPending(half.consumed()));
}

TEST(ReceiveHalf, WantsALargerWindowOnlyWhileItHoldsTheSenderBack) {
  const absl::Time start = absl::UnixEpoch();
  const absl::Duration trip = absl::Milliseconds(10);
  ReceiveHalf half({}, 100);
  ASSERT_TRUE(half.OnData(0, absl::Cord(std::string(100, 'x'))).ok());
  half.Consume(60);
  EXPECT_FALSE(half.WantsLargerWindow(start, trip)) << "the first half begins the measurement";
  half.Consume(40);
  EXPECT_FALSE(half.WantsLargerWindow(start + trip, trip)) << "not half of the window yet";
  half.TakeAck(half.consumed());
  ASSERT_TRUE(half.OnData(100, absl::Cord(std::string(100, 'x'))).ok());
  half.Consume(20);
  EXPECT_TRUE(half.WantsLargerWindow(start + trip, trip));
  half.Consume(80);
  EXPECT_FALSE(half.WantsLargerWindow(start + 10 * trip, trip)) << "a slow sender needs no more";
}

struct Waiting {
  FairQueueHook hook;
  int id;
};

TEST(FairQueue, WhoJustBecameReadyGoesBeforeWhoHadATurn) {
  Waiting bulk{{}, 1};
  Waiting echo{{}, 2};
  FairQueue<Waiting> queue;
  queue.Add(&bulk);
  EXPECT_EQ(queue.Next(), &bulk);
  queue.AddAgain(&bulk);
  queue.Add(&echo);
  EXPECT_EQ(queue.Next(), &echo);
  EXPECT_EQ(queue.Next(), &bulk);
  EXPECT_EQ(queue.Next(), nullptr);
}

TEST(FairQueue, AChannelThatWaitsAlreadyKeepsItsPlace) {
  Waiting a{{}, 1};
  Waiting b{{}, 2};
  FairQueue<Waiting> queue;
  queue.Add(&a);
  queue.Add(&b);
  queue.Add(&a);
  EXPECT_EQ(queue.Next(), &a);
  queue.Remove(&b);
  EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace sockbroker::session
