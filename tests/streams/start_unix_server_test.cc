// start_unix_server: whose file is at the path, before and after.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/open_connection.h"
#include "streams/server.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/socket_pair.h"
#include "tests/streams/sockets.h"

namespace sockbroker::streams {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class StartUnixServerTest : public ::testing::Test {
 protected:
  const std::string& path() const { return path_; }
  const TempDir& directory() const { return directory_; }

 private:
  const TempDir directory_;
  const std::string path_ = directory_.File("socket");
};

Task<void> Greet(StreamReader, StreamWriter writer) {
  writer.Write("hello").IgnoreError();
  writer.Close();
  co_return;
}

Task<absl::StatusOr<absl::Cord>> GreetingAt(std::string path) {
  absl::StatusOr<Connection> connection = co_await OpenUnixConnection(std::move(path));
  if (!connection.ok()) co_return connection.status();
  co_return co_await connection->reader.ReadAll();
}

Descriptor BoundUnixSocket(const std::string& path) {
  Descriptor bound(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const SocketAddress address = *SocketAddress::FromUnixPath(path);
  EXPECT_EQ(bind(bound.get(), address.data(), address.size()), 0);
  return bound;
}

mode_t PermissionsOf(const std::string& path) {
  struct stat file{};
  EXPECT_EQ(lstat(path.c_str(), &file), 0);
  return file.st_mode & 07777;
}

// --- arguments

CO_TEST_REAL_F(StartUnixServerTest, ServesAtItsPath) {
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, path());
  CO_ASSERT_OK(server);
  CO_ASSERT_EQ(server->sockets().size(), 1u);
  EXPECT_EQ(server->sockets()[0].unix_path(), path());
  EXPECT_THAT(co_await GreetingAt(path()), IsOkAndHolds("hello"));
}

// Rows: 90
CO_TEST_REAL_F(StartUnixServerTest, AnAdoptedSocketMustBeAUnixStreamSocket) {
  EXPECT_THAT(
      co_await StartUnixServer(Greet, ListeningSocket("127.0.0.1")),
      StatusIs(absl::StatusCode::kInvalidArgument, "A UNIX Domain Stream Socket was expected"));
  EXPECT_THAT(
      co_await StartUnixServer(Greet, Descriptor(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))),
      StatusIs(absl::StatusCode::kInvalidArgument, "A UNIX Domain Stream Socket was expected"));
}

// Rows: 95
CO_TEST_REAL_F(StartUnixServerTest, APathThatIsEmptyTooLongOrInNoDirectoryIsRefused) {
  EXPECT_THAT(co_await StartUnixServer(Greet, std::string()), HasErrno(EINVAL));
  EXPECT_THAT(co_await StartUnixServer(Greet, std::string(sizeof(sockaddr_un::sun_path), 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("too long")));
  EXPECT_THAT(co_await StartUnixServer(Greet, directory().File("nowhere/socket")),
              HasErrno(ENOENT));
}

// Rows: 77, 79
CO_TEST_REAL_F(StartUnixServerTest, ABacklogOrLimitWithWhichNothingCouldBeServedIsRefused) {
  StartUnixServerOptions options;
  options.backlog = 0;
  EXPECT_THAT(co_await StartUnixServer(Greet, path(), options),
              StatusIs(absl::StatusCode::kInvalidArgument));
  options.backlog = 1;
  options.stream.limit = 0;
  EXPECT_THAT(co_await StartUnixServer(Greet, path(), options),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_FALSE(Exists(path()));
}

// --- what is at the path already

// Rows: 91
CO_TEST_REAL_F(StartUnixServerTest, AStaleSocketFileIsReplaced) {
  BoundUnixSocket(path()).Reset();
  CO_ASSERT_TRUE(Exists(path()));
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, path());
  CO_ASSERT_OK(server);
  EXPECT_THAT(co_await GreetingAt(path()), IsOkAndHolds("hello"));
}

// Rows: 91
CO_TEST_REAL_F(StartUnixServerTest, ThePathOfALiveServerIsNotTakenOver) {
  absl::StatusOr<Server> live = co_await StartUnixServer(Greet, path());
  CO_ASSERT_OK(live);
  absl::StatusOr<Server> second = co_await StartUnixServer(Greet, path());
  EXPECT_THAT(second, HasErrno(EADDRINUSE));
  EXPECT_THAT(second.status().message(), HasSubstr(path()));
  EXPECT_THAT(co_await GreetingAt(path()), IsOkAndHolds("hello"));
}

// Rows: 91
CO_TEST_REAL_F(StartUnixServerTest, ALiveServerWithAFullBacklogIsNotTakenForStale) {
  const Descriptor live = BoundUnixSocket(path());
  CO_ASSERT_EQ(listen(live.get(), 0), 0);
  const Descriptor filler = ConnectNow(SocketAddress::OfLocal(live.get()));
  EXPECT_THAT(co_await StartUnixServer(Greet, path()), HasErrno(EADDRINUSE));
  EXPECT_TRUE(Exists(path()));
}

// Rows: 91
CO_TEST_REAL_F(StartUnixServerTest, ADatagramSocketAtThePathIsNotTakenForStale) {
  Descriptor live(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const SocketAddress address = *SocketAddress::FromUnixPath(path());
  CO_ASSERT_EQ(bind(live.get(), address.data(), address.size()), 0);
  EXPECT_THAT(co_await StartUnixServer(Greet, path()), HasErrno(EADDRINUSE));
}

// Rows: 92
CO_TEST_REAL_F(StartUnixServerTest, AFileADirectoryAndADanglingLinkAreLeftAloneAndInUse) {
  const std::string file = directory().File("file");
  std::ofstream(file) << "precious";
  const std::string folder = directory().File("folder");
  std::filesystem::create_directory(folder);
  const std::string link = directory().File("link");
  std::filesystem::create_symlink("nowhere", link);
  for (const std::string& taken : {file, folder, link}) {
    EXPECT_THAT(co_await StartUnixServer(Greet, taken),
                AllOf(StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("Address '" + taken + "' is already in use")),
                      HasErrno(EADDRINUSE)));
    EXPECT_TRUE(Exists(taken));
  }
  std::string content;
  std::ifstream(file) >> content;
  EXPECT_EQ(content, "precious");
}

// Acts as somebody without the rights of root, if this is root.
class Unprivileged {
 public:
  Unprivileged() : before_(geteuid()) {
    if (before_ == 0) EXPECT_EQ(seteuid(65534), 0);
  }
  ~Unprivileged() {
    if (before_ == 0) EXPECT_EQ(seteuid(0), 0);
  }
  Unprivileged(const Unprivileged&) = delete;
  Unprivileged& operator=(const Unprivileged&) = delete;

 private:
  const uid_t before_;
};

// Rows: 93
CO_TEST_REAL_F(StartUnixServerTest, AStaleFileThatCannotBeRemovedIsLeftToBindToRefuse) {
  const std::string folder = directory().File("folder");
  std::filesystem::create_directory(folder);
  BoundUnixSocket(folder + "/socket").Reset();
  CO_ASSERT_EQ(chmod((folder + "/socket").c_str(), 0777), 0);
  CO_ASSERT_EQ(chmod(folder.c_str(), 0555), 0);
  CO_ASSERT_EQ(chmod(directory().path().c_str(), 0755), 0);
  {
    const Unprivileged somebody;
    EXPECT_THAT(co_await StartUnixServer(Greet, folder + "/socket"), HasErrno(EADDRINUSE));
  }
  EXPECT_TRUE(Exists(folder + "/socket"));
  chmod(folder.c_str(), 0755);
}

// Rows: 94
CO_TEST_REAL_F(StartUnixServerTest, AnAbstractNameInUseIsRefusedAndFreeAgainAfterClose) {
  const std::string name = AbstractName("serve");
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, name);
  CO_ASSERT_OK(server);
  EXPECT_THAT(co_await GreetingAt(name), IsOkAndHolds("hello"));
  EXPECT_THAT(co_await StartUnixServer(Greet, name), HasErrno(EADDRINUSE));
  server->Close();
  EXPECT_THAT(co_await StartUnixServer(Greet, name), IsOk());
}

// --- what is left at the path

// Rows: 96
CO_TEST_REAL_F(StartUnixServerTest, CloseRemovesTheFileAtOnce) {
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, path());
  CO_ASSERT_OK(server);
  server->Close();
  EXPECT_FALSE(Exists(path()));
}

// Rows: 96
CO_TEST_REAL_F(StartUnixServerTest, CloseRemovesTheFileOfAnAdoptedSocketToo) {
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, BoundUnixSocket(path()));
  CO_ASSERT_OK(server);
  EXPECT_THAT(co_await GreetingAt(path()), IsOkAndHolds("hello"));
  server->Close();
  EXPECT_FALSE(Exists(path()));
}

// Rows: 96
CO_TEST_REAL_F(StartUnixServerTest, WithoutCleanupTheFileStays) {
  StartUnixServerOptions options;
  options.cleanup_socket = false;
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, path(), options);
  CO_ASSERT_OK(server);
  server->Close();
  EXPECT_TRUE(Exists(path()));
}

// Rows: 96
CO_TEST_REAL_F(StartUnixServerTest, AServerThatNeverServedRemovesItsFileToo) {
  StartUnixServerOptions options;
  options.start_serving = false;
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, path(), options);
  CO_ASSERT_OK(server);
  EXPECT_EQ(TryConnect(server->sockets()[0]), ECONNREFUSED);
  server->Close();
  EXPECT_FALSE(Exists(path()));
}

// Rows: 97
CO_TEST_REAL_F(StartUnixServerTest, AnotherSocketAtThePathIsLeftAlone) {
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, path());
  CO_ASSERT_OK(server);
  CO_ASSERT_EQ(unlink(path().c_str()), 0);
  absl::StatusOr<Server> successor = co_await StartUnixServer(Greet, path());
  CO_ASSERT_OK(successor);
  server->Close();
  EXPECT_THAT(co_await GreetingAt(path()), IsOkAndHolds("hello"));
}

// Rows: 97
CO_TEST_REAL_F(StartUnixServerTest, AFileThatIsGoneAlreadyIsNoError) {
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, path());
  CO_ASSERT_OK(server);
  CO_ASSERT_EQ(unlink(path().c_str()), 0);
  server->Close();
  EXPECT_THAT(co_await server->WaitClosed(), IsOk());
}

// Rows: 98
CO_TEST_REAL_F(StartUnixServerTest, ARelativePathIsLookedForWhereTheProcessIsAtClose) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(directory().path());
  absl::StatusOr<Server> stays = co_await StartUnixServer(Greet, "a");
  absl::StatusOr<Server> goes = co_await StartUnixServer(Greet, "b");
  CO_ASSERT_OK(stays);
  CO_ASSERT_OK(goes);
  goes->Close();
  std::filesystem::current_path(before);
  stays->Close();
  EXPECT_TRUE(Exists(directory().File("a")));
  EXPECT_FALSE(Exists(directory().File("b")));
}

// Rows: 100
CO_TEST_REAL_F(StartUnixServerTest, AnAdoptedSocketThatIsNotBoundIsRefused) {
  EXPECT_THAT(
      co_await StartUnixServer(Greet, Descriptor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))),
      HasErrno(EINVAL));
}

// Rows: 101
CO_TEST_REAL_F(StartUnixServerTest, TheFilesPermissionsFollowTheUmask) {
  const mode_t before = umask(0027);
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, path());
  umask(before);
  CO_ASSERT_OK(server);
  EXPECT_EQ(PermissionsOf(path()), 0750u);
}

CO_TEST_REAL_F(StartUnixServerTest, AModeIsExactWhateverTheUmask) {
  StartUnixServerOptions options;
  options.mode = 0660;
  const mode_t before = umask(0077);
  absl::StatusOr<Server> server = co_await StartUnixServer(Greet, path(), options);
  umask(before);
  CO_ASSERT_OK(server);
  EXPECT_EQ(PermissionsOf(path()), 0660u);
}

}  // namespace
}  // namespace sockbroker::streams
