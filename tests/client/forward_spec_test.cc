#include "client/forward_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sockbroker::client {
namespace {

using testing::HasSubstr;

ForwardPlace Tcp(const std::string& host, uint16_t port) {
  ForwardPlace place;
  place.host = host;
  place.port.number = port;
  return place;
}

ForwardPlace Unix(const std::string& path) {
  ForwardPlace place;
  place.unix_path = path;
  return place;
}

void ExpectForward(absl::string_view text, const ForwardPlace& listen, const ForwardPlace& target) {
  const absl::StatusOr<ForwardSpec> spec = ForwardSpec::ParseListenAndTarget('L', text);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->listen, listen) << text << " listens at " << spec->listen.Text();
  EXPECT_EQ(spec->target, target) << text << " leads to " << spec->target.Text();
}

std::string ErrorOf(absl::string_view text) {
  return std::string(ForwardSpec::ParseListenAndTarget('L', text).status().message());
}

TEST(ForwardSpec, APortAloneListensOnLoopback) {
  ExpectForward("8080:db.internal:80", Tcp("", 8080), Tcp("db.internal", 80));
  ExpectForward("0:127.0.0.1:5432", Tcp("", 0), Tcp("127.0.0.1", 5432));
}

TEST(ForwardSpec, AnInterfaceMayStandInFrontAndNothingOrAStarIsEveryOne) {
  ExpectForward("10.0.0.1:8080:db:80", Tcp("10.0.0.1", 8080), Tcp("db", 80));
  ExpectForward("localhost:8080:db:80", Tcp("localhost", 8080), Tcp("db", 80));
  ExpectForward("*:8080:db:80", Tcp("*", 8080), Tcp("db", 80));
  ExpectForward(":8080:db:80", Tcp("*", 8080), Tcp("db", 80));
  ExpectForward("[::]:8080:db:80", Tcp("::", 8080), Tcp("db", 80));
}

TEST(ForwardSpec, Ipv6AddressesStandInBrackets) {
  ExpectForward("[::1]:8080:[fd00::5]:80", Tcp("::1", 8080), Tcp("fd00::5", 80));
  ExpectForward("8080:[::1]:80", Tcp("", 8080), Tcp("::1", 80));
  EXPECT_THAT(ErrorOf("8080:fd00::5:80"), HasSubstr("an IPv6 address stands in brackets"));
  EXPECT_THAT(ErrorOf("::1:8080:db:80"), HasSubstr("an IPv6 address stands in brackets"));
  EXPECT_THAT(ErrorOf("[::1:8080:db:80"), HasSubstr("the brackets don't match"));
  EXPECT_THAT(ErrorOf("[::1]x:8080:db:80"), HasSubstr("the brackets don't match"));
}

TEST(ForwardSpec, UnixPathsMayStandForEitherEnd) {
  ExpectForward("6379:/run/redis.sock", Tcp("", 6379), Unix("/run/redis.sock"));
  ExpectForward("127.0.0.2:6379:./redis.sock", Tcp("127.0.0.2", 6379), Unix("./redis.sock"));
  ExpectForward("/tmp/here.sock:db:5432", Unix("/tmp/here.sock"), Tcp("db", 5432));
  ExpectForward("/tmp/here.sock:/run/there.sock", Unix("/tmp/here.sock"), Unix("/run/there.sock"));
  ExpectForward("@here:@there", Unix("@here"), Unix("@there"));
}

TEST(ForwardSpec, ABackslashTakesAColonIntoAPath) {
  ExpectForward(R"(/tmp/a\:b:/run/c\\d)", Unix("/tmp/a:b"), Unix(R"(/run/c\d)"));
}

TEST(ForwardSpec, TheTargetsPortMayBeAServicesName) {
  const auto spec = ForwardSpec::ParseListenAndTarget('L', "8080:db:postgresql");
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->target.port.service, "postgresql");
}

TEST(ForwardSpec, AMistakeIsExplainedWithTheGrammar) {
  EXPECT_THAT(ErrorOf("8080"), HasSubstr("-L takes [BIND:]PORT:HOST:HOSTPORT"));
  EXPECT_THAT(ErrorOf("8080"), HasSubstr("where it leads is missing"));
  EXPECT_THAT(ErrorOf("8080:db"), HasSubstr("where it leads is missing"));
  EXPECT_THAT(ErrorOf("8080:db:0"), HasSubstr("'0' is no port to connect to"));
  EXPECT_THAT(ErrorOf("8080:db:70000"), HasSubstr("'70000' is no port"));
  EXPECT_THAT(ErrorOf("70000:db:80"), HasSubstr("'70000' is no port"));
  EXPECT_THAT(ErrorOf("8080::80"), HasSubstr("'' is no host"));
  EXPECT_THAT(ErrorOf("8080:d b:80"), HasSubstr("'d b' is no host"));
  EXPECT_THAT(ErrorOf("8080:d\xff:80"), HasSubstr("is no host"));
  EXPECT_THAT(ErrorOf("a:b:db:80"), HasSubstr("'b' is no port"));
  EXPECT_THAT(ErrorOf("80a:db:80"), HasSubstr("'80a' is no port"));
  EXPECT_THAT(ErrorOf("-1:db:80"), HasSubstr("'-1' is no port"));
  EXPECT_THAT(ErrorOf("[::1]:8080:db"), HasSubstr("where it leads is missing"));
  for (const char* text : {"", ":", "::", ":::", "::::", "[", "]", "[]", "\\", "a", "@", "/",
                           "a:", "[]:1:a:1", "1:2:3:4:5:6", "\\:1:a:1"}) {
    EXPECT_FALSE(ForwardSpec::ParseListenAndTarget('R', text).ok()) << text;
  }
}

TEST(ForwardSpec, DynamicTakesOnlyWhereToListen) {
  EXPECT_EQ(ForwardSpec::ParseDynamic("1080")->listen, Tcp("", 1080));
  EXPECT_EQ(ForwardSpec::ParseDynamic("[::1]:1080")->listen, Tcp("::1", 1080));
  EXPECT_EQ(ForwardSpec::ParseDynamic("*:0")->listen, Tcp("*", 0));
  for (const char* text : {"", "1080:db:80", "db", "/run/x.sock", "99999", "-1"}) {
    EXPECT_FALSE(ForwardSpec::ParseDynamic(text).ok()) << text;
  }
}

TEST(ForwardSpec, StdioTakesOnlyATarget) {
  EXPECT_EQ(ForwardSpec::ParseStdio("db:22")->target, Tcp("db", 22));
  EXPECT_EQ(ForwardSpec::ParseStdio("[::1]:22")->target, Tcp("::1", 22));
  EXPECT_EQ(ForwardSpec::ParseStdio("/run/x.sock")->target, Unix("/run/x.sock"));
  for (const char* text : {"", "db", "db:0", "1:db:22", "::1:22"}) {
    EXPECT_FALSE(ForwardSpec::ParseStdio(text).ok()) << text;
  }
}

TEST(ForwardSpec, APlaceIsShownAsItIsTyped) {
  EXPECT_EQ(Tcp("db", 80).Text(), "db:80");
  EXPECT_EQ(Tcp("::1", 80).Text(), "[::1]:80");
  EXPECT_EQ(Tcp("", 80).Text(), "localhost:80");
  EXPECT_EQ(Unix("/run/x").Text(), "/run/x");
}

}  // namespace
}  // namespace sockbroker::client
