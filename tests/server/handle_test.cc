#include "server/handle.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace sockbroker::server {
namespace {

TEST(HandleTest, NoTwoAreAlikeAndEachTellsItsMaker) {
  const BrokerIdentity identity = BrokerIdentity::Draw("seed");
  std::set<std::string> seen;
  for (int i = 0; i < 1000; i++) {
    const Handle handle = Handle::Random(identity);
    EXPECT_EQ(handle.broker_id(), identity.broker_id);
    EXPECT_EQ(handle.incarnation(), identity.incarnation);
    EXPECT_TRUE(seen.insert(std::string(handle.bytes())).second);
  }
}

TEST(HandleTest, BytesOfTheRightSizeAloneAreAHandle) {
  const Handle handle = Handle::Random(BrokerIdentity::Draw(""));
  EXPECT_EQ(Handle::FromBytes(handle.bytes()), handle);
  EXPECT_FALSE(Handle::FromBytes("").has_value());
  EXPECT_FALSE(Handle::FromBytes(handle.bytes().substr(1)).has_value());
  EXPECT_FALSE(Handle::FromBytes(std::string(handle.bytes()) + "x").has_value());
}

TEST(HandleTest, TheTextIsHexadecimal) {
  const std::string bytes("\x00\x01\xab", 3);
  EXPECT_EQ(Handle::FromBytes(bytes + std::string(29, '\xff'))->ToText(),
            "0001ab" + std::string(58, 'f'));
}

TEST(BrokerIdentityTest, TheSameSeedIsTheSameBrokerInAnotherIncarnation) {
  const BrokerIdentity a = BrokerIdentity::Draw("a");
  const BrokerIdentity again = BrokerIdentity::Draw("a");
  EXPECT_EQ(a.broker_id, again.broker_id);
  EXPECT_NE(a.incarnation, again.incarnation);
  EXPECT_NE(a.broker_id, BrokerIdentity::Draw("b").broker_id);
  EXPECT_NE(BrokerIdentity::Draw("").broker_id, BrokerIdentity::Draw("").broker_id);
}

}  // namespace
}  // namespace sockbroker::server
