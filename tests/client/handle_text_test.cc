#include "client/handle_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "tests/client/fake_broker.h"

namespace sockbroker::client {
namespace {

using testing::HasSubstr;

TEST(HandleText, HexadecimalWithoutPrefix) {
  EXPECT_EQ(HandleText(std::string("\x9f\x00\xa1", 3)), "9f00a1");
}

TEST(HandleText, AnAbbreviationIsAsLongAsItMustBe) {
  EXPECT_EQ(UniqueLength({}), 8u);
  EXPECT_EQ(UniqueLength({"aaaaaaaaaa1", "bbbbbbbbbb1"}), 8u);
  EXPECT_EQ(UniqueLength({"aaaaaaaaaa1", "cccccccccc1", "aaaaaaaaaa2"}), 11u);
}

TEST(HandleText, APatternMayHaveAnOddNumberOfDigits) {
  const auto pattern = HandlePattern::Parse("9F86d");
  ASSERT_TRUE(pattern.ok());
  EXPECT_EQ(pattern->prefix(), "\x9f\x86");
  EXPECT_TRUE(pattern->Matches("\x9f\x86\xd0"));
  EXPECT_FALSE(pattern->Matches("\x9f\x86\xe0"));
}

TEST(HandleText, WhatIsNoHandleIsSaid) {
  for (const char* text : {"", "9f8", "9f8g", "--help", "9f86 "})
    EXPECT_FALSE(HandlePattern::Parse(text).ok()) << text;
}

class ResolveTest : public testing::Test {
 protected:
  void AddConnection(const char* hex) {
    v1::Connection connection;
    connection.set_handle(absl::HexStringToBytes(hex));
    broker_.listed_connections.push_back(connection);
  }
  void AddServer(const char* hex) {
    v1::Server server;
    server.set_handle(absl::HexStringToBytes(hex));
    broker_.listed_servers.push_back(server);
  }

  FakeBroker broker_;
  std::unique_ptr<BrokerLink> link_ = broker_.Link();
};

TEST_F(ResolveTest, TheOneThatBeginsSoIsFound) {
  AddConnection("9f86aa01");
  AddConnection("9f86bb02");
  AddServer("77d00001");
  EXPECT_EQ(ResolveHandle(*link_, "9f86b")->handle, absl::HexStringToBytes("9f86bb02"));
  const auto server = ResolveHandle(*link_, "77d0");
  ASSERT_TRUE(server.ok());
  EXPECT_TRUE(server->is_server);
}

TEST_F(ResolveTest, AnAmbiguousOneListsWhatMatches) {
  AddConnection("9f86aa01");
  AddConnection("9f86aa02");
  AddServer("9f86aa03");
  const auto status = ResolveHandle(*link_, "9f86").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  for (const char* hex : {"9f86aa01", "9f86aa02", "9f86aa03"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(hex));
  }
  EXPECT_EQ(ResolveHandle(*link_, "9f86", HandleKind::kServer)->handle,
            absl::HexStringToBytes("9f86aa03"));
}

TEST_F(ResolveTest, OneThatNobodyHasIsNotFound) {
  AddConnection("9f86aa01");
  EXPECT_EQ(ResolveHandle(*link_, "abcd").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ResolveTest, AWholeHandleOfAnotherTimeIsLeftToTheBrokerToJudge) {
  const std::string whole(64, 'a');
  EXPECT_EQ(HandleText(ResolveHandle(*link_, whole)->handle), whole);
}

}  // namespace
}  // namespace sockbroker::client
