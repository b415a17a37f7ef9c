#include "server/control_listener.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "server/listen_address.h"
#include "streams/testing/status_matchers.h"
#include "tests/server/temporary_directory.h"

namespace sockbroker::server {
namespace {

using streams::Descriptor;
using streams::EventLoop;
using streams::IsOk;
using streams::SocketAddress;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class ControlListenerTest : public ::testing::Test {
 protected:
  void Listen(const std::string& where) {
    const ListenPolicy policy = {.insecure_loopback = true};
    auto sockets = ListeningSocket::Open(*ParseListenAddress(where, policy), policy, nullptr);
    ASSERT_THAT(sockets, IsOk());
    address_ = (*sockets)[0].address();
    options_.on_connection = [this](Descriptor connection) {
      connections_.push_back(std::move(connection));
      if (on_connection_) on_connection_();
    };
    options_.on_trouble = [this](absl::string_view sentence) {
      troubles_.emplace_back(sentence);
      if (on_trouble_) on_trouble_();
    };
    listener_ = std::make_unique<ControlListener>(&loop_, std::move((*sockets)[0]), options_);
  }
  void ListenUnix() { Listen("unix:" + directory_.path("b.sock")); }

  Descriptor Connect() const {
    Descriptor client(socket(address_.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(client.get(), address_.data(), address_.size()), 0);
    return client;
  }

  TemporaryDirectory directory_;
  EventLoop loop_;
  SocketAddress address_;
  ControlListenerOptions options_;
  std::unique_ptr<ControlListener> listener_;
  std::vector<Descriptor> connections_;
  std::vector<std::string> troubles_;
  std::function<void()> on_connection_;
  std::function<void()> on_trouble_;
};

TEST_F(ControlListenerTest, TakesThoseWhoCameBeforeItStarted) {
  // why: the registration is edge-triggered; the edge may have been long ago
  ListenUnix();
  const Descriptor early = Connect();
  ASSERT_THAT(listener_->Start(), IsOk());
  loop_.RunUntilIdle();
  EXPECT_THAT(connections_, SizeIs(1));
}

TEST_F(ControlListenerTest, TakesAllOfManyInSeveralTurns) {
  ListenUnix();
  ASSERT_THAT(listener_->Start(), IsOk());
  std::vector<Descriptor> clients;
  clients.reserve(200);
  for (int i = 0; i < 200; i++) clients.push_back(Connect());
  loop_.RunUntilIdle();
  EXPECT_THAT(connections_, SizeIs(200));
  EXPECT_EQ(listener_->accepted(), 200u);
}

TEST_F(ControlListenerTest, ANewOneIsToldWhileTheLoopSleeps) {
  ListenUnix();
  ASSERT_THAT(listener_->Start(), IsOk());
  loop_.RunUntilIdle();
  on_connection_ = [&] { loop_.Stop(); };
  const Descriptor client = Connect();
  loop_.RunForever();
  EXPECT_THAT(connections_, SizeIs(1));
}

TEST_F(ControlListenerTest, OutOfDescriptorsItPausesAndComesBack) {
  // why: gRPC 1.51's own listener is dead for good after this (CVE-2023-4785)
  ListenUnix();
  ASSERT_THAT(listener_->Start(), IsOk());
  const Descriptor earlier = Connect();
  loop_.RunUntilIdle();
  ASSERT_THAT(connections_, SizeIs(1));
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const Descriptor client = Connect();
  // No number is free below the limit that is set here. Nothing is asserted until it is lifted:
  // UBSan opens a pipe to look at an object whose type it has not seen, and takes failure for a bad
  // object.
  const Descriptor next(dup(client.get()));
  rlimit exhausted = before;
  exhausted.rlim_cur = static_cast<rlim_t>(next.get());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &exhausted), 0);
  loop_.RunUntilIdle();
  const bool paused = listener_->paused();
  // Nothing is tried before the pause is over, however often the loop runs: it doesn't spin.
  loop_.RunUntilIdle();
  const std::size_t troubles_while_paused = troubles_.size();
  // Still none: it tries again, and waits longer.
  on_trouble_ = [&] { loop_.Stop(); };
  loop_.RunForever();
  setrlimit(RLIMIT_NOFILE, &before);

  EXPECT_TRUE(paused);
  EXPECT_EQ(troubles_while_paused, 1u);
  EXPECT_THAT(connections_, SizeIs(1));
  EXPECT_THAT(troubles_, ElementsAre(AllOf(HasSubstr("Too many open files"), HasSubstr("100ms")),
                                     HasSubstr("200ms")));
  on_connection_ = [&] { loop_.Stop(); };
  loop_.RunForever();
  EXPECT_THAT(connections_, SizeIs(2));
  EXPECT_FALSE(listener_->paused());
  // And it goes on as if nothing had been.
  const Descriptor another = Connect();
  loop_.RunForever();
  EXPECT_THAT(connections_, SizeIs(3));
}

TEST_F(ControlListenerTest, OnUnixSocketsOnlyTheOwnUserAndRootMayConnect) {
  // Whoever may open the file: the broker's own user, given another uid to expect, plays the
  // stranger. Root is always let in, so as root a child becomes somebody else first.
  constexpr uid_t kNobody = 65534;
  if (geteuid() != 0) options_.allowed_uid = geteuid() + 1;
  ListenUnix();
  ASSERT_THAT(listener_->Start(), IsOk());
  if (geteuid() == 0) {
    // Let the child through the file's rights, so that only the credentials stand in its way.
    ASSERT_EQ(chmod(directory_.path("").c_str(), 0755), 0);
    ASSERT_EQ(chmod(address_.unix_path().c_str(), 0666), 0);
  }
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && setuid(kNobody) != 0) _exit(2);
    const int client = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(client, address_.data(), address_.size()) != 0) _exit(3);
    char byte;
    _exit(read(client, &byte, 1) == 0 ? 0 : 4);  // closed by the broker
  }
  on_trouble_ = [&] { loop_.Stop(); };
  loop_.RunForever();
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_THAT(connections_, IsEmpty());
  EXPECT_EQ(listener_->refused(), 1u);
  EXPECT_THAT(troubles_, ElementsAre(AllOf(HasSubstr("refused a connection of user"),
                                           HasSubstr("process " + std::to_string(child)))));
}

TEST_F(ControlListenerTest, GoneItAcceptsNobodyAndLeavesNoFile) {
  ListenUnix();
  ASSERT_THAT(listener_->Start(), IsOk());
  loop_.RunUntilIdle();
  listener_.reset();
  const Descriptor client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(client.get(), address_.data(), address_.size()), -1);
  EXPECT_EQ(access(address_.unix_path().c_str(), F_OK), -1);
}

TEST_F(ControlListenerTest, OnTcpEveryoneIsLetIn) {
  options_.allowed_uid = geteuid() + 1;
  Listen("127.0.0.1:0");
  ASSERT_THAT(listener_->Start(), IsOk());
  on_connection_ = [&] { loop_.Stop(); };
  const Descriptor client = Connect();
  loop_.RunForever();
  EXPECT_THAT(connections_, SizeIs(1));
}

}  // namespace
}  // namespace sockbroker::server
