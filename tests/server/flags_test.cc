#include "server/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>
#include <string>
#include <variant>
#include <vector>

#include "server/listen_address.h"

namespace sockbroker::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::CaptureStdout;
using ::testing::internal::GetCapturedStderr;
using ::testing::internal::GetCapturedStdout;

std::variant<Flags, int> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "sockbrokerd");
  return ParseFlags(static_cast<int>(arguments.size()), arguments.data());
}

Flags Parsed(std::vector<const char*> arguments) {
  auto parsed = Parse(std::move(arguments));
  EXPECT_TRUE(std::holds_alternative<Flags>(parsed));
  return std::holds_alternative<Flags>(parsed) ? std::get<Flags>(parsed) : Flags();
}

// What is said on stderr about a mistake.
std::string Mistake(std::vector<const char*> arguments) {
  CaptureStderr();
  const auto parsed = Parse(std::move(arguments));
  const std::string said = GetCapturedStderr();
  const int* status = std::get_if<int>(&parsed);
  EXPECT_TRUE(status != nullptr && *status == kExitUsage) << said;
  return said;
}

TEST(Flags, HaveTheirDefaults) {
  setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  const Flags flags = Parsed({});
  EXPECT_THAT(flags.listen, ElementsAre("unix:" + *DefaultListenPath()));
  EXPECT_FALSE(flags.insecure_loopback);
  EXPECT_FALSE(flags.allow_all);
  EXPECT_EQ(flags.drain_timeout, absl::Seconds(8));
  EXPECT_EQ(flags.lease, absl::Seconds(60));
  EXPECT_EQ(flags.loops, 0);
  EXPECT_EQ(flags.log_level, spdlog::level::info);
  EXPECT_EQ(flags.log_format, LogFormat::kText);
}

TEST(Flags, AreTakenInEverySpelling) {
  const Flags flags = Parsed({"--listen", "unix:/a", "--listen=127.0.0.1:0", "-l", "fd:c",
                              "--insecure-loopback", "--drain-timeout", "1.5", "--lease=2m",
                              "--loops", "3", "--broker-id=x", "--max-connections=10",
                              "--max-servers=5", "--log-level=warn", "--log-format", "json"});
  EXPECT_THAT(flags.listen, ElementsAre("unix:/a", "127.0.0.1:0", "fd:c"));
  EXPECT_TRUE(flags.insecure_loopback);
  EXPECT_EQ(flags.drain_timeout, absl::Milliseconds(1500));
  EXPECT_EQ(flags.lease, absl::Minutes(2));
  EXPECT_EQ(flags.loops, 3);
  EXPECT_EQ(flags.broker_id, "x");
  EXPECT_EQ(flags.max_connections, 10u);
  EXPECT_EQ(flags.max_servers, 5u);
  EXPECT_EQ(flags.log_level, spdlog::level::warn);
  EXPECT_EQ(flags.log_format, LogFormat::kJson);
}

TEST(Flags, MistakesAreNamedAndPointToHelp) {
  EXPECT_THAT(Mistake({"--lisen=unix:/a"}), AllOf(HasSubstr("--lisen"), HasSubstr("--help")));
  EXPECT_THAT(Mistake({"extra"}), HasSubstr("extra"));
  EXPECT_THAT(Mistake({"--drain-timeout=soon"}),
              AllOf(HasSubstr("--drain-timeout"), HasSubstr("soon"), HasSubstr("8s")));
  EXPECT_THAT(Mistake({"--drain-timeout=-1s"}), HasSubstr("--drain-timeout"));
  EXPECT_THAT(Mistake({"--drain-timeout=nan"}), HasSubstr("--drain-timeout"));
  EXPECT_THAT(Mistake({"--lease=0"}), HasSubstr("--lease"));
  EXPECT_THAT(Mistake({"--lease=25h"}), HasSubstr("24h"));
  EXPECT_THAT(Mistake({"--loops=0"}), HasSubstr("--loops"));
  EXPECT_THAT(Mistake({"--loops=many"}), HasSubstr("--loops"));
  EXPECT_THAT(Mistake({"--max-connections=-1"}), HasSubstr("--max-connections"));
  EXPECT_THAT(Mistake({"--log-level=loud"}), HasSubstr("--log-level"));
  EXPECT_THAT(Mistake({"--log-format=xml"}), HasSubstr("--log-format"));
  EXPECT_THAT(Mistake({"--listen"}), HasSubstr("--listen"));
}

TEST(Flags, MutualTlsTakesItsThreeFilesTogether) {
  const Flags flags = Parsed({"--listen=0.0.0.0:7400", "--tls-cert=c", "--tls-key", "k",
                              "--tls-client-ca=a", "--allow-all"});
  EXPECT_EQ(flags.tls_cert, "c");
  EXPECT_EQ(flags.tls_key, "k");
  EXPECT_EQ(flags.tls_client_ca, "a");
  EXPECT_TRUE(flags.allow_all);
  // why: with a certificate alone anybody could come in
  EXPECT_THAT(Mistake({"--tls-cert=c", "--tls-key=k"}), HasSubstr("missing: --tls-client-ca\n"));
  EXPECT_THAT(Mistake({"--tls-client-ca=a"}), HasSubstr("missing: --tls-cert, --tls-key\n"));
}

TEST(Flags, VersionAndHelpEndWellOnStdout) {
  CaptureStdout();
  EXPECT_EQ(std::get<int>(Parse({"--version"})), 0);
  EXPECT_THAT(GetCapturedStdout(), HasSubstr("sockbrokerd 0."));
  CaptureStdout();
  EXPECT_EQ(std::get<int>(Parse({"-h"})), 0);
  EXPECT_EQ(GetCapturedStdout(), HelpText());
}

TEST(Flags, HelpTeachesEveryFlagAndFitsATerminal) {
  for (const char* flag :
       {"--listen", "--insecure-loopback", "--tls-cert", "--tls-key", "--tls-client-ca",
        "--allow-all", "--drain-timeout", "--loops", "--broker-id", "--lease", "--max-connections",
        "--max-servers", "--log-level", "--log-format", "--version", "--help",
        "Examples:", "Exit status:", "Environment:"}) {
    EXPECT_THAT(HelpText(), HasSubstr(flag));
  }
  const std::regex too_long("[^\n]{106}");
  EXPECT_FALSE(std::regex_search(HelpText(), too_long));
}

}  // namespace
}  // namespace sockbroker::server
