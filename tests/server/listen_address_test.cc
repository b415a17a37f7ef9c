#include "server/listen_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "streams/testing/status_matchers.h"

namespace sockbroker::server {
namespace {

using streams::IsOk;
using streams::IsOkAndHolds;
using streams::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr ListenPolicy kStrict = {};
constexpr ListenPolicy kInsecure = {.insecure_loopback = true};

std::string Parsed(const std::string& text, const ListenPolicy& policy) {
  absl::StatusOr<ListenAddress> address = ParseListenAddress(text, policy);
  return address.ok() ? address->address.ToString() : std::string(address.status().message());
}

TEST(ListenAddress, TakesUnixPathsInBothSpellings) {
  EXPECT_EQ(Parsed("unix:/run/b.sock", kStrict), "/run/b.sock");
  EXPECT_EQ(Parsed("unix:///run/b.sock", kStrict), "/run/b.sock");
  EXPECT_EQ(Parsed("unix:here.sock", kStrict), "here.sock");
  EXPECT_THAT(ParseListenAddress("unix:", kStrict),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("needs a path")));
  EXPECT_THAT(ParseListenAddress("unix:/" + std::string(107, 'x'), kStrict),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("too long")));
}

TEST(ListenAddress, TakesLoopbackOnlyWhenAskedForByName) {
  EXPECT_EQ(Parsed("127.0.0.1:50051", kInsecure), "127.0.0.1:50051");
  EXPECT_EQ(Parsed("127.8.8.8:0", kInsecure), "127.8.8.8:0");
  EXPECT_EQ(Parsed("[::1]:0", kInsecure), "[::1]:0");
  EXPECT_EQ(Parsed("localhost:7", kInsecure), "127.0.0.1:7");
  EXPECT_THAT(ParseListenAddress("127.0.0.1:50051", kStrict),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("--insecure-loopback")));
}

TEST(ListenAddress, RefusesEverythingBeyondLoopbackAndSaysWhatItWillTake) {
  for (const char* text : {"0.0.0.0:1", "[::]:1", "192.0.2.1:1", "10.0.0.1:1", "[2001:db8::1]:1",
                           "[::ffff:127.0.0.1]:1", "128.0.0.1:1"}) {
    EXPECT_THAT(ParseListenAddress(text, kInsecure),
                StatusIs(absl::StatusCode::kPermissionDenied,
                         AllOf(HasSubstr("beyond loopback"), HasSubstr("mTLS"),
                               HasSubstr("--tls-cert, --tls-key and --tls-client-ca"))))
        << text;
  }
}

TEST(ListenAddress, WithMutualTlsTcpMayBeAnywhereAndIsPlainOnLoopbackAloneWhenAskedFor) {
  // why: what speaks plain TCP lends the broker's rights to whoever can connect
  struct Case {
    const char* text;
    bool tls;
    bool tls_beside_insecure;
  };
  for (const Case& c :
       {Case{"0.0.0.0:1", true, true}, Case{"[::]:1", true, true}, Case{"192.0.2.1:1", true, true},
        Case{"[::ffff:127.0.0.1]:1", true, true}, Case{"127.0.0.1:1", true, false},
        Case{"[::1]:1", true, false}, Case{"unix:/run/b.sock", false, false}}) {
    const ListenPolicy tls = {.mutual_tls = true};
    const ListenPolicy both = {.insecure_loopback = true, .mutual_tls = true};
    const absl::StatusOr<ListenAddress> address = ParseListenAddress(c.text, tls);
    ASSERT_THAT(address, IsOk()) << c.text;
    EXPECT_THAT(ParseListenAddress(c.text, both), IsOk()) << c.text;
    EXPECT_EQ(SpeaksTls(address->address, tls), c.tls) << c.text;
    EXPECT_EQ(SpeaksTls(address->address, both), c.tls_beside_insecure) << c.text;
    EXPECT_FALSE(SpeaksTls(address->address, kStrict)) << c.text;
    EXPECT_FALSE(SpeaksTls(address->address, kInsecure)) << c.text;
  }
}

TEST(ListenAddress, TakesInheritedDescriptorsByName) {
  absl::StatusOr<ListenAddress> address = ParseListenAddress("fd:control", kStrict);
  ASSERT_THAT(address, IsOk());
  EXPECT_EQ(address->inherited, "control");
  EXPECT_THAT(ParseListenAddress("fd:", kStrict),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("needs a name")));
}

TEST(ListenAddress, RefusesWhatIsNoAddress) {
  // why: each of these means something to some other parser (inet_aton, a resolver)
  for (const char* text :
       {"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "127.0.0.1:-1",
        "127.0.0.1: 1", "127.1:1", "2130706433:1", "0x7f.0.0.1:1", "::1:1", "[::1]", "[::1:1",
        "[127.0.0.1]:1", "example.org:1", "LOCALHOST:1", ":1", "tcp:127.0.0.1:1"}) {
    EXPECT_THAT(ParseListenAddress(text, kInsecure),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("unix:PATH")))
        << text;
  }
}

TEST(ListenAddress, AnIPv6AddressWithoutBracketsIsToldFromAHostThatIsNone) {
  for (const char* text : {"::1:1", "::1", "2001:db8::1:80"}) {
    EXPECT_THAT(Parsed(text, kInsecure), HasSubstr("an IPv6 address needs brackets")) << text;
  }
  for (const char* text : {"tcp:127.0.0.1:1", "unix/a:b:1", "[x]:1"}) {
    EXPECT_THAT(Parsed(text, kInsecure), HasSubstr("is not an IP address")) << text;
  }
}

TEST(DefaultListenPath, IsTheUsersRuntimeDirectoryAndForRootTheMachines) {
  // why: the CLI looks in the same places; root's shell and a service must meet in one
  const char* before = getenv("XDG_RUNTIME_DIR");
  const std::string saved = before != nullptr ? before : "";
  const bool root = geteuid() == 0;
  setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  EXPECT_THAT(DefaultListenPath(), IsOkAndHolds(root ? "/run/sockbroker/sockbroker.sock"
                                                     : "/run/user/7/sockbroker/sockbroker.sock"));
  unsetenv("XDG_RUNTIME_DIR");
  if (root) {
    EXPECT_THAT(DefaultListenPath(), IsOkAndHolds("/run/sockbroker/sockbroker.sock"));
  } else {
    const std::string own = "/run/user/" + std::to_string(geteuid());
    const absl::StatusOr<std::string> path = DefaultListenPath();
    if (path.ok()) {
      EXPECT_EQ(*path, own + "/sockbroker/sockbroker.sock");
    } else {
      EXPECT_THAT(path, StatusIs(absl::StatusCode::kNotFound,
                                 AllOf(HasSubstr(own), HasSubstr("--listen unix:PATH"))));
    }
  }
  if (before != nullptr) setenv("XDG_RUNTIME_DIR", saved.c_str(), 1);
}

}  // namespace
}  // namespace sockbroker::server
