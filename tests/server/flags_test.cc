#include "server/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
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

std::vector<std::string> ListenTexts(const Flags& flags) {
  std::vector<std::string> texts;
  texts.reserve(flags.listen.size());
  for (const ListenAddress& address : flags.listen) texts.push_back(ToString(address));
  return texts;
}

TEST(Flags, HaveTheirDefaults) {
  setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  const Flags flags = Parsed({});
  EXPECT_THAT(ListenTexts(flags), ElementsAre("unix:" + *DefaultListenPath()));
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
  EXPECT_THAT(ListenTexts(flags), ElementsAre("unix:/a", "127.0.0.1:0", "fd:c"));
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
  EXPECT_THAT(
      Mistake({"--log-level=loud"}),
      HasSubstr("--log-level: 'loud' is not one of trace, debug, info, warn, error, off\n"));
  EXPECT_THAT(Mistake({"--log-format=xml"}),
              HasSubstr("--log-format: 'xml' is not one of text, json\n"));
  EXPECT_THAT(Mistake({"--listen"}), HasSubstr("--listen"));
}

TEST(Flags, ANumberThatIsTooLargeIsRefusedNotMadeTheLargestThereIs) {
  for (const char* number :
       {"-1", "2147483648", "99999999999999999999", "1e3", "1.5", "many", ""}) {
    EXPECT_THAT(Mistake({"--max-connections", number}),
                HasSubstr(absl::StrCat("--max-connections: '", number,
                                       "' is not a number from 0 to 2147483647\n")));
  }
  EXPECT_THAT(Mistake({"--max-servers=99999999999999999999"}), HasSubstr("--max-servers"));
  EXPECT_THAT(Mistake({"--loops=99999999999"}), HasSubstr("--loops"));
  for (const char* size :
       {"63KiB", "2TiB", "99999999999999999999", "-1", "1GB of it", "much", ""}) {
    EXPECT_THAT(Mistake({"--buffer-memory", size}),
                HasSubstr(absl::StrCat("--buffer-memory: '", size,
                                       "' is not a size from 64KiB to 1TiB, such as 16MiB\n")));
  }
  EXPECT_EQ(Parsed({"--buffer-memory=64KiB", "--listen=unix:/a"}).buffer_memory, 65536u);
  EXPECT_EQ(Parsed({"--buffer-memory=1048576", "--listen=unix:/a"}).buffer_memory, 1048576u);
}

TEST(Flags, WhereToListenIsLookedAtWithTheOthers) {
  // Whatever is wrong with it is wrong on the command line.
  EXPECT_THAT(Mistake({"--listen=tcp:127.0.0.1:0", "--insecure-loopback"}),
              AllOf(HasSubstr("'tcp:127.0.0.1' is not an IP address"), HasSubstr("--help")));
  EXPECT_THAT(Mistake({"--listen=127.0.0.1:0"}), HasSubstr("--insecure-loopback"));
  EXPECT_THAT(Mistake({"--listen=0.0.0.0:0", "--insecure-loopback"}), HasSubstr("beyond loopback"));
  EXPECT_THAT(ListenTexts(Parsed(
                  {"--listen=0.0.0.0:7", "--tls-cert=c", "--tls-key=k", "--tls-client-ca=a"})),
              ElementsAre("0.0.0.0:7"));
}

TEST(Flags, OneAddressTwiceIsAMistakeButForAPortThatIsFree) {
  EXPECT_THAT(Mistake({"--listen=unix:/run/a", "--listen=unix:///run/a"}),
              HasSubstr("--listen unix:///run/a is there twice"));
  EXPECT_THAT(Mistake({"--listen=fd:a", "--listen=fd:b", "--listen=fd:a"}),
              HasSubstr("--listen fd:a is there twice"));
  EXPECT_THAT(Mistake({"--listen=localhost:7", "--listen=127.0.0.1:7", "--insecure-loopback"}),
              HasSubstr("--listen 127.0.0.1:7 is there twice"));
  EXPECT_THAT(
      ListenTexts(Parsed({"--listen=127.0.0.1:0", "--listen=127.0.0.1:0", "--insecure-loopback"})),
      ElementsAre("127.0.0.1:0", "127.0.0.1:0"));
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
