#include "server/default_broker_id.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace sockbroker::server {
namespace {

TEST(DefaultBrokerSeed, IsTheSameForTheSameHostAndListeners) {
  EXPECT_EQ(DefaultBrokerSeed({"m", "h"}, {"unix:/a", "127.0.0.1:1"}),
            DefaultBrokerSeed({"m", "h"}, {"unix:/a", "127.0.0.1:1"}));
}

TEST(DefaultBrokerSeed, DiffersWithTheMachineTheNameAndEveryListener) {
  const std::set<std::string> seeds = {DefaultBrokerSeed({"m", "h"}, {"unix:/a"}),
                                       DefaultBrokerSeed({"n", "h"}, {"unix:/a"}),
                                       DefaultBrokerSeed({"m", "i"}, {"unix:/a"}),
                                       DefaultBrokerSeed({"", "h"}, {"unix:/a"}),
                                       DefaultBrokerSeed({"m", "h"}, {"unix:/b"}),
                                       DefaultBrokerSeed({"m", "h"}, {"unix:/a", "[::1]:1"}),
                                       DefaultBrokerSeed({"m", "h"}, {})};
  EXPECT_EQ(seeds.size(), 7u);
  EXPECT_EQ(seeds.count(""), 0u);
}

TEST(DefaultBrokerSeed, IsNoneForAHostWithoutAName) {
  EXPECT_EQ(DefaultBrokerSeed({"", ""}, {"unix:/a"}), "");
  EXPECT_EQ(DefaultBrokerSeed({"", "localhost"}, {"unix:/a"}), "");
}

TEST(DefaultBrokerSeed, KnowsARelativePathByItsDirectory) {
  EXPECT_NE(DefaultBrokerSeed({"m", "h"}, {"unix:a"}).find("/"), std::string::npos);
  EXPECT_EQ(DefaultBrokerSeed({"m", "h"}, {"unix:a"}), DefaultBrokerSeed({"m", "h"}, {"unix:./a"}));
}

TEST(DefaultBrokerSeed, ThisHostIsTheSameTwice) {
  EXPECT_EQ(ThisHost().name, ThisHost().name);
  EXPECT_EQ(ThisHost().machine_id, ThisHost().machine_id);
}

}  // namespace
}  // namespace sockbroker::server
