#include "server/session_inbox.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/cord.h"

namespace sockbroker::server {
namespace {

using Found = SessionInbox::Found;

absl::Cord Small() { return absl::Cord("small"); }
absl::Cord Bulk() { return absl::Cord(std::string(SessionInbox::kBulk, 'x')); }

// gRPC's thread brings a message and goes.
void Bring(SessionInbox* inbox, absl::Cord message) {
  (void)inbox->Leave(inbox->Put(std::move(message)));
}

TEST(SessionInbox, TheLoopIsToldOnceUntilItHasFoundNothing) {
  SessionInbox inbox;
  EXPECT_TRUE(inbox.Put(Bulk()).tell);
  EXPECT_FALSE(inbox.Put(Bulk()).tell);
  EXPECT_EQ(inbox.Take(0).found, Found::kMessage);
  EXPECT_FALSE(inbox.Put(Bulk()).tell);
  EXPECT_EQ(inbox.Take(0).found, Found::kMessage);
  EXPECT_EQ(inbox.Take(0).found, Found::kMessage);
  EXPECT_EQ(inbox.Take(0).found, Found::kNothing);
  EXPECT_TRUE(inbox.Put(Bulk()).tell);
}

TEST(SessionInbox, MessagesComeInTheirOrderAlsoWhenOneWasPutBack) {
  SessionInbox inbox;
  Bring(&inbox, absl::Cord("a"));
  Bring(&inbox, absl::Cord("b"));
  SessionInbox::Taken taken = inbox.Take(0);
  EXPECT_EQ(taken.message, "a");
  inbox.PutBack(std::move(taken.message));
  EXPECT_EQ(inbox.Take(0).message, "a");
  EXPECT_EQ(inbox.Take(0).message, "b");
}

TEST(SessionInbox, AfterFourMessagesOthersOfTheLoopHaveTheirTurn) {
  SessionInbox inbox;
  for (int i = 0; i < 5; ++i) Bring(&inbox, Small());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(inbox.Take(0).found, Found::kMessage);
  EXPECT_EQ(inbox.Take(0).found, Found::kTurnOver);
  EXPECT_FALSE(inbox.Put(Small()).tell) << "it comes again by itself";
  for (int i = 0; i < 2; ++i) EXPECT_EQ(inbox.Take(0).found, Found::kMessage);
  EXPECT_EQ(inbox.Take(0).found, Found::kNothing);
  // What found its end begins a turn anew.
  for (int i = 0; i < 4; ++i) Bring(&inbox, Small());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(inbox.Take(0).found, Found::kMessage);
}

TEST(SessionInbox, NothingIsTakenWhileAMebibyteOfAnswersWaitsForAClientThatDoesNotRead) {
  SessionInbox inbox;
  Bring(&inbox, Small());
  EXPECT_FALSE(inbox.Resume(0)) << "it has not stopped";
  EXPECT_EQ(inbox.Take(SessionInbox::kMaxUnread + 1).found, Found::kStalled);
  EXPECT_FALSE(inbox.Put(Small()).tell);
  EXPECT_FALSE(inbox.Resume(SessionInbox::kMaxUnread + 1));
  EXPECT_TRUE(inbox.Resume(SessionInbox::kMaxUnread));
  EXPECT_FALSE(inbox.Resume(0)) << "once";
  EXPECT_EQ(inbox.Take(SessionInbox::kMaxUnread).found, Found::kMessage);
}

TEST(SessionInbox, ASmallMessageIsHandledBeforeTheNextIsAskedFor) {
  SessionInbox inbox;
  const SessionInbox::Arrival arrival = inbox.Put(Small());
  EXPECT_FALSE(arrival.read_next);
  // On the same thread, or another that is quick.
  EXPECT_FALSE(inbox.Take(0).read_next);
  EXPECT_FALSE(inbox.Handled()) << "by who brought it";
  EXPECT_TRUE(inbox.Leave(arrival));
}

TEST(SessionInbox, ALoopThatComesLaterAsksForTheNextItself) {
  SessionInbox inbox;
  EXPECT_FALSE(inbox.Leave(inbox.Put(Small())));
  EXPECT_FALSE(inbox.Take(0).read_next);
  EXPECT_TRUE(inbox.Handled());
  EXPECT_FALSE(inbox.Handled()) << "one read at a time";
}

TEST(SessionInbox, BehindABulkMessageTheNextIsAskedForAtOnceUntilFourWait) {
  SessionInbox inbox;
  for (int i = 0; i < 3; ++i) {
    const SessionInbox::Arrival arrival = inbox.Put(Bulk());
    EXPECT_TRUE(arrival.read_next);
    EXPECT_FALSE(inbox.Leave(arrival));
  }
  const SessionInbox::Arrival fourth = inbox.Put(Bulk());
  EXPECT_FALSE(fourth.read_next);
  EXPECT_FALSE(inbox.Leave(fourth));
  EXPECT_TRUE(inbox.Take(0).read_next) << "before it is handled";
  EXPECT_FALSE(inbox.Handled());
}

}  // namespace
}  // namespace sockbroker::server
