#include "server/session_inbox.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/cord.h"

namespace sockbroker::server {
namespace {

using Found = SessionInbox::Found;

absl::Cord Small() { return absl::Cord("small"); }
absl::Cord Bulk() { return absl::Cord(std::string(SessionInbox::kBulk, 'x')); }

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
  inbox.Put(absl::Cord("a"));
  inbox.Put(absl::Cord("b"));
  SessionInbox::Taken taken = inbox.Take(0);
  EXPECT_EQ(taken.message, "a");
  inbox.PutBack(std::move(taken.message));
  EXPECT_EQ(inbox.Take(0).message, "a");
  EXPECT_EQ(inbox.Take(0).message, "b");
}

TEST(SessionInbox, AfterFourMessagesOthersOfTheLoopHaveTheirTurn) {
  SessionInbox inbox;
  for (int i = 0; i < 5; ++i) inbox.Put(Small());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(inbox.Take(0).found, Found::kMessage);
  EXPECT_EQ(inbox.Take(0).found, Found::kTurnOver);
  EXPECT_FALSE(inbox.Put(Small()).tell) << "it comes again by itself";
  for (int i = 0; i < 2; ++i) EXPECT_EQ(inbox.Take(0).found, Found::kMessage);
  EXPECT_EQ(inbox.Take(0).found, Found::kNothing);
  // What found its end begins a turn anew.
  for (int i = 0; i < 4; ++i) inbox.Put(Small());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(inbox.Take(0).found, Found::kMessage);
}

TEST(SessionInbox, NothingIsTakenWhileAMebibyteOfAnswersWaitsForAClientThatDoesNotRead) {
  SessionInbox inbox;
  inbox.Put(Small());
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
  EXPECT_FALSE(inbox.Put(Small()).read_next);
  EXPECT_FALSE(inbox.Take(0).read_next);
  EXPECT_TRUE(inbox.Handled());
  EXPECT_FALSE(inbox.Handled()) << "one read at a time";
}

TEST(SessionInbox, BehindABulkMessageTheNextIsAskedForAtOnceUntilFourWait) {
  SessionInbox inbox;
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(inbox.Put(Bulk()).read_next);
  }
  EXPECT_FALSE(inbox.Put(Bulk()).read_next);
  EXPECT_TRUE(inbox.Take(0).read_next) << "before it is handled";
  EXPECT_FALSE(inbox.Handled());
}

}  // namespace
}  // namespace sockbroker::server
