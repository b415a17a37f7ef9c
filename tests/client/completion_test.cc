#include "client/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "client/command_line.h"

namespace sockbroker::client {
namespace {

using testing::HasSubstr;

std::string Script(const char* shell) {
  CommandLine line;
  return CompletionScript(line.app(), shell);
}

// What bash offers for these words, the last of which is being typed, one a line.
std::string BashOffers(const std::string& words) {
  char name[] = "/tmp/sb-completion-XXXXXX";
  close(mkstemp(name));
  std::ofstream(name) << Script("bash");
  const std::string command =
      "bash -c 'set -e; source " + std::string(name) + "; COMP_WORDS=(" + words +
      "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _sockbroker; printf \"%s\\n\" "
      "\"${COMPREPLY[@]}\"' 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  std::string out;
  char buffer[4096];
  while (fgets(buffer, sizeof(buffer), pipe) != nullptr) out += buffer;
  EXPECT_EQ(pclose(pipe), 0) << out;
  unlink(name);
  return out;
}

TEST(Completion, BashOffersCommands) {
  EXPECT_EQ(BashOffers("sockbroker co"), "connect\ncompletion\n");
  EXPECT_EQ(BashOffers("sockbroker -b x ser"), "servers\n");
  EXPECT_EQ(BashOffers("sockbroker -b x --broker-cacert c ser"), "servers\n");
}

TEST(Completion, BashOffersTheOptionsOfTheCommand) {
  EXPECT_EQ(BashOffers("sockbroker connect --no"), "--no-half-close\n");
  EXPECT_EQ(BashOffers("sockbroker listen --max"), "--max-conns\n");
  EXPECT_EQ(BashOffers("sockbroker ls --bro"),
            "--broker\n--broker-cacert\n--broker-cert\n--broker-key\n");
}

TEST(Completion, BashOffersFilesForTheWayToTheBroker) {
  EXPECT_THAT(BashOffers("sockbroker --broker-key /etc/host"), HasSubstr("/etc/hosts\n"));
  EXPECT_THAT(BashOffers("sockbroker ls --broker-cacert /etc/host"), HasSubstr("/etc/hosts\n"));
}

TEST(Completion, BashOffersFilesAndProtocolsForTls) {
  EXPECT_EQ(BashOffers("sockbroker connect --cac"), "--cacert\n");
  EXPECT_THAT(BashOffers("sockbroker connect --cacert /etc/host"), HasSubstr("/etc/hosts\n"));
  EXPECT_THAT(BashOffers("sockbroker listen --client-ca /etc/host"), HasSubstr("/etc/hosts\n"));
  EXPECT_EQ(BashOffers("sockbroker connect --starttls p"), "pop3\npostgres\n");
}

TEST(Completion, ZshAndFishOfferFilesAndProtocolsForTls) {
  EXPECT_THAT(Script("zsh"), HasSubstr(":protocol:(smtp imap pop3"));
  EXPECT_THAT(Script("zsh"), HasSubstr("'*--client-ca["));
  EXPECT_THAT(Script("fish"), HasSubstr("-l starttls -x -a 'smtp imap pop3"));
  EXPECT_THAT(Script("fish"), HasSubstr("-l cacert -r -F"));
}

TEST(Completion, BashOffersTheShells) { EXPECT_EQ(BashOffers("sockbroker completion z"), "zsh\n"); }

TEST(Completion, BashOffersHandlesThatTheProgramLists) {
  // The program is what was typed for it: `echo` lists its own arguments.
  EXPECT_THAT(BashOffers("echo close s"), HasSubstr("servers"));
}

TEST(Completion, EveryShellKnowsEveryCommand) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = Script(shell);
    for (const char* word : {"connect", "listen", "forward", "servers", "info", "close", "watch"}) {
      EXPECT_THAT(script, HasSubstr(word)) << shell;
    }
    EXPECT_THAT(script, HasSubstr("max-conns")) << shell;
  }
  EXPECT_EQ(Script("csh"), "");
}

}  // namespace
}  // namespace sockbroker::client
