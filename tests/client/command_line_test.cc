#include "client/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "client/exit_status.h"

namespace sockbroker::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

TEST(CommandLine, ConnectTakesNcsFlagsInOneWord) {
  CommandLine line;
  const auto outcome = line.Parse({"connect", "-NvnC4", "-w", "2.5", "-q-1", "-s", "127.0.0.2",
                                   "-p", "4000", "127.0.0.1", "80"});
  ASSERT_TRUE(outcome.run) << outcome.error;
  EXPECT_EQ(line.word, "connect");
  EXPECT_THAT(line.connect.target, ElementsAre("127.0.0.1", "80"));
  EXPECT_TRUE(line.connect.verbose && line.connect.numeric && line.connect.crlf &&
              line.connect.ipv4);
  EXPECT_EQ(line.connect.half_close, true);
  EXPECT_EQ(line.connect.timeout, 2.5);
  EXPECT_EQ(line.connect.quit_after_input, -1);
  EXPECT_EQ(line.connect.source_address, "127.0.0.2");
  EXPECT_EQ(line.connect.source_port, "4000");
}

TEST(CommandLine, WhatIsNotUtf8IsRefusedWithTheNameOfTheOption) {
  for (const auto& [option, word] :
       std::vector<std::pair<std::string, std::string>>{{"--source", "connect"},
                                                        {"--label", "connect"},
                                                        {"--servername", "connect"},
                                                        {"--alpn", "connect"},
                                                        {"--name", "listen"},
                                                        {"--label", "listen"},
                                                        {"--alpn", "listen"},
                                                        {"--label", "forward"},
                                                        {"--label", "ls"},
                                                        {"--label", "watch"}}) {
    const auto outcome = CommandLine().Parse({word, option, "a\xff", "h", "1"});
    EXPECT_EQ(outcome.exit_status, kExitUsage) << word << option;
    EXPECT_THAT(outcome.error, StartsWith(option + ": it must be text in UTF-8")) << word;
  }
  EXPECT_TRUE(CommandLine().Parse({"connect", "-l", "na\xc3\xafve=1", "h", "1"}).run);
}

TEST(CommandLine, ForwardTakesAnyNumberOfEachKind) {
  CommandLine line;
  const auto outcome = line.Parse({"forward", "-vv", "-L", "1:a:2", "-L3:b:4", "-R", "5:c:6", "-D",
                                   "7", "-D", "8", "-W", "d:9", "--json", "-l", "k=v"});
  ASSERT_TRUE(outcome.run) << outcome.error;
  EXPECT_THAT(line.forward.local, ElementsAre("1:a:2", "3:b:4"));
  EXPECT_THAT(line.forward.remote, ElementsAre("5:c:6"));
  EXPECT_THAT(line.forward.dynamic, ElementsAre("7", "8"));
  EXPECT_EQ(line.forward.stdio, "d:9");
  EXPECT_EQ(line.forward.verbose, 2);
  EXPECT_TRUE(line.forward.json);
  EXPECT_THAT(line.forward.labels, ElementsAre("k=v"));
}

TEST(CommandLine, AttachTakesFilesAndWhereTheyBegin) {
  CommandLine line;
  const auto outcome =
      line.Parse({"attach", "9f86", "-cS", "-o", "out", "--base", "5000000000", "-i", "in",
                  "--input-base", "7", "-W", "0.5", "--no-half-close"});
  ASSERT_TRUE(outcome.run) << outcome.error;
  EXPECT_EQ(line.attach.handle, "9f86");
  EXPECT_TRUE(line.attach.go_on && line.attach.steal);
  EXPECT_EQ(line.attach.output, "out");
  EXPECT_EQ(line.attach.base, 5'000'000'000u);
  EXPECT_EQ(line.attach.input, "in");
  EXPECT_EQ(line.attach.input_base, 7u);
  EXPECT_EQ(line.attach.wait, 0.5);
  EXPECT_EQ(line.attach.half_close, false);
  EXPECT_FALSE(line.attach.from.has_value());
  EXPECT_EQ(CommandLine().Parse({"attach"}).exit_status, kExitUsage);
  EXPECT_EQ(CommandLine().Parse({"attach", "9f86", "--from", "-1"}).exit_status, kExitUsage);
}

TEST(CommandLine, ASeparateNegativeNumberIsAValueToo) {
  CommandLine line;
  ASSERT_TRUE(line.Parse({"connect", "-q", "-1", "h", "1"}).run);
  EXPECT_EQ(line.connect.quit_after_input, -1);
}

TEST(CommandLine, HalfCloseCanBeTurnedOnAndOff) {
  CommandLine with;
  ASSERT_TRUE(with.Parse({"connect", "h", "1"}).run);
  EXPECT_FALSE(with.connect.half_close.has_value());
  CommandLine without;
  ASSERT_TRUE(without.Parse({"connect", "--no-half-close", "h", "1"}).run);
  EXPECT_EQ(without.connect.half_close, false);
}

TEST(CommandLine, PortsAndLabelsMayBeSeveral) {
  CommandLine line;
  ASSERT_TRUE(
      line.Parse({"connect", "-z", "-l", "a=1", "--label", "b=", "host", "20-30", "80"}).run);
  EXPECT_THAT(line.connect.target, ElementsAre("host", "20-30", "80"));
  EXPECT_THAT(line.connect.labels, ElementsAre("a=1", "b="));
}

TEST(CommandLine, TheBrokerMayStandOnEitherSideOfTheWord) {
  CommandLine before;
  ASSERT_TRUE(before.Parse({"-b", "/x", "ls", "--json"}).run);
  EXPECT_EQ(before.broker, "/x");
  CommandLine after;
  ASSERT_TRUE(after.Parse({"ls", "--all", "--broker=/x"}).run);
  EXPECT_EQ(after.broker, "/x");
  EXPECT_TRUE(after.list.all);
}

TEST(CommandLine, TheWayToTheBrokerMayBeTls) {
  CommandLine before;
  ASSERT_TRUE(
      before.Parse({"--broker-cacert", "a", "--broker-cert=c", "--broker-key", "k", "ls"}).run);
  EXPECT_EQ(before.broker_tls.ca, "a");
  EXPECT_EQ(before.broker_tls.certificate, "c");
  EXPECT_EQ(before.broker_tls.key, "k");
  CommandLine after;
  ASSERT_TRUE(after.Parse({"connect", "h", "1", "--broker-cacert=a"}).run);
  EXPECT_EQ(after.broker_tls.ca, "a");
  // The file's name is not taken for the command.
  CommandLine wrong;
  EXPECT_THAT(wrong.Parse({"--broker-key", "k", "lst"}).error, HasSubstr("'lst'"));
}

TEST(CommandLine, ConnectTakesTls) {
  CommandLine line;
  const auto outcome =
      line.Parse({"connect", "-tk", "--cacert", "ca", "--cert=c", "--key", "k", "--servername", "",
                  "--alpn", "h2,x", "--starttls", "smtp", "h", "25"});
  ASSERT_TRUE(outcome.run) << outcome.error;
  const ClientTlsFlags& tls = line.connect.tls;
  EXPECT_TRUE(tls.tls && tls.insecure && tls.enabled());
  EXPECT_EQ(tls.ca + tls.certificate + tls.key, "cack");
  EXPECT_EQ(tls.server_name, "");
  EXPECT_EQ(tls.alpn, "h2,x");
  EXPECT_EQ(tls.starttls, "smtp");
  CommandLine without;
  ASSERT_TRUE(without.Parse({"connect", "h", "25"}).run);
  EXPECT_FALSE(without.connect.tls.enabled() || without.connect.tls.server_name.has_value());
}

TEST(CommandLine, ListenTakesTlsAndKStillMeansKeepOpen) {
  CommandLine line;
  const auto outcome = line.Parse(
      {"listen", "-kt", "--cert", "c", "--key", "k", "--client-ca", "ca", "--alpn", "h2", "0"});
  ASSERT_TRUE(outcome.run) << outcome.error;
  EXPECT_TRUE(line.listen.keep && line.listen.tls.tls);
  EXPECT_EQ(line.listen.tls.client_ca, "ca");
}

TEST(CommandLine, ListenTakesACommandAndABound) {
  CommandLine line;
  ASSERT_TRUE(line.Parse({"listen", "-k", "--exec", "cat -n", "--max-conns", "3", "0"}).run);
  EXPECT_EQ(line.listen.exec, "cat -n");
  EXPECT_EQ(line.listen.max_connections, 3);
  EXPECT_TRUE(line.listen.keep);
}

TEST(CommandLine, AMistypedCommandIsAnsweredWithTheRightOne) {
  CommandLine line;
  const auto outcome = line.Parse({"-b", "/x", "conect", "host", "1"});
  EXPECT_FALSE(outcome.run);
  EXPECT_EQ(outcome.exit_status, kExitUsage);
  EXPECT_EQ(outcome.error, "unknown command 'conect'; did you mean 'connect'?");
}

TEST(CommandLine, AMistypedOptionIsAnsweredWithTheRightOne) {
  CommandLine line;
  EXPECT_EQ(line.Parse({"ls", "--lable=x"}).error,
            "unknown option '--lable'; did you mean '--label'?");
}

TEST(CommandLine, WhatIsMissingIsSaid) {
  CommandLine nothing;
  EXPECT_EQ(nothing.Parse({}).exit_status, kExitUsage);
  CommandLine handle;
  const auto outcome = handle.Parse({"info"});
  EXPECT_EQ(outcome.exit_status, kExitUsage);
  EXPECT_THAT(outcome.error, HasSubstr("sockbroker info --help"));
  CommandLine number;
  EXPECT_EQ(number.Parse({"connect", "-w", "soon", "h", "1"}).exit_status, kExitUsage);
}

TEST(CommandLine, ANumberThatMeansNothingIsRefusedByItsName) {
  const auto refused = [](const std::vector<std::string>& arguments) {
    CommandLine line;
    const auto outcome = line.Parse(arguments);
    EXPECT_EQ(outcome.exit_status, kExitUsage) << testing::PrintToString(arguments);
    return outcome.error;
  };
  for (const char* seconds : {"nan", "inf", "-inf", "1e999", "1s", ""}) {
    EXPECT_THAT(refused({"connect", "--timeout", seconds, "h", "1"}),
                HasSubstr("--timeout: '" + std::string(seconds) + "' is no number of seconds"));
    for (const char* word : {"connect", "attach", "listen"}) refused({word, "-q", seconds, "9f86"});
    refused({"ping", "-w", seconds});
    refused({"attach", "-W", seconds, "9f86"});
  }
  EXPECT_THAT(refused({"ping", "-w", "-1"}), HasSubstr("must not be negative"));
  EXPECT_THAT(refused({"connect", "--lease", "-1", "h", "1"}), HasSubstr("must not be negative"));
  for (const char* option : {"--from", "--base", "--input-base"}) {
    EXPECT_THAT(refused({"attach", "9f86", option, "99999999999999999999999"}),
                HasSubstr("no stream has a byte 99999999999999999999999"));
    EXPECT_THAT(refused({"attach", "9f86", option, "-1"}), HasSubstr("must not be negative"));
  }
  CommandLine last;
  EXPECT_TRUE(last.Parse({"attach", "9f86", "--from", "18446744073709551615"}).run);
  EXPECT_EQ(last.attach.from, 18446744073709551615u);
}

TEST(CommandLine, WhatIsToBeGivenMustBeThere) {
  CommandLine command;
  const auto outcome = command.Parse({"listen", "--exec", "", "0"});
  EXPECT_EQ(outcome.exit_status, kExitUsage);
  EXPECT_THAT(outcome.error, HasSubstr("--exec: it must not be empty"));
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"connect", "h", "1"}, {"listen", "0"}, {"forward"}}) {
    std::vector<std::string> arguments = words;
    arguments.insert(arguments.end(), {"-l", "novalue"});
    CommandLine line;
    EXPECT_THAT(line.Parse(arguments).error, HasSubstr("--label: 'novalue' has no value"));
    arguments.back() = "empty=";
    CommandLine empty;
    EXPECT_TRUE(empty.Parse(arguments).run);
  }
  CommandLine list;
  EXPECT_TRUE(list.Parse({"ls", "-l", "key"}).run) << "whatever its value";
}

TEST(CommandLine, EveryCommandExplainsItselfWithAnExample) {
  for (const char* word :
       {"connect", "listen", "ls", "servers", "info", "close", "watch", "ping", "completion"}) {
    CommandLine flag;
    const auto by_flag = flag.Parse({word, "--help"});
    EXPECT_EQ(by_flag.exit_status, kExitOk);
    EXPECT_THAT(by_flag.out, StartsWith("Usage: sockbroker " + std::string(word)));
    EXPECT_THAT(by_flag.out, HasSubstr("  sockbroker " + std::string(word))) << "an example";
    CommandLine by_word;
    EXPECT_EQ(by_word.Parse({"help", word}).out, by_flag.out);
  }
  CommandLine whole;
  EXPECT_THAT(whole.Parse({"--help"}).out, HasSubstr("Exit status:"));
}

TEST(CommandLine, TheVersionIsTold) {
  CommandLine line;
  EXPECT_THAT(line.Parse({"--version"}).out, StartsWith("sockbroker "));
}

}  // namespace
}  // namespace sockbroker::client
