// start_server: what is bound, with which options, and what becomes of accepted connections.
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/open_connection.h"
#include "streams/server.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/manual_clock.h"
#include "streams/testing/socket_pair.h"
#include "streams/wait_queue.h"
#include "tests/streams/fake_resolver.h"
#include "tests/streams/sockets.h"

namespace {
// What accept4() fails with in this process; 0: the kernel's own answer.
std::atomic<int> accept_errno = 0;
}  // namespace

// The kernel can be made to have no descriptor for this process alone (NoDescriptorsLeft), but not
// to have none, or no memory, for anybody; so the C library's function is replaced.
extern "C" int accept4(int fd, sockaddr* address, socklen_t* size, int flags) {
  if (accept_errno != 0) {
    errno = accept_errno;
    return -1;
  }
  return static_cast<int>(syscall(SYS_accept4, fd, address, size, flags));
}

namespace sockbroker::streams {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

Task<void> Echo(StreamReader reader, StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(65536);
    if (!data.ok() || data->empty()) break;
    if (!writer.Write(*std::move(data)).ok() || !(co_await writer.Drain()).ok()) break;
  }
  writer.Close();
}

// Whether a server answers there.
Task<bool> Echoes(SocketAddress address) {
  absl::StatusOr<Connection> connection = co_await OpenConnection(address.host(), address.port());
  if (!connection.ok()) co_return false;
  connection->writer.Write("hello").IgnoreError();
  connection->writer.WriteEof().IgnoreError();
  absl::StatusOr<absl::Cord> answer = co_await connection->reader.ReadAll();
  co_return answer.ok() && *answer == "hello";
}

std::vector<std::string> Hosts(const Server& server) {
  std::vector<std::string> hosts;
  for (const SocketAddress& address : server.sockets()) hosts.push_back(address.host());
  return hosts;
}

std::vector<Descriptor> One(Descriptor socket) {
  std::vector<Descriptor> sockets;
  sockets.push_back(std::move(socket));
  return sockets;
}

// --- what is bound

// Rows: 80
CO_TEST_REAL(StartServerTest, TheServerListensWhenTheCallReturns) {
  absl::StatusOr<Server> server = co_await StartServer(Echo, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  EXPECT_TRUE(server->is_serving());
  EXPECT_EQ(TryConnect(server->sockets()[0]), 0);
  EXPECT_TRUE(co_await Echoes(server->sockets()[0]));
}

// Rows: 57
CO_TEST_REAL(StartServerTest, NoAdoptedSocketAtAllIsRefused) {
  EXPECT_THAT(
      co_await StartServer(Echo, std::vector<Descriptor>()),
      StatusIs(absl::StatusCode::kInvalidArgument, "Neither host/port nor sock were specified"));
}

// Rows: 57
CO_TEST_REAL(StartServerTest, AnAdoptedSocketMustBeAStreamSocket) {
  Descriptor datagram(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_THAT(co_await StartServer(Echo, One(std::move(datagram))),
              StatusIs(absl::StatusCode::kInvalidArgument, "A Stream Socket was expected"));
}

// Rows: 58, 59
CO_TEST_REAL(StartServerTest, AnEmptyHostBindsEveryInterfaceWithOneSocketPerFamily) {
  if (!HasIpv6()) CO_SKIP() << "no IPv6 on this machine";
  absl::StatusOr<Server> server = co_await StartServer(Echo, "", 0);
  CO_ASSERT_OK(server);
  EXPECT_THAT(Hosts(*server), UnorderedElementsAre("0.0.0.0", "::"));
  for (const SocketAddress& address : server->sockets()) {
    const char* loopback = address.family() == AF_INET ? "127.0.0.1" : "::1";
    EXPECT_TRUE(co_await Echoes(*SocketAddress::FromIp(loopback, address.port()))) << loopback;
  }
}

// Rows: 58, 63
CO_TEST_REAL(StartServerTest, AnEmptyListOfHostsIsTheSameAsAnEmptyHost) {
  absl::StatusOr<Server> server = co_await StartServer(Echo, std::vector<std::string>(), 0);
  CO_ASSERT_OK(server);
  EXPECT_THAT(Hosts(*server), UnorderedElementsAre("0.0.0.0", "::"));
}

// Rows: 59
CO_TEST_REAL(StartServerTest, TheIpv6WildcardAloneTakesNoIpv4) {
  if (!HasIpv6()) CO_SKIP() << "no IPv6 on this machine";
  absl::StatusOr<Server> server = co_await StartServer(Echo, "::", 0);
  CO_ASSERT_OK(server);
  const uint16_t port = server->sockets()[0].port();
  EXPECT_EQ(TryConnect(*SocketAddress::FromIp("::1", port)), 0);
  EXPECT_EQ(TryConnect(*SocketAddress::FromIp("127.0.0.1", port)), ECONNREFUSED);
}

// Rows: 60
CO_TEST_REAL(StartServerTest, Port0GivesEachSocketAPortOfItsOwn) {
  if (!HasIpv6()) CO_SKIP() << "no IPv6 on this machine";
  bool differed = false;
  for (int i = 0; i < 5; ++i) {
    absl::StatusOr<Server> server = co_await StartServer(
        Echo, std::vector<std::string>{"127.0.0.1", "127.0.0.2", "::1"}, Port(0));
    CO_ASSERT_OK(server);
    CO_ASSERT_EQ(server->sockets().size(), 3u);
    for (const SocketAddress& address : server->sockets()) {
      EXPECT_NE(address.port(), 0);
      EXPECT_TRUE(co_await Echoes(address));
      differed |= address.port() != server->sockets()[0].port();
    }
  }
  EXPECT_TRUE(differed);
}

// Rows: 61
CO_TEST_REAL(StartServerTest, HostsAreResolvedSideBySideAndWhatResolvesTwiceIsBoundOnce) {
  FakeResolver* resolver = UseFakeResolver();
  const SocketAddress one = *SocketAddress::FromIp("127.0.0.1", 0);
  const SocketAddress two = *SocketAddress::FromIp("127.0.0.2", 0);
  resolver->hosts["a.test"] = {one};
  resolver->hosts["b.test"] = {two, one};
  resolver->hosts["c.test"] = {one};
  absl::StatusOr<Server> server =
      co_await StartServer(Echo, std::vector<std::string>{"a.test", "b.test", "c.test"}, Port(0));
  CO_ASSERT_OK(server);
  EXPECT_EQ(resolver->most_at_once, 3);
  EXPECT_THAT(Hosts(*server), UnorderedElementsAre("127.0.0.1", "127.0.0.2"));
}

CO_TEST_REAL(StartServerTest, AHostThatCannotBeResolvedFailsTheWholeCall) {
  FakeResolver* resolver = UseFakeResolver();
  resolver->hosts["a.test"] = {*SocketAddress::FromIp("127.0.0.1", 0)};
  const std::size_t descriptors = OpenDescriptors();
  absl::StatusOr<Server> server =
      co_await StartServer(Echo, std::vector<std::string>{"a.test", "nobody.test"}, Port(0));
  EXPECT_THAT(server, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(OpenDescriptors(), descriptors);
}

// Rows: 64
CO_TEST_REAL(StartServerTest, AFailedBindNamesTheAddressAndClosesWhatWasBoundBeforeIt) {
  const Descriptor busy = ListeningSocket("127.0.0.1");
  const SocketAddress taken = SocketAddress::OfLocal(busy.get());
  const std::size_t descriptors = OpenDescriptors();
  absl::StatusOr<Server> server = co_await StartServer(
      Echo, std::vector<std::string>{"127.0.0.2", "127.0.0.1"}, Port(taken.port()));
  EXPECT_THAT(server, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr(absl::StrCat("bind on address ", taken.ToString()))));
  EXPECT_THAT(server, HasErrno(EADDRINUSE));
  EXPECT_EQ(OpenDescriptors(), descriptors);
  EXPECT_THAT(co_await StartServer(Echo, "127.0.0.2", taken.port()), IsOk());
}

// An address of the documentation's range (RFC 5737), which no interface of a test machine has.
constexpr char kNobodysHost[] = "198.51.100.7";

// Rows: 65
CO_TEST_REAL(StartServerTest, AnAddressThatThisMachineDoesNotHaveIsSkipped) {
  absl::StatusOr<Server> server =
      co_await StartServer(Echo, std::vector<std::string>{kNobodysHost, "127.0.0.1"}, Port(0));
  CO_ASSERT_OK(server);
  EXPECT_THAT(Hosts(*server), ElementsAre("127.0.0.1"));
}

// Rows: 65
CO_TEST_REAL(StartServerTest, WhenNoAddressIsLeftTheErrorListsAll) {
  absl::StatusOr<Server> server =
      co_await StartServer(Echo, std::vector<std::string>{kNobodysHost, "198.51.100.8"}, Port(0));
  EXPECT_THAT(server, AllOf(StatusIs(absl::StatusCode::kUnavailable), HasErrno(0)));
  const std::vector<AttemptFailure> attempts = GetAttempts(server.status());
  CO_ASSERT_EQ(attempts.size(), 2u);
  EXPECT_EQ(attempts[0].address.host(), kNobodysHost);
  EXPECT_EQ(attempts[1].address.host(), "198.51.100.8");
  EXPECT_EQ(attempts[1].os_errno, EADDRNOTAVAIL);
}

// An address of a family that the kernel has no sockets for.
SocketAddress UnsupportedAddress() {
  sockaddr_storage storage{};
  storage.ss_family = AF_UNSPEC + 12;  // AF_DECnet, removed from Linux
  return SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&storage), sizeof(sockaddr_in));
}

// Rows: 66
CO_TEST_REAL(StartServerTest, AnAddressOfAFamilyThatTheMachineLacksIsSkipped) {
  FakeResolver* resolver = UseFakeResolver();
  resolver->hosts["a.test"] = {UnsupportedAddress(), *SocketAddress::FromIp("127.0.0.1", 0)};
  absl::StatusOr<Server> server = co_await StartServer(Echo, "a.test", 0);
  CO_ASSERT_OK(server);
  EXPECT_THAT(Hosts(*server), ElementsAre("127.0.0.1"));
  resolver->hosts["b.test"] = {UnsupportedAddress()};
  EXPECT_THAT(co_await StartServer(Echo, "b.test", 0),
              StatusIs(absl::StatusCode::kUnavailable, "could not bind on any address"));
}

// Lets the process have no further descriptor while it lives. What runs meanwhile must have run
// before, and assertions wait: UBSan opens a pipe to look at an object whose type it has not seen.
class NoDescriptorsLeft {
 public:
  NoDescriptorsLeft() {
    getrlimit(RLIMIT_NOFILE, &before_);
    rlimit none = before_;
    const Descriptor next(dup(STDERR_FILENO));
    none.rlim_cur = static_cast<rlim_t>(next.get());
    setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoDescriptorsLeft() { setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptorsLeft(const NoDescriptorsLeft&) = delete;
  NoDescriptorsLeft& operator=(const NoDescriptorsLeft&) = delete;

 private:
  rlimit before_{};
};

// Rows: 66
CO_TEST_REAL(StartServerTest, WantOfDescriptorsIsNotMistakenForAFamilyThatTheMachineLacks) {
  absl::StatusOr<Server> server = co_await StartServer(Echo, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  // The way of a start that fails, seen once with descriptors to spare.
  absl::StatusOr<Server> refused =
      co_await StartServer(Echo, "127.0.0.1", int{server->sockets()[0].port()});
  EXPECT_THAT(refused, HasErrno(EADDRINUSE));
  {
    const NoDescriptorsLeft exhausted;
    refused = co_await StartServer(Echo, "127.0.0.1", 0);
  }
  EXPECT_THAT(refused, HasErrno(EMFILE));
}

// Rows: 67
CO_TEST_REAL(StartServerTest, TheFamilyRestrictsWhatIsBound) {
  StartServerOptions v6_only;
  v6_only.family = AF_INET6;
  absl::StatusOr<Server> server = co_await StartServer(Echo, "", 0, v6_only);
  CO_ASSERT_OK(server);
  EXPECT_THAT(Hosts(*server), ElementsAre("::"));
  EXPECT_THAT(co_await StartServer(Echo, "127.0.0.1", 0, v6_only),
              StatusIs(absl::StatusCode::kNotFound));
}

// Rows: 67
CO_TEST_REAL(StartServerTest, WithoutThePassiveFlagNoHostMeansLoopback) {
  if (!HasIpv6()) CO_SKIP() << "no IPv6 on this machine";
  StartServerOptions options;
  options.flags = 0;
  absl::StatusOr<Server> server = co_await StartServer(Echo, "", 0, options);
  CO_ASSERT_OK(server);
  EXPECT_THAT(Hosts(*server), UnorderedElementsAre("127.0.0.1", "::1"));
}

// Leaves a closed connection of the server's in TIME_WAIT, and gives the server's address.
Task<SocketAddress> AddressInTimeWait() {
  StartServerOptions options;
  options.accept = AcceptMode::kOnDemand;
  absl::StatusOr<Server> server = co_await StartServer(nullptr, "127.0.0.1", 0, options);
  const SocketAddress address = server->sockets()[0];
  const Descriptor client = ConnectNow(address);
  absl::StatusOr<Connection> accepted = co_await server->Accept();
  // Whoever closes first has the TIME_WAIT.
  accepted->writer.Close();
  EXPECT_THAT(co_await accepted->writer.WaitClosed(), IsOk());
  co_await Until([&] { return ReceiveNow(client.get(), 1) == ""; });
  co_return address;
}

// Rows: 68
CO_TEST_REAL(StartServerTest, ThePortOfAServerThatHasJustEndedCanBeBoundAgain) {
  const SocketAddress address = co_await AddressInTimeWait();
  StartServerOptions options;
  options.reuse_address = false;
  EXPECT_THAT(co_await StartServer(Echo, address.host(), address.port(), options),
              HasErrno(EADDRINUSE));
  EXPECT_THAT(co_await StartServer(Echo, address.host(), address.port()), IsOk());
}

// Rows: 69
CO_TEST_REAL(StartServerTest, TwoServersShareAPortOnlyWhenBothAskForIt) {
  StartServerOptions shared;
  shared.reuse_port = true;
  absl::StatusOr<Server> first = co_await StartServer(Echo, "127.0.0.1", 0, shared);
  CO_ASSERT_OK(first);
  const uint16_t port = first->sockets()[0].port();
  EXPECT_THAT(co_await StartServer(Echo, "127.0.0.1", port), HasErrno(EADDRINUSE));
  EXPECT_THAT(co_await StartServer(Echo, "127.0.0.1", port, shared), IsOk());
  absl::StatusOr<Server> alone = co_await StartServer(Echo, "127.0.0.1", 0);
  CO_ASSERT_OK(alone);
  EXPECT_THAT(co_await StartServer(Echo, "127.0.0.1", alone->sockets()[0].port(), shared),
              HasErrno(EADDRINUSE));
}

StartServerOptions OnDemand() {
  StartServerOptions options;
  options.accept = AcceptMode::kOnDemand;
  return options;
}

// Connects to a server that accepts on demand, and gives its end.
Task<absl::StatusOr<Connection>> AcceptOne(Server server, Descriptor* client) {
  *client = ConnectNow(server.sockets()[0]);
  co_return co_await server.Accept();
}

// Rows: 71
CO_TEST_REAL(StartServerTest, KeepAliveIsInheritedByAcceptedConnections) {
  for (const bool keep_alive : {false, true}) {
    StartServerOptions options = OnDemand();
    options.keep_alive = keep_alive;
    absl::StatusOr<Server> server = co_await StartServer(nullptr, "127.0.0.1", 0, options);
    CO_ASSERT_OK(server);
    Descriptor client;
    absl::StatusOr<Connection> accepted = co_await AcceptOne(*server, &client);
    CO_ASSERT_OK(accepted);
    EXPECT_THAT(accepted->writer.socket().getsockopt(SOL_SOCKET, SO_KEEPALIVE),
                IsOkAndHolds(keep_alive ? 1 : 0));
    EXPECT_EQ(GetOption(client.get(), SOL_SOCKET, SO_KEEPALIVE), 0);
  }
}

// Rows: 33, 73
CO_TEST_REAL(StartServerTest, AcceptedTcpConnectionsGetNodelayUnlessToldOtherwise) {
  absl::StatusOr<Server> server = co_await StartServer(nullptr, "127.0.0.1", 0, OnDemand());
  CO_ASSERT_OK(server);
  Descriptor client;
  absl::StatusOr<Connection> accepted = co_await AcceptOne(*server, &client);
  CO_ASSERT_OK(accepted);
  EXPECT_THAT(accepted->writer.socket().getsockopt(IPPROTO_TCP, TCP_NODELAY), IsOkAndHolds(1));

  StartServerOptions options = OnDemand();
  options.socket.nodelay = false;
  absl::StatusOr<Server> lazy = co_await StartServer(nullptr, "127.0.0.1", 0, options);
  CO_ASSERT_OK(lazy);
  accepted = co_await AcceptOne(*lazy, &client);
  CO_ASSERT_OK(accepted);
  EXPECT_THAT(accepted->writer.socket().getsockopt(IPPROTO_TCP, TCP_NODELAY), IsOkAndHolds(0));
}

// Rows: 72
CO_TEST_REAL(StartServerTest, AnAdoptedSocketIsMadeNonBlockingServedAndClosedWithTheServer) {
  Descriptor listener = ListeningSocket("127.0.0.1");
  const int fd = listener.get();
  const SocketAddress address = SocketAddress::OfLocal(fd);
  StartServerOptions ignored;
  ignored.reuse_address = true;
  ignored.reuse_port = true;
  ignored.keep_alive = true;
  absl::StatusOr<Server> server = co_await StartServer(Echo, One(std::move(listener)), ignored);
  CO_ASSERT_OK(server);
  EXPECT_TRUE(IsNonBlocking(fd));
  EXPECT_EQ(GetOption(fd, SOL_SOCKET, SO_REUSEADDR), 0);
  EXPECT_EQ(GetOption(fd, SOL_SOCKET, SO_REUSEPORT), 0);
  EXPECT_EQ(GetOption(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
  EXPECT_THAT(server->sockets(), ElementsAre(address));
  EXPECT_TRUE(co_await Echoes(address));
  server->Close();
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

// Rows: 72
CO_TEST_REAL(StartServerTest, AnAdoptedSocketThatIsOnlyBoundIsListenedOn) {
  absl::StatusOr<Server> server = co_await StartServer(Echo, One(BoundSocket("127.0.0.1")));
  CO_ASSERT_OK(server);
  EXPECT_TRUE(co_await Echoes(server->sockets()[0]));
}

// Rows: 72
CO_TEST_REAL(StartServerTest, AnAdoptedSocketThatIsNotEvenBoundGetsAnAddressThatTheServerTells) {
  absl::StatusOr<Server> server =
      co_await StartServer(Echo, One(Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))));
  CO_ASSERT_OK(server);
  EXPECT_NE(server->sockets()[0].port(), 0);
}

CO_TEST_REAL(StartServerTest, SeveralAdoptedSocketsAreServedTogether) {
  if (!HasIpv6()) CO_SKIP() << "no IPv6 on this machine";
  std::vector<Descriptor> sockets;
  sockets.push_back(ListeningSocket("127.0.0.1"));
  sockets.push_back(ListeningSocket("::1"));
  absl::StatusOr<Server> server = co_await StartServer(Echo, std::move(sockets));
  CO_ASSERT_OK(server);
  CO_ASSERT_EQ(server->sockets().size(), 2u);
  for (const SocketAddress& address : server->sockets()) EXPECT_TRUE(co_await Echoes(address));
}

// Rows: 99
CO_TEST_REAL(StartServerTest, AnAdoptedUnixSocketIsServedButItsFileIsNeverRemoved) {
  const TempDir directory;
  const SocketAddress address = *SocketAddress::FromUnixPath(directory.File("s"));
  Descriptor listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CO_ASSERT_EQ(bind(listener.get(), address.data(), address.size()), 0);
  absl::StatusOr<Server> server = co_await StartServer(Echo, One(std::move(listener)));
  CO_ASSERT_OK(server);
  EXPECT_THAT(co_await OpenUnixConnection(directory.File("s")), IsOk());
  server->Close();
  EXPECT_TRUE(Exists(directory.File("s")));
}

// Rows: 77, 79
CO_TEST_REAL(StartServerTest, ABacklogOrLimitWithWhichNothingCouldBeServedIsRefused) {
  for (const int backlog : {0, -1}) {
    StartServerOptions options;
    options.backlog = backlog;
    EXPECT_THAT(co_await StartServer(Echo, "127.0.0.1", 0, options),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("backlog")));
  }
  StartServerOptions options;
  options.stream.limit = 0;
  EXPECT_THAT(co_await StartServer(Echo, "127.0.0.1", 0, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("Limit")));
}

// Rows: 1
CO_TEST_REAL(StartServerTest, TheLimitIsThatOfEachAcceptedReader) {
  StartServerOptions options = OnDemand();
  absl::StatusOr<Server> usual = co_await StartServer(nullptr, "127.0.0.1", 0, options);
  options.stream.limit = 1000;
  absl::StatusOr<Server> small = co_await StartServer(nullptr, "127.0.0.1", 0, options);
  CO_ASSERT_OK(usual);
  CO_ASSERT_OK(small);
  Descriptor a;
  Descriptor b;
  EXPECT_EQ((co_await AcceptOne(*usual, &a))->reader.limit(), 65536u);
  EXPECT_EQ((co_await AcceptOne(*small, &b))->reader.limit(), 1000u);
}

// --- when it serves

// Rows: 76, 103
CO_TEST_REAL(StartServerTest, AServerNotToldToServeIsBoundButRefusesUntilItIs) {
  StartServerOptions options;
  options.start_serving = false;
  absl::StatusOr<Server> server = co_await StartServer(Echo, "127.0.0.1", 0, options);
  CO_ASSERT_OK(server);
  const SocketAddress address = server->sockets()[0];
  EXPECT_NE(address.port(), 0);
  EXPECT_FALSE(server->is_serving());
  EXPECT_EQ(TryConnect(address), ECONNREFUSED);
  EXPECT_THAT(co_await server->StartServing(), IsOk());
  EXPECT_TRUE(server->is_serving());
  EXPECT_TRUE(co_await Echoes(address));
}

// Rows: 78
CO_TEST_REAL(StartServerTest, AtMostOneMoreThanTheBacklogIsAcceptedInOneTurn) {
  Descriptor listener = ListeningSocket("127.0.0.1");
  const SocketAddress address = SocketAddress::OfLocal(listener.get());
  std::vector<Descriptor> clients;
  clients.reserve(8);
  for (int i = 0; i < 8; ++i) clients.push_back(ConnectNow(address));
  StartServerOptions options;
  options.backlog = 2;  // of what the kernel holds already, nothing is lost
  absl::StatusOr<Server> server = co_await StartServer(Echo, One(std::move(listener)), options);
  CO_ASSERT_OK(server);
  uint64_t before = 0;
  uint64_t most = 0;
  while (server->accepted_total() < 8) {
    most = std::max(most, server->accepted_total() - before);
    before = server->accepted_total();
    co_await Yield();
  }
  EXPECT_EQ(most, 3u);
}

// Rows: 78
CO_TEST_REAL(StartServerTest, AConnectionThatWasResetInTheBacklogKeepsNobodyBehindItWaiting) {
  Descriptor listener = ListeningSocket("127.0.0.1");
  const SocketAddress address = SocketAddress::OfLocal(listener.get());
  std::vector<Descriptor> clients;
  clients.reserve(8);
  for (int i = 0; i < 3; ++i) clients.push_back(ConnectNow(address));
  ResetNow(&clients[0]);
  absl::StatusOr<Server> server = co_await StartServer(Echo, One(std::move(listener)));
  CO_ASSERT_OK(server);
  for (int i : {1, 2}) {
    EXPECT_TRUE(SendNow(clients[i].get(), "x"));
    co_await Until([&] { return ReceiveNow(clients[i].get(), 1) == "x"; });
  }
}

// --- the callback

// Rows: 84
CO_TEST_REAL(StartServerTest, AnExceptionOfTheCallbackIsReportedAndTheConnectionClosed) {
  std::vector<std::string> reported;
  GetRunningLoop()->SetExceptionHandler([&](const EventLoop::ExceptionContext& context) {
    EXPECT_NE(context.exception, nullptr);
    reported.push_back(context.message);
  });
  auto throws = [](StreamReader reader, StreamWriter) -> Task<void> {
    (void)co_await reader.Read(1);
    throw std::runtime_error("a bug");
  };
  absl::StatusOr<Server> server = co_await StartServer(throws, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  absl::StatusOr<Connection> client =
      co_await OpenConnection("127.0.0.1", server->sockets()[0].port());
  CO_ASSERT_OK(client);
  EXPECT_THAT(client->writer.Write("x"), IsOk());
  EXPECT_THAT(co_await client->reader.ReadAll(), IsOkAndHolds(""));
  EXPECT_THAT(reported, ElementsAre("Unhandled exception in client_connected_cb"));
  EXPECT_TRUE(server->is_serving());
}

// Rows: 85
CO_TEST_REAL(StartServerTest, AnExceptionBeforeTheCallbacksFirstSuspensionIsTheSame) {
  int reported = 0;
  GetRunningLoop()->SetExceptionHandler([&](const EventLoop::ExceptionContext&) { reported++; });
  const ClientConnected throws = [](StreamReader, StreamWriter) -> Task<void> {
    throw std::runtime_error("not even a coroutine");
  };
  absl::StatusOr<Server> server = co_await StartServer(throws, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  absl::StatusOr<Connection> client =
      co_await OpenConnection("127.0.0.1", server->sockets()[0].port());
  CO_ASSERT_OK(client);
  EXPECT_THAT(co_await client->reader.ReadAll(), IsOkAndHolds(""));
  EXPECT_EQ(reported, 1);
}

// Rows: 87
CO_TEST_REAL(StartServerTest, AConnectionWhoseWriterTheCallbackDropsIsClosed) {
  auto drops = [](StreamReader, StreamWriter writer) -> Task<void> {
    writer.Write("bye").IgnoreError();
    co_return;
  };
  absl::StatusOr<Server> server = co_await StartServer(drops, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  absl::StatusOr<Connection> client =
      co_await OpenConnection("127.0.0.1", server->sockets()[0].port());
  CO_ASSERT_OK(client);
  EXPECT_THAT(co_await client->reader.ReadAll(), IsOkAndHolds("bye"));
  co_await Until([&] { return server->active_connections() == 0; });
}

Task<void> Keep(std::vector<Connection>* kept, StreamReader reader, StreamWriter writer) {
  kept->push_back({std::move(reader), std::move(writer)});
  co_return;
}

// Rows: 87
CO_TEST_REAL(StartServerTest, AConnectionWhoseWriterTheCallbackKeepsStaysOpenAfterItReturns) {
  std::vector<Connection> kept;
  auto keep = [&kept](StreamReader r, StreamWriter w) {
    return Keep(&kept, std::move(r), std::move(w));
  };
  absl::StatusOr<Server> server = co_await StartServer(keep, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  absl::StatusOr<Connection> client =
      co_await OpenConnection("127.0.0.1", server->sockets()[0].port());
  CO_ASSERT_OK(client);
  co_await Until([&] { return kept.size() == 1; });
  co_await Turns();
  EXPECT_FALSE(client->reader.AtEof());
  EXPECT_THAT(kept[0].writer.Write("still here"), IsOk());
  EXPECT_THAT(co_await client->reader.ReadExactly(10), IsOkAndHolds("still here"));
}

Task<void> Wait(WaitQueue* queue, int* begun, StreamReader, StreamWriter) {
  ++*begun;
  (void)co_await queue->Wait();
}

// Rows: 86
TEST(StartServerShutdownTest, ACallbackThatIsCancelledWithItsLoopClosesTheConnectionUnreported) {
  WaitQueue never;
  int begun = 0;
  int reported = 0;
  Descriptor client;
  {
    EventLoop loop;
    loop.SetExceptionHandler([&](const EventLoop::ExceptionContext&) { reported++; });
    auto wait = [&](StreamReader r, StreamWriter w) {
      return Wait(&never, &begun, std::move(r), std::move(w));
    };
    absl::StatusOr<Server> server =
        loop.RunUntilComplete(StartServer(wait, std::string("127.0.0.1"), 0));
    ASSERT_THAT(server, IsOk());
    client = ConnectNow(server->sockets()[0]);
    loop.RunUntilComplete(Until([&] { return begun == 1; }));
  }
  EXPECT_EQ(reported, 0);
  EXPECT_EQ(ReceiveNow(client.get(), 1), "");
}

// Rows: 9
CO_TEST_REAL(StartServerTest, AHundredClientsMayWaitInTheBacklogUnlessToldOtherwise) {
  int most;  // whatever anybody asks for
  std::ifstream("/proc/sys/net/core/somaxconn") >> most;
  const auto backlog = [](const Descriptor& listening) {
    tcp_info info = {};
    socklen_t size = sizeof(info);
    EXPECT_EQ(getsockopt(listening.get(), IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    return static_cast<int>(info.tcpi_sacked);  // of a listening socket: its backlog
  };
  for (const auto& [options, expected] :
       {std::pair{StartServerOptions{}, 100}, std::pair{StartServerOptions{{.backlog = 7}}, 7}}) {
    Descriptor socket = BoundSocket("127.0.0.1");
    const Descriptor same(dup(socket.get()));
    absl::StatusOr<Server> server = co_await StartServer(Echo, One(std::move(socket)), options);
    CO_ASSERT_OK(server);
    EXPECT_EQ(backlog(same), std::min(expected, most));
  }
}

// Rows: 89
CO_TEST_REAL(StartServerTest, HandlersOfAllConnectionsRunSideBySide) {
  constexpr int kClients = 200;
  WaitQueue all_here;
  int begun = 0;
  auto wait = [&](StreamReader r, StreamWriter w) {
    return Wait(&all_here, &begun, std::move(r), std::move(w));
  };
  absl::StatusOr<Server> server = co_await StartServer(wait, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  std::vector<Connection> clients;
  for (int i = 0; i < kClients; ++i) {
    absl::StatusOr<Connection> client =
        co_await OpenConnection("127.0.0.1", server->sockets()[0].port());
    CO_ASSERT_OK(client);
    clients.push_back(*std::move(client));
  }
  co_await Until([&] { return begun == kClients; });
  all_here.WakeAll();
  for (Connection& client : clients) {
    EXPECT_THAT(co_await client.reader.ReadAll(), IsOkAndHolds(""));
  }
}

// Rows: 88
CO_TEST_REAL(StartServerTest, WithoutACallbackConnectionsAreHeldUntilTheyAreClosed) {
  absl::StatusOr<Server> server = co_await StartServer(nullptr, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  absl::StatusOr<Connection> client =
      co_await OpenConnection("127.0.0.1", server->sockets()[0].port());
  CO_ASSERT_OK(client);
  co_await Until([&] { return server->active_connections() == 1; });
  co_await Turns();
  EXPECT_FALSE(client->reader.AtEof());
  EXPECT_EQ(server->CloseClients(), 1u);
  EXPECT_THAT(co_await client->reader.ReadAll(), IsOkAndHolds(""));
  co_await Until([&] { return server->active_connections() == 0; });
}

// --- out of descriptors

// Runs the loop, without letting its time pass, until `condition` is true.
void RunUntil(EventLoop* loop, absl::AnyInvocable<bool()> condition) {
  const absl::Time deadline = MonotonicClock()->Now() + kRealTimeLimit;
  while (!condition() && MonotonicClock()->Now() < deadline) loop->RunUntilIdle();
}

// A server in virtual time, after it has served one client and another server has closed.
class StartServerExhaustionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_.SetExceptionHandler([this](const EventLoop::ExceptionContext& context) {
      reported_.push_back(GetErrno(context.status));
      if (on_exception_) on_exception_();
    });
    Serve();
    server_.Close();
    Serve();
    loop_.CallLater(absl::Seconds(1), [] {});
    clock_.Advance(absl::Seconds(1));
    loop_.RunUntilIdle();
  }

  ManualClock clock_;
  EventLoop loop_{&clock_};
  Server server_;
  std::vector<int> reported_;
  std::function<void()> on_exception_;

 private:
  void Serve() {
    server_ = *loop_.RunUntilComplete(StartServer(Echo, std::string("127.0.0.1"), 0));
    const Descriptor client = ConnectNow(server_.sockets()[0]);
    RunUntil(&loop_, [this] { return server_.accepted_total() == 1; });
  }
};

// Rows: 10
TEST_F(StartServerExhaustionTest, TheListenerRestsForASecondAndThenGoesOnWhereItWas) {
  const Descriptor first = ConnectNow(server_.sockets()[0]);
  const Descriptor second = ConnectNow(server_.sockets()[0]);
  std::vector<int> after_999_ms;
  std::vector<int> after_1_s;
  {
    const NoDescriptorsLeft exhausted;
    RunUntil(&loop_, [this] { return !reported_.empty(); });
    loop_.RunUntilIdle();
    clock_.Advance(absl::Milliseconds(999));
    loop_.RunUntilIdle();
    after_999_ms = reported_;
    clock_.Advance(absl::Milliseconds(1));
    loop_.RunUntilIdle();
    after_1_s = reported_;
  }
  // It doesn't spin: nothing is tried, and nothing reported, before its time.
  EXPECT_THAT(after_999_ms, ElementsAre(EMFILE));
  // There was still nothing to be had: it rests for another second.
  EXPECT_THAT(after_1_s, ElementsAre(EMFILE, EMFILE));
  loop_.RunUntilIdle();
  EXPECT_EQ(server_.accepted_total(), 1u);
  clock_.Advance(absl::Seconds(1));
  RunUntil(&loop_, [this] { return server_.accepted_total() == 3; });
  EXPECT_EQ(server_.accepted_total(), 3u);
  EXPECT_THAT(reported_, SizeIs(2));
  EXPECT_TRUE(server_.is_serving());
}

// Rows: 10
TEST_F(StartServerExhaustionTest, NoMemoryAndAFullTableOfFilesAreSuchARestToo) {
  for (const int error : {ENFILE, ENOBUFS, ENOMEM}) {
    SCOPED_TRACE(error);
    const uint64_t accepted = server_.accepted_total();
    reported_.clear();
    accept_errno = error;
    const Descriptor client = ConnectNow(server_.sockets()[0]);
    RunUntil(&loop_, [this] { return !reported_.empty(); });
    accept_errno = 0;
    clock_.Advance(absl::Milliseconds(999));
    loop_.RunUntilIdle();
    EXPECT_EQ(server_.accepted_total(), accepted);
    clock_.Advance(absl::Milliseconds(1));
    RunUntil(&loop_, [&] { return server_.accepted_total() == accepted + 1; });
    EXPECT_EQ(server_.accepted_total(), accepted + 1);
    EXPECT_THAT(reported_, ElementsAre(error));
  }
  EXPECT_TRUE(server_.is_serving());
}

// Rows: 10
TEST_F(StartServerExhaustionTest, AnExceptionHandlerMayCloseTheServer) {
  on_exception_ = [this] { server_.Close(); };
  const Descriptor client = ConnectNow(server_.sockets()[0]);
  {
    const NoDescriptorsLeft exhausted;
    RunUntil(&loop_, [this] { return server_.is_closed(); });
    clock_.Advance(absl::Seconds(2));
    loop_.RunUntilIdle();
  }
  EXPECT_THAT(reported_, ElementsAre(EMFILE));
  EXPECT_TRUE(server_.is_closed());
}

}  // namespace
}  // namespace sockbroker::streams
