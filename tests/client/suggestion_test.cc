#include "client/suggestion.h"

#include <gtest/gtest.h>

namespace sockbroker::client {
namespace {

const std::vector<std::string> kWords = {"connect", "listen", "ls",   "servers",
                                         "info",    "close",  "watch"};

TEST(Suggestion, AMistypedWordIsRecognised) {
  EXPECT_EQ(Suggest("conect", kWords), "connect");
  EXPECT_EQ(Suggest("lisetn", kWords), "listen");
  EXPECT_EQ(Suggest("server", kWords), "servers");
  EXPECT_EQ(Suggest("sl", kWords), "ls");
}

TEST(Suggestion, TheBeginningOfAWordIsRecognised) { EXPECT_EQ(Suggest("serv", kWords), "servers"); }

TEST(Suggestion, AnotherWordIsNotTakenForOne) {
  EXPECT_EQ(Suggest("frobnicate", kWords), "");
  EXPECT_EQ(Suggest("x", kWords), "");
  EXPECT_EQ(Suggest("", kWords), "");
}

}  // namespace
}  // namespace sockbroker::client
