#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
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
using ::testing::Optional;

Task<void> Echo(StreamReader reader, StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(65536);
    if (!data.ok() || data->empty()) break;
    if (!writer.Write(*std::move(data)).ok() || !(co_await writer.Drain()).ok()) break;
  }
  writer.Close();
}

Task<void> ExpectEcho(Connection connection) {
  EXPECT_THAT(connection.writer.Write("hello"), IsOk());
  EXPECT_THAT(connection.writer.WriteEof(), IsOk());
  EXPECT_THAT(co_await connection.reader.ReadAll(), IsOkAndHolds("hello"));
}

// Rows: 51
CO_TEST_REAL(OpenUnixConnectionTest, APathConnectsToTheServerThere) {
  const TempDir directory;
  absl::StatusOr<Server> server = co_await StartUnixServer(Echo, directory.File("s"));
  CO_ASSERT_OK(server);
  absl::StatusOr<Connection> connection = co_await OpenUnixConnection(directory.File("s"));
  CO_ASSERT_OK(connection);
  co_await ExpectEcho(*std::move(connection));
}

// Rows: 51, 56
CO_TEST_REAL(OpenUnixConnectionTest, ALeadingNulMeansTheAbstractNamespace) {
  const std::string name = AbstractName("open");
  absl::StatusOr<Server> server = co_await StartUnixServer(Echo, name);
  CO_ASSERT_OK(server);
  absl::StatusOr<Connection> connection = co_await OpenUnixConnection(name);
  CO_ASSERT_OK(connection);
  EXPECT_EQ(connection->writer.peername().unix_path(), name);
  co_await ExpectEcho(*std::move(connection));
}

// Rows: 51
CO_TEST_REAL(OpenUnixConnectionTest, AnyByteMayBePartOfAPath) {
  const TempDir directory;
  const std::string path = directory.File("sp ace\n\xff\x01");
  absl::StatusOr<Server> server = co_await StartUnixServer(Echo, path);
  CO_ASSERT_OK(server);
  EXPECT_EQ(server->sockets()[0].unix_path(), path);
  absl::StatusOr<Connection> connection = co_await OpenUnixConnection(path);
  CO_ASSERT_OK(connection);
  co_await ExpectEcho(*std::move(connection));
}

// Rows: 52
CO_TEST_REAL(OpenUnixConnectionTest, AnEndOfASocketPairMayBeAdopted) {
  auto [ours, theirs] = UnixSocketPair();
  absl::StatusOr<Connection> connection = co_await OpenUnixConnection(std::move(ours));
  CO_ASSERT_OK(connection);
  EXPECT_TRUE(SendNow(theirs.get(), "hello"));
  EXPECT_THAT(co_await connection->reader.ReadExactly(5), IsOkAndHolds("hello"));
}

// Rows: 52
CO_TEST_REAL(OpenUnixConnectionTest, AnAdoptedSocketMustBeAUnixStreamSocket) {
  auto [tcp, tcp_peer] = TcpSocketPair();
  EXPECT_THAT(
      co_await OpenUnixConnection(std::move(tcp)),
      StatusIs(absl::StatusCode::kInvalidArgument, "A UNIX Domain Stream Socket was expected"));
  Descriptor datagram(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_THAT(
      co_await OpenUnixConnection(std::move(datagram)),
      StatusIs(absl::StatusCode::kInvalidArgument, "A UNIX Domain Stream Socket was expected"));
}

// Rows: 54
CO_TEST_REAL(OpenUnixConnectionTest, AMissingPathIsNoSuchFile) {
  const TempDir directory;
  absl::StatusOr<Connection> connection = co_await OpenUnixConnection(directory.File("s"));
  EXPECT_THAT(connection, HasErrno(ENOENT));
  EXPECT_THAT(connection.status().message(), HasSubstr(directory.File("s")));
}

// Rows: 43, 54
CO_TEST_REAL(OpenUnixConnectionTest, ASocketFileBehindWhichNobodyListensRefuses) {
  const TempDir directory;
  const SocketAddress address = *SocketAddress::FromUnixPath(directory.File("s"));
  Descriptor bound(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CO_ASSERT_EQ(bind(bound.get(), address.data(), address.size()), 0);
  absl::StatusOr<Connection> not_listening = co_await OpenUnixConnection(directory.File("s"));
  EXPECT_THAT(not_listening, HasErrno(ECONNREFUSED));
  EXPECT_THAT(not_listening.status().message(), HasSubstr("Connection refused"));
  bound.Reset();
  EXPECT_THAT(co_await OpenUnixConnection(directory.File("s")), HasErrno(ECONNREFUSED));
}

// Rows: 54
CO_TEST_REAL(OpenUnixConnectionTest, APathThatIsTooLongIsRefusedWithoutAnErrno) {
  const std::size_t room = sizeof(sockaddr_un::sun_path);
  absl::StatusOr<Connection> connection = co_await OpenUnixConnection(std::string(room, 'x'));
  EXPECT_THAT(connection, AllOf(StatusIs(absl::StatusCode::kInvalidArgument,
                                         HasSubstr("AF_UNIX path too long")),
                                HasErrno(0)));
  // One byte less fits: it merely isn't there.
  EXPECT_THAT(co_await OpenUnixConnection(std::string(room - 1, 'x')), HasErrno(ENOENT));
}

// Rows: 54
CO_TEST_REAL(OpenUnixConnectionTest, AnEmptyPathIsAnInvalidArgumentOfTheKernels) {
  EXPECT_THAT(co_await OpenUnixConnection(""), HasErrno(EINVAL));
}

CO_TEST_REAL(OpenUnixConnectionTest, APathWithANulInsideIsRefusedAndNotCutShort) {
  const TempDir directory;
  absl::StatusOr<Server> server = co_await StartUnixServer(Echo, directory.File("s"));
  CO_ASSERT_OK(server);
  EXPECT_THAT(co_await OpenUnixConnection(directory.File("s") + std::string("\0tail", 5)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// Rows: 56
CO_TEST_REAL(OpenUnixConnectionTest, TheClientHasNoNameAndItsPeersIsTheServersPath) {
  const TempDir directory;
  std::optional<Connection> accepted;
  StartUnixServerOptions options;
  options.accept = AcceptMode::kOnDemand;
  absl::StatusOr<Server> server = co_await StartUnixServer(nullptr, directory.File("s"), options);
  CO_ASSERT_OK(server);
  absl::StatusOr<Connection> client = co_await OpenUnixConnection(directory.File("s"));
  CO_ASSERT_OK(client);
  absl::StatusOr<Connection> served = co_await server->Accept();
  CO_ASSERT_OK(served);
  EXPECT_EQ(client->writer.peername().unix_path(), directory.File("s"));
  EXPECT_EQ(client->writer.sockname().unix_path(), "");
  EXPECT_EQ(served->writer.peername().unix_path(), "");
  EXPECT_EQ(served->writer.sockname().unix_path(), directory.File("s"));
  EXPECT_EQ(std::any_cast<SocketAddress>(served->writer.GetExtraInfo("peername")).family(),
            AF_UNIX);
}

// Rows: 24
CO_TEST_REAL(OpenUnixConnectionTest, ALimitOf0IsRefusedBeforeAnyConnectionAttempt) {
  OpenUnixConnectionOptions options;
  options.stream.limit = 0;
  EXPECT_THAT(co_await OpenUnixConnection("/nonexistent/socket", options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("Limit")));
}

// A Unix listener with no room left in its backlog.
class FullUnixListener {
 public:
  explicit FullUnixListener(const std::string& path)
      : listener_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const SocketAddress address = *SocketAddress::FromUnixPath(path);
    EXPECT_EQ(bind(listener_.get(), address.data(), address.size()), 0);
    EXPECT_EQ(listen(listener_.get(), 0), 0);
    filler_ = ConnectNow(address);
  }
  Descriptor AcceptNow() const {
    return Descriptor(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }

 private:
  const Descriptor listener_;
  Descriptor filler_;
};

CO_TEST_REAL(OpenUnixConnectionTest, AFullBacklogIsWaitedForAsWithTcp) {
  const TempDir directory;
  const FullUnixListener listener(directory.File("s"));
  TaskHandle<absl::StatusOr<Connection>> open = CreateTask(OpenUnixConnection(directory.File("s")));
  co_await Turns();
  EXPECT_FALSE(open.done());
  const Descriptor first = listener.AcceptNow();
  EXPECT_THAT(co_await open.Join(), IsOk());
}

CO_TEST_REAL(OpenUnixConnectionTest, WaitingForAFullBacklogCanBeCancelledAndTimesOut) {
  const TempDir directory;
  const FullUnixListener listener(directory.File("s"));
  const std::size_t descriptors = OpenDescriptors();
  TaskHandle<absl::StatusOr<Connection>> open = CreateTask(OpenUnixConnection(directory.File("s")));
  co_await Turns();
  open.Cancel();
  EXPECT_THAT(co_await open.Join(), StatusIs(absl::StatusCode::kCancelled));
  OpenUnixConnectionOptions options;
  options.connect_timeout = absl::Milliseconds(10);
  absl::StatusOr<Connection> late = co_await OpenUnixConnection(directory.File("s"), options);
  EXPECT_THAT(GetTimeoutPhase(late.status()), Optional(std::string("connect")));
  EXPECT_EQ(OpenDescriptors(), descriptors);
}

CO_TEST_REAL(OpenUnixConnectionTest, ACheckThatForbidsThePathKeepsItFromBeingDialled) {
  OpenUnixConnectionOptions options;
  options.check_address = [](const SocketAddress& address) {
    return absl::PermissionDeniedError(address.unix_path());
  };
  EXPECT_THAT(co_await OpenUnixConnection("/nonexistent/socket", options),
              StatusIs(absl::StatusCode::kPermissionDenied, "/nonexistent/socket"));
}

}  // namespace
}  // namespace sockbroker::streams
