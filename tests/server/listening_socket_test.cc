#include "server/listening_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "streams/testing/status_matchers.h"
#include "tests/server/temporary_directory.h"

namespace sockbroker::server {
namespace {

using streams::Descriptor;
using streams::IsOk;
using streams::SocketAddress;
using streams::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::SizeIs;

absl::StatusOr<std::vector<ListeningSocket>> Open(const std::string& text,
                                                  InheritedDescriptors* inherited = nullptr) {
  const ListenPolicy policy = {.insecure_loopback = true};
  absl::StatusOr<ListenAddress> address = ParseListenAddress(text, policy);
  if (!address.ok()) return address.status();
  return ListeningSocket::Open(*address, policy, inherited);
}

bool CanConnect(const SocketAddress& address) {
  const Descriptor client(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  return connect(client.get(), address.data(), address.size()) == 0;
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

mode_t ModeOf(const std::string& path) {
  struct stat file = {};
  return lstat(path.c_str(), &file) == 0 ? file.st_mode & 07777 : ~mode_t{0};
}

class ListeningSocketTest : public ::testing::Test {
 protected:
  TemporaryDirectory directory_;
};

TEST_F(ListeningSocketTest, AUnixSocketIsItsOwnersAlone) {
  const mode_t umask_before = umask(0);  // why: its mode must not depend on the umask
  const std::string path = directory_.path("made/b.sock");
  auto sockets = Open("unix:" + path);
  umask(umask_before);
  ASSERT_THAT(sockets, IsOk());
  EXPECT_EQ(ModeOf(path), 0600u);
  EXPECT_EQ(ModeOf(directory_.path("made")), 0700u);
  EXPECT_EQ((*sockets)[0].ToString(), "unix:" + path);
  EXPECT_TRUE(CanConnect((*sockets)[0].address()));
}

TEST_F(ListeningSocketTest, TheFileGoesWithTheSocket) {
  const std::string path = directory_.path("b.sock");
  {
    auto sockets = Open("unix:" + path);
    ASSERT_THAT(sockets, IsOk());
    const ListeningSocket moved = std::move((*sockets)[0]);
    sockets->clear();
    EXPECT_TRUE(Exists(path)) << "a moved-from socket took the file with it";
  }
  EXPECT_FALSE(Exists(path));
}

TEST_F(ListeningSocketTest, AnothersFileIsLeftAlone) {
  const std::string path = directory_.path("b.sock");
  {
    auto sockets = Open("unix:" + path);
    ASSERT_THAT(sockets, IsOk());
    ASSERT_EQ(unlink(path.c_str()), 0);
    std::ofstream(path) << "somebody else's";
  }
  EXPECT_TRUE(Exists(path));
}

TEST_F(ListeningSocketTest, ADeadBrokersFileIsReplaced) {
  const std::string path = directory_.path("b.sock");
  {
    // What a process that was killed leaves behind.
    const Descriptor dead(socket(AF_UNIX, SOCK_STREAM, 0));
    const SocketAddress address = *SocketAddress::FromUnixPath(path);
    ASSERT_EQ(bind(dead.get(), address.data(), address.size()), 0);
    ASSERT_EQ(listen(dead.get(), 1), 0);
  }
  ASSERT_TRUE(Exists(path));
  auto sockets = Open("unix:" + path);
  ASSERT_THAT(sockets, IsOk());
  EXPECT_TRUE(CanConnect((*sockets)[0].address()));
}

TEST_F(ListeningSocketTest, ALiveBrokerIsNamedAndKeepsItsSocket) {
  const std::string path = directory_.path("b.sock");
  auto first = Open("unix:" + path);
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(Open("unix:" + path),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       AllOf(HasSubstr("another --listen is for the same file"), HasSubstr(path))));
  EXPECT_TRUE(CanConnect((*first)[0].address()));
}

TEST_F(ListeningSocketTest, AFileInTheWayIsNeverRemoved) {
  const std::string path = directory_.path("notes.txt");
  std::ofstream(path) << "dear diary";
  EXPECT_THAT(Open("unix:" + path),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("not a socket")));
  EXPECT_TRUE(Exists(path));
  ASSERT_EQ(mkdir(directory_.path("d").c_str(), 0700), 0);
  EXPECT_THAT(Open("unix:" + directory_.path("d")),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("not a socket")));
}

TEST_F(ListeningSocketTest, OnlyTheLastPartOfTheDirectoryIsMade) {
  // why: a typing mistake must not leave a tree of directories
  EXPECT_THAT(
      Open("unix:" + directory_.path("a/b/c.sock")),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("can't make the directory")));
}

TEST_F(ListeningSocketTest, PortZeroBecomesARealPort) {
  for (const char* text : {"127.0.0.1:0", "[::1]:0"}) {
    auto sockets = Open(text);
    if (!sockets.ok() && absl::StrContains(sockets.status().message(), "Cannot assign")) {
      GTEST_SKIP() << "no IPv6 on this machine";
    }
    ASSERT_THAT(sockets, IsOk());
    EXPECT_NE((*sockets)[0].address().port(), 0);
    EXPECT_THAT((*sockets)[0].ToString(),
                HasSubstr(":" + std::to_string((*sockets)[0].address().port())));
    EXPECT_TRUE(CanConnect((*sockets)[0].address()));
  }
}

TEST_F(ListeningSocketTest, APortInUseIsAnErrorThatSaysSo) {
  auto first = Open("127.0.0.1:0");
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(Open((*first)[0].ToString()),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("Address already in use")));
}

// Passes listening sockets as systemd would.
std::unique_ptr<InheritedDescriptors> Inherit(const std::vector<int>& fds,
                                              const std::string& names) {
  constexpr int kFirst = 750;
  for (std::size_t i = 0; i < fds.size(); i++) dup2(fds[i], kFirst + static_cast<int>(i));
  return *InheritedDescriptors::From({"1", std::to_string(fds.size()), names}, 1, kFirst);
}

Descriptor TcpListener(const std::string& host) {
  Descriptor listener(socket(AF_INET, SOCK_STREAM, 0));
  const SocketAddress address = *SocketAddress::FromIp(host, 0);
  EXPECT_EQ(bind(listener.get(), address.data(), address.size()), 0);
  EXPECT_EQ(listen(listener.get(), 5), 0);
  return listener;
}

TEST_F(ListeningSocketTest, InheritedSocketsAreTakenByNameAndMadeNonBlocking) {
  const Descriptor a = TcpListener("127.0.0.1");
  const Descriptor b = TcpListener("127.0.0.1");
  auto inherited = Inherit({a.get(), b.get()}, "control:control");
  auto sockets = Open("fd:control", inherited.get());
  ASSERT_THAT(sockets, IsOk());
  ASSERT_THAT(*sockets, SizeIs(2));
  EXPECT_EQ((*sockets)[0].ToString(), SocketAddress::OfLocal(a.get()).ToString());
  EXPECT_TRUE(fcntl((*sockets)[0].fd(), F_GETFL) & O_NONBLOCK);
}

TEST_F(ListeningSocketTest, AnInheritedSocketBeyondLoopbackIsRefusedToo) {
  const Descriptor wide = TcpListener("0.0.0.0");
  auto inherited = Inherit({wide.get()}, "control");
  EXPECT_THAT(Open("fd:control", inherited.get()),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("beyond loopback")));
}

TEST_F(ListeningSocketTest, AnUnknownInheritedNameIsAnError) {
  EXPECT_THAT(Open("fd:control"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("fd:control")));
}

TEST_F(ListeningSocketTest, TwoThatStartAtOnceDoNotTakeEachOthersFile) {
  // why: both could find the same stale file; the directory's lock lets one look at a time
  const std::string path = directory_.path("b.sock");
  const Descriptor lock(open(directory_.path("").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(flock(lock.get(), LOCK_EX), 0);
  absl::StatusOr<std::vector<ListeningSocket>> sockets = absl::UnknownError("not yet");
  std::atomic<bool> started = false;
  std::thread other([&] {
    started = true;
    sockets = Open("unix:" + path);
  });
  while (!started) std::this_thread::yield();
  EXPECT_FALSE(Exists(path));
  ASSERT_EQ(flock(lock.get(), LOCK_UN), 0);
  other.join();
  EXPECT_THAT(sockets, IsOk());
}

}  // namespace
}  // namespace sockbroker::server
