#include "client/broker_address.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace sockbroker::client {
namespace {

TEST(BrokerAddress, AUnixPathIsTakenWithAndWithoutItsPrefix) {
  for (const char* text : {"unix:/run/x.sock", "/run/x.sock", "unix:///run/x.sock"}) {
    const auto address = BrokerAddress::Parse(text);
    ASSERT_TRUE(address.ok()) << text;
    EXPECT_EQ(address->text(), "unix:/run/x.sock");
    EXPECT_EQ(address->target(), "unix:/run/x.sock");
    EXPECT_TRUE(address->is_unix());
  }
}

TEST(BrokerAddress, AHostNeedsAPort) {
  EXPECT_EQ(BrokerAddress::Parse("localhost:7777")->target(), "dns:///localhost:7777");
  EXPECT_EQ(BrokerAddress::Parse("[::1]:7777")->target(), "dns:///[::1]:7777");
  for (const char* text : {"", "localhost", "localhost:", ":7777", "::1", "::1:7777", "a:0",
                           "a:65536", "a:b", "unix:"}) {
    EXPECT_FALSE(BrokerAddress::Parse(text).ok()) << text;
  }
  EXPECT_FALSE(BrokerAddress::Parse("unix:" + std::string(108, 'x')).ok());
}

TEST(BrokerAddress, TheOptionGoesBeforeTheVariable) {
  setenv("SOCKBROKER_ADDRESS", "/run/variable.sock", 1);
  EXPECT_EQ(BrokerAddress::Choose("/run/option.sock")->text(), "unix:/run/option.sock");
  EXPECT_EQ(BrokerAddress::Choose("")->text(), "unix:/run/variable.sock");
  setenv("SOCKBROKER_ADDRESS", "nonsense", 1);
  EXPECT_EQ(BrokerAddress::Choose("").status().message().substr(0, 19), "SOCKBROKER_ADDRESS:");
  unsetenv("SOCKBROKER_ADDRESS");
  EXPECT_EQ(BrokerAddress::Choose("")->text(), BrokerAddress::Default().text());
}

TEST(BrokerAddress, TheDefaultIsTheDaemons) {
  setenv("XDG_RUNTIME_DIR", "/run/user/4711", 1);
  EXPECT_EQ(BrokerAddress::Default().text(),
            geteuid() == 0 ? "unix:/run/sockbroker/sockbroker.sock"
                           : "unix:/run/user/4711/sockbroker/sockbroker.sock");
}

TEST(BrokerAddress, AProbeTellsThatNobodyListens) {
  EXPECT_EQ(BrokerAddress::Parse("/nonexistent/x.sock")->ProbeErrno(), ENOENT);
  EXPECT_EQ(BrokerAddress::Parse("127.0.0.1:1")->ProbeErrno(), 0) << "only Unix sockets are probed";
}

}  // namespace
}  // namespace sockbroker::client
