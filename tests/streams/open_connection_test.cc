#include "streams/open_connection.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/testing/socket_pair.h"
#include "tests/streams/fake_resolver.h"
#include "tests/streams/sockets.h"

namespace sockbroker::streams {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

SocketAddress LocalOf(const Descriptor& fd) { return SocketAddress::OfLocal(fd.get()); }
uint16_t PortOf(const Descriptor& fd) { return LocalOf(fd).port(); }

// An address of the documentation's range (RFC 5737), which no interface of a test machine has:
// binding to it fails, and nothing is sent.
SocketAddress NobodysAddress() { return *SocketAddress::FromIp("198.51.100.7", 0); }

// Accepts on a blocking listener whose client has connected already.
Descriptor AcceptNow(const Descriptor& listener) {
  return Descriptor(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
}

// --- hosts and ports

CO_TEST_REAL(OpenConnectionTest, BytesTravelBothWays) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  absl::StatusOr<Connection> connection = co_await OpenConnection("127.0.0.1", PortOf(listener));
  CO_ASSERT_OK(connection);
  const Descriptor peer = AcceptNow(listener);
  EXPECT_THAT(connection->writer.Write("ping"), IsOk());
  co_await Until([&] { return ReceiveNow(peer.get(), 100) == "ping"; });
  EXPECT_TRUE(SendNow(peer.get(), "pong"));
  EXPECT_THAT(co_await connection->reader.ReadExactly(4), IsOkAndHolds("pong"));
}

// Rows: 26
CO_TEST_REAL(OpenConnectionTest, ThePortMayBeANumberInText) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", absl::StrCat(PortOf(listener)));
  CO_ASSERT_OK(connection);
  EXPECT_EQ(connection->writer.peername(), LocalOf(listener));
}

// Rows: 26
CO_TEST_REAL(OpenConnectionTest, AnUnknownServiceNameCannotBeResolved) {
  absl::StatusOr<Connection> connection = co_await OpenConnection("127.0.0.1", "no-such-service");
  EXPECT_THAT(connection, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_TRUE(GetResolverError(connection.status()).has_value());
}

// Rows: 26
CO_TEST_REAL(OpenConnectionTest, APortOutside0To65535IsRefusedAndNeverTruncated) {
  for (const Port& port : {Port(-1), Port(65536), Port(65536 + 80), Port("65536"), Port("-1")}) {
    EXPECT_THAT(co_await OpenConnection("127.0.0.1", port),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0-65535")));
  }
}

// Rows: 27
CO_TEST_REAL(OpenConnectionTest, Port0IsAConnectError) {
  absl::StatusOr<Connection> connection = co_await OpenConnection("127.0.0.1", 0);
  EXPECT_THAT(connection, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_NE(GetErrno(connection.status()), 0);
}

// Rows: 28
CO_TEST_REAL(OpenConnectionTest, NoHostMeansLoopbackInBothFamilies) {
  if (!HasIpv6()) CO_SKIP() << "no IPv6 on this machine";
  const Descriptor v4 = ListeningSocket("127.0.0.1");
  absl::StatusOr<Connection> to_v4 = co_await OpenConnection(std::nullopt, PortOf(v4));
  CO_ASSERT_OK(to_v4);
  EXPECT_EQ(to_v4->writer.peername(), LocalOf(v4));
  const Descriptor v6 = ListeningSocket("::1");
  absl::StatusOr<Connection> to_v6 = co_await OpenConnection(std::nullopt, PortOf(v6));
  CO_ASSERT_OK(to_v6);
  EXPECT_EQ(to_v6->writer.peername(), LocalOf(v6));
}

// Rows: 28
CO_TEST_REAL(OpenConnectionTest, AnEmptyHostCannotBeResolved) {
  absl::StatusOr<Connection> connection = co_await OpenConnection("", 80);
  EXPECT_THAT(connection, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_TRUE(GetResolverError(connection.status()).has_value());
}

// Rows: 30
CO_TEST_REAL(OpenConnectionTest, ALiteralOfAnotherFamilyCannotBeResolved) {
  OpenConnectionOptions v6_only;
  v6_only.family = AF_INET6;
  absl::StatusOr<Connection> connection = co_await OpenConnection("127.0.0.1", 80, v6_only);
  EXPECT_THAT(connection, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_TRUE(GetResolverError(connection.status()).has_value());
}

// Rows: 31
CO_TEST_REAL(OpenConnectionTest, AnIpv6AddressMayNameItsZone) {
  if (!HasIpv6()) CO_SKIP() << "no IPv6 on this machine";
  const Descriptor listener = ListeningSocket("::1");
  absl::StatusOr<Connection> connection = co_await OpenConnection("::1%lo", PortOf(listener));
  CO_ASSERT_OK(connection);
  EXPECT_EQ(connection->writer.peername().port(), PortOf(listener));
}

// Rows: 32
CO_TEST_REAL(OpenConnectionTest, AResolversFailureIsGivenAsItIs) {
  UseFakeResolver();
  absl::StatusOr<Connection> connection = co_await OpenConnection("nobody.test", 80);
  EXPECT_EQ(connection.status(), ResolveError("nobody.test", "not in the table"));
  EXPECT_THAT(GetAttempts(connection.status()), IsEmpty());
}

// Rows: 32
CO_TEST_REAL(OpenConnectionTest, AnEmptyAnswerOfTheResolverIsAnErrorOfTheNetwork) {
  UseFakeResolver()->hosts["empty.test"] = {};
  EXPECT_THAT(co_await OpenConnection("empty.test", 80), StatusIs(absl::StatusCode::kUnavailable));
}

// Rows: 34
CO_TEST_REAL(OpenConnectionTest, FamilyAndFlagsReachTheResolverForTheTargetAndTheLocalAddress) {
  FakeResolver* resolver = UseFakeResolver();
  OpenConnectionOptions options;
  options.family = AF_INET;
  options.flags = AI_ADDRCONFIG;
  options.local_addr.emplace("here.test", 7);
  resolver->hosts["there.test"] = {NobodysAddress()};
  EXPECT_THAT(co_await OpenConnection("there.test", "http", options), Not(IsOk()));
  CO_ASSERT_EQ(resolver->requests.size(), 2u);
  EXPECT_EQ(resolver->requests[0].host, "there.test");
  EXPECT_EQ(resolver->requests[0].port.service(), "http");
  EXPECT_EQ(resolver->requests[1].host, "here.test");
  EXPECT_EQ(resolver->requests[1].port.number(), 7);
  for (const AddrInfoRequest& request : resolver->requests) {
    EXPECT_EQ(request.family, AF_INET);
    EXPECT_EQ(request.flags, AI_ADDRCONFIG);
  }
}

// Rows: 24
CO_TEST_REAL(OpenConnectionTest, ALimitOf0IsRefusedBeforeAnythingIsAsked) {
  FakeResolver* resolver = UseFakeResolver();
  OpenConnectionOptions options;
  options.stream.limit = 0;
  EXPECT_THAT(co_await OpenConnection("a.test", 80, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("Limit cannot be <= 0")));
  EXPECT_THAT(resolver->requests, IsEmpty());
}

// Rows: 1
CO_TEST_REAL(OpenConnectionTest, TheReadersLimitIsWhatTheCallerAskedForOr65536) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  OpenConnectionOptions options;
  absl::StatusOr<Connection> usual = co_await OpenConnection("127.0.0.1", PortOf(listener));
  options.stream.limit = 1000;
  absl::StatusOr<Connection> small =
      co_await OpenConnection("127.0.0.1", PortOf(listener), options);
  CO_ASSERT_OK(usual);
  CO_ASSERT_OK(small);
  EXPECT_EQ(usual->reader.limit(), 65536u);
  EXPECT_EQ(small->reader.limit(), 1000u);
}

// --- what is set on the socket

// Rows: 33
CO_TEST_REAL(OpenConnectionTest, EveryTcpSocketGetsNodelay) {
  if (!HasIpv6()) CO_SKIP() << "no IPv6 on this machine";
  const Descriptor v4 = ListeningSocket("127.0.0.1");
  const Descriptor v6 = ListeningSocket("::1");
  for (const Descriptor* listener : {&v4, &v6}) {
    absl::StatusOr<Connection> connection =
        co_await OpenConnection(LocalOf(*listener).host(), PortOf(*listener));
    CO_ASSERT_OK(connection);
    EXPECT_THAT(connection->writer.socket().getsockopt(IPPROTO_TCP, TCP_NODELAY), IsOkAndHolds(1));
  }
}

CO_TEST_REAL(OpenConnectionTest, TheCallersNodelayGoesBeforeTheDefault) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  OpenConnectionOptions options;
  options.socket.nodelay = false;
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", PortOf(listener), options);
  CO_ASSERT_OK(connection);
  EXPECT_THAT(connection->writer.socket().getsockopt(IPPROTO_TCP, TCP_NODELAY), IsOkAndHolds(0));
}

// Rows: 71
CO_TEST_REAL(OpenConnectionTest, KeepaliveIsOffUnlessAskedFor) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  absl::StatusOr<Connection> connection = co_await OpenConnection("127.0.0.1", PortOf(listener));
  CO_ASSERT_OK(connection);
  EXPECT_THAT(connection->writer.socket().getsockopt(SOL_SOCKET, SO_KEEPALIVE), IsOkAndHolds(0));
}

// --- local_addr

// Rows: 34
CO_TEST_REAL(OpenConnectionTest, TheConnectionComesFromTheLocalAddress) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  OpenConnectionOptions options;
  options.local_addr.emplace("127.0.0.2", 0);
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", PortOf(listener), options);
  CO_ASSERT_OK(connection);
  EXPECT_EQ(connection->writer.sockname().host(), "127.0.0.2");
  EXPECT_EQ(SocketAddress::OfPeer(AcceptNow(listener).get()), connection->writer.sockname());
}

// Rows: 34
CO_TEST_REAL(OpenConnectionTest, LocalCandidatesOfAnotherFamilyThanTheTargetAreSkipped) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  FakeResolver* resolver = UseFakeResolver();
  resolver->hosts["there.test"] = {LocalOf(listener)};
  resolver->hosts["here.test"] = {*SocketAddress::FromIp("::1", 0),
                                  *SocketAddress::FromIp("127.0.0.3", 0)};
  OpenConnectionOptions options;
  options.local_addr.emplace("here.test", 0);
  absl::StatusOr<Connection> connection = co_await OpenConnection("there.test", 1, options);
  CO_ASSERT_OK(connection);
  EXPECT_EQ(connection->writer.sockname().host(), "127.0.0.3");
}

CO_TEST_REAL(OpenConnectionTest, ALocalPortAloneIsBoundInTheFamilyThatIsDialled) {
  for (const char* loopback : {"127.0.0.1", "::1"}) {
    const Descriptor listener = ListeningSocket(loopback);
    Descriptor reserved = ListeningSocket(loopback);
    const uint16_t port = PortOf(reserved);
    reserved.Reset();
    OpenConnectionOptions options;
    options.local_addr.emplace("", port);
    absl::StatusOr<Connection> connection =
        co_await OpenConnection(loopback, PortOf(listener), options);
    CO_ASSERT_OK(connection);
    EXPECT_EQ(connection->writer.sockname().host(), loopback);
    EXPECT_EQ(connection->writer.sockname().port(), port);
  }
}

// Rows: 34, 36
CO_TEST_REAL(OpenConnectionTest, TheNextLocalCandidateIsTriedWhenOneCannotBeBound) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  FakeResolver* resolver = UseFakeResolver();
  resolver->hosts["there.test"] = {LocalOf(listener)};
  resolver->hosts["here.test"] = {NobodysAddress(), *SocketAddress::FromIp("127.0.0.3", 0)};
  OpenConnectionOptions options;
  options.local_addr.emplace("here.test", 0);
  absl::StatusOr<Connection> connection = co_await OpenConnection("there.test", 1, options);
  CO_ASSERT_OK(connection);
  EXPECT_EQ(connection->writer.sockname().host(), "127.0.0.3");
}

// Rows: 35, 39
CO_TEST_REAL(OpenConnectionTest, WithoutALocalCandidateOfTheFamilyTheAttemptFailsAndSaysSo) {
  const Descriptor a = ListeningSocket("127.0.0.1");
  const Descriptor b = ListeningSocket("127.0.0.1");
  FakeResolver* resolver = UseFakeResolver();
  resolver->hosts["there.test"] = {LocalOf(a), LocalOf(b)};
  resolver->hosts["here.test"] = {*SocketAddress::FromIp("::1", 0)};
  OpenConnectionOptions options;
  options.local_addr.emplace("here.test", 0);
  absl::StatusOr<Connection> connection = co_await OpenConnection("there.test", 1, options);
  // Two errors with the same words are said once.
  EXPECT_THAT(connection,
              StatusIs(absl::StatusCode::kUnavailable, StartsWith("no matching local address")));
  EXPECT_THAT(GetAttempts(connection.status()), SizeIs(2));
}

// Rows: 36, 38
CO_TEST_REAL(OpenConnectionTest, AFailedBindKeepsItsErrnoAndNamesTheLocalAddress) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  OpenConnectionOptions options;
  options.local_addr.emplace(NobodysAddress().host(), 0);
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", PortOf(listener), options);
  EXPECT_THAT(connection, HasErrno(EADDRNOTAVAIL));
  EXPECT_THAT(connection.status().message(),
              AllOf(HasSubstr("error while attempting to bind on address 198.51.100.7"),
                    HasSubstr("[errno 99]")));
}

// --- several addresses

// Three addresses where nobody listens.
class RefusingAddresses : public ::testing::Test {
 protected:
  std::vector<SocketAddress> All() const { return {LocalOf(a_), LocalOf(b_), LocalOf(c_)}; }

 private:
  const Descriptor a_ = BoundSocket("127.0.0.1");
  const Descriptor b_ = BoundSocket("127.0.0.1");
  // Of another family, where there is one.
  const Descriptor c_ = BoundSocket(HasIpv6() ? "::1" : "127.0.0.1");
};

// Rows: 37
CO_TEST_REAL_F(RefusingAddresses,
               OpenConnectionTriesEachAddressInTheResolversOrderUntilOneConnects) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  const Descriptor never = ListeningSocket("127.0.0.1");
  std::vector<SocketAddress> addresses = All();
  addresses.push_back(LocalOf(listener));
  addresses.push_back(LocalOf(never));
  UseFakeResolver()->hosts["five.test"] = addresses;
  std::vector<SocketAddress> tried;
  OpenConnectionOptions options;
  options.check_address = [&](const SocketAddress& address) {
    tried.push_back(address);
    return absl::OkStatus();
  };
  absl::StatusOr<Connection> connection = co_await OpenConnection("five.test", 1, options);
  CO_ASSERT_OK(connection);
  EXPECT_EQ(connection->writer.peername(), LocalOf(listener));
  addresses.pop_back();
  EXPECT_EQ(tried, addresses);
}

// Rows: 38, 43
CO_TEST_REAL_F(RefusingAddresses, ASingleErrorIsThatVeryErrorAndNamesTheAddress) {
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", All().front().port());
  EXPECT_THAT(connection, HasErrno(ECONNREFUSED));
  EXPECT_THAT(connection.status().message(),
              HasSubstr(absl::StrCat("Connect call failed ", All().front().ToString())));
}

// Rows: 40, 41, 49
CO_TEST_REAL_F(RefusingAddresses, SeveralErrorsAreJoinedAndEachIsListedWithItsAddressAndErrno) {
  UseFakeResolver()->hosts["three.test"] = All();
  for (const std::optional<absl::Duration> delay :
       {std::optional<absl::Duration>(), std::optional(absl::ZeroDuration())}) {
    OpenConnectionOptions options;
    options.happy_eyeballs_delay = delay;
    options.interleave = 0;
    absl::StatusOr<Connection> connection = co_await OpenConnection("three.test", 1, options);
    EXPECT_THAT(connection, StatusIs(absl::StatusCode::kUnavailable,
                                     StartsWith("Multiple exceptions: Connect call failed ")));
    EXPECT_THAT(connection, HasErrno(0));
    const std::vector<AttemptFailure> attempts = GetAttempts(connection.status());
    CO_ASSERT_EQ(attempts.size(), 3u);
    std::vector<std::string> messages;
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(attempts[i].address, All()[i]);
      EXPECT_EQ(attempts[i].os_errno, ECONNREFUSED);
      messages.push_back(attempts[i].message);
    }
    EXPECT_EQ(connection.status().message(), absl::StrCat("Multiple exceptions: ", messages[0],
                                                          ", ", messages[1], ", ", messages[2]));
  }
}

// Rows: 41
CO_TEST_REAL_F(RefusingAddresses, TheAttemptIsListedAlsoWhenThereWasJustOne) {
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", All().front().port());
  const std::vector<AttemptFailure> attempts = GetAttempts(connection.status());
  CO_ASSERT_EQ(attempts.size(), 1u);
  EXPECT_EQ(attempts[0].address, All().front());
  EXPECT_EQ(attempts[0].os_errno, ECONNREFUSED);
}

// Dials nothing: notes in which order the addresses would be.
Task<std::vector<std::string>> DialOrder(std::vector<std::string> hosts,
                                         std::optional<absl::Duration> delay,
                                         std::optional<int> interleave) {
  std::vector<SocketAddress>& addresses = UseFakeResolver()->hosts["many.test"];
  for (const std::string& host : hosts) addresses.push_back(*SocketAddress::FromIp(host, 1));
  std::vector<std::string> order;
  OpenConnectionOptions options;
  options.happy_eyeballs_delay = delay;
  options.interleave = interleave;
  options.check_address = [&](const SocketAddress& address) {
    order.push_back(address.host());
    return absl::UnavailableError("not dialled");
  };
  EXPECT_THAT(co_await OpenConnection("many.test", 1, std::move(options)), Not(IsOk()));
  co_return order;
}

const std::vector<std::string>& MixedHosts() {
  static const auto* const hosts =
      new std::vector<std::string>{"::1", "::2", "::3", "127.0.0.1", "127.0.0.2"};
  return *hosts;
}

// Rows: 11, 48
CO_TEST_REAL(OpenConnectionTest, WithoutADelayTheResolversOrderIsKept) {
  EXPECT_EQ(co_await DialOrder(MixedHosts(), std::nullopt, std::nullopt), MixedHosts());
  EXPECT_EQ(co_await DialOrder(MixedHosts(), std::nullopt, 0), MixedHosts());
}

// Rows: 48
CO_TEST_REAL(OpenConnectionTest, ADelayWithInterleave0RacesInTheResolversOrder) {
  EXPECT_EQ(co_await DialOrder(MixedHosts(), absl::ZeroDuration(), 0), MixedHosts());
}

// Rows: 11, 47
CO_TEST_REAL(OpenConnectionTest, ADelayAlternatesFamiliesUnlessToldOtherwise) {
  EXPECT_THAT(co_await DialOrder(MixedHosts(), absl::ZeroDuration(), std::nullopt),
              ElementsAre("::1", "127.0.0.1", "::2", "127.0.0.2", "::3"));
}

// Rows: 47
CO_TEST_REAL(OpenConnectionTest, InterleaveWorksWithoutADelayToo) {
  EXPECT_THAT(co_await DialOrder(MixedHosts(), std::nullopt, 2),
              ElementsAre("::1", "::2", "127.0.0.1", "::3", "127.0.0.2"));
}

CO_TEST_REAL(OpenConnectionTest, ACheckThatForbidsAnAddressKeepsItFromBeingDialled) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  OpenConnectionOptions options;
  options.check_address = [](const SocketAddress&) {
    return absl::PermissionDeniedError("not there");
  };
  EXPECT_THAT(co_await OpenConnection("127.0.0.1", PortOf(listener), options),
              StatusIs(absl::StatusCode::kPermissionDenied, "not there"));
  pollfd waiting{listener.get(), POLLIN, 0};
  EXPECT_EQ(poll(&waiting, 1, 0), 0);
}

CO_TEST_REAL(OpenConnectionTest, ASocketIsNeverConnectedToItself) {
  // Dialling a free port of this machine from that very port would be answered by itself.
  uint16_t port = 0;
  {
    const Descriptor free = BoundSocket("127.0.0.1");
    port = PortOf(free);
  }
  OpenConnectionOptions options;
  options.local_addr.emplace("127.0.0.1", port);
  EXPECT_THAT(co_await OpenConnection("127.0.0.1", port, options), HasErrno(ECONNREFUSED));
}

// --- sock=

// Rows: 14
CO_TEST_REAL(OpenConnectionTest, AnAdoptedSocketMustBeAStreamSocket) {
  Descriptor datagram(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_THAT(co_await OpenConnection(std::move(datagram)),
              StatusIs(absl::StatusCode::kInvalidArgument, "A Stream Socket was expected"));
}

CO_TEST_REAL(OpenConnectionTest, AnAdoptedDescriptorMustBeASocket) {
  EXPECT_THAT(co_await OpenConnection(Descriptor(dup(STDIN_FILENO))), HasErrno(ENOTSOCK));
  EXPECT_THAT(co_await OpenConnection(Descriptor()), HasErrno(EBADF));
}

// Rows: 14
CO_TEST_REAL(OpenConnectionTest, AnAdoptedUnixStreamSocketIsAccepted) {
  auto [ours, theirs] = UnixSocketPair();
  absl::StatusOr<Connection> connection = co_await OpenConnection(std::move(ours));
  CO_ASSERT_OK(connection);
  EXPECT_TRUE(SendNow(theirs.get(), "hello"));
  EXPECT_THAT(co_await connection->reader.ReadExactly(5), IsOkAndHolds("hello"));
}

// Rows: 15
CO_TEST_REAL(OpenConnectionTest, AnAdoptedSocketIsMadeNonBlockingAndClosedWithTheConnection) {
  auto [ours, theirs] = TcpSocketPair();
  const int fd = ours.get();
  EXPECT_FALSE(IsNonBlocking(fd));
  absl::StatusOr<Connection> connection = co_await OpenConnection(std::move(ours));
  CO_ASSERT_OK(connection);
  EXPECT_TRUE(IsNonBlocking(fd));
  connection->writer.Close();
  EXPECT_THAT(co_await connection->writer.WaitClosed(), IsOk());
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
  EXPECT_EQ(ReceiveNow(theirs.get(), 1), "");
}

// Rows: 16
CO_TEST_REAL(OpenConnectionTest, AnAdoptedSocketThatIsNotConnectedFailsAtItsFirstRead) {
  Descriptor unconnected(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  absl::StatusOr<Connection> connection = co_await OpenConnection(std::move(unconnected));
  CO_ASSERT_OK(connection);
  EXPECT_FALSE(connection->writer.GetExtraInfo("peername").has_value());
  EXPECT_THAT(co_await connection->reader.Read(1), HasErrno(ENOTCONN));
  EXPECT_THAT(co_await connection->writer.WaitClosed(), HasErrno(ENOTCONN));
}

// Rows: 17
CO_TEST_REAL(OpenConnectionTest, LocalAddrIsIgnoredForAnAdoptedSocket) {
  auto [ours, theirs] = TcpSocketPair();
  OpenConnectionOptions options;
  options.local_addr.emplace("no such host", 1);
  EXPECT_THAT(co_await OpenConnection(std::move(ours), options), IsOk());
}

// Rows: 24
CO_TEST_REAL(OpenConnectionTest, ALimitOf0IsRefusedForAnAdoptedSocketToo) {
  auto [ours, theirs] = TcpSocketPair();
  OpenConnectionOptions options;
  options.stream.limit = 0;
  EXPECT_THAT(co_await OpenConnection(std::move(ours), options),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// --- get_extra_info

// Rows: 203
CO_TEST_REAL(OpenConnectionTest, ExtraInfoNamesBothEndsAndGivesTheSocket) {
  const Descriptor listener = ListeningSocket("127.0.0.1");
  absl::StatusOr<Connection> connection = co_await OpenConnection("127.0.0.1", PortOf(listener));
  CO_ASSERT_OK(connection);
  const Descriptor peer = AcceptNow(listener);
  const StreamWriter& writer = connection->writer;
  EXPECT_EQ(std::any_cast<SocketAddress>(writer.GetExtraInfo("peername")), LocalOf(listener));
  EXPECT_EQ(std::any_cast<SocketAddress>(writer.GetExtraInfo("sockname")),
            SocketAddress::OfPeer(peer.get()));
  const auto socket = std::any_cast<TransportSocket>(writer.GetExtraInfo("socket"));
  EXPECT_EQ(socket.getpeername(), writer.peername());
  EXPECT_EQ(socket.getsockname(), writer.sockname());
  EXPECT_GE(socket.fileno(), 0);
  EXPECT_THAT(socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1), IsOk());
  EXPECT_THAT(socket.getsockopt(SOL_SOCKET, SO_KEEPALIVE), IsOkAndHolds(1));
  EXPECT_THAT(socket.shutdown(SHUT_WR), IsOk());
  co_await Until([&] { return ReceiveNow(peer.get(), 1) == ""; });
}

// Rows: 205, 206
CO_TEST_REAL(OpenConnectionTest, ExtraInfoHasNoValueForAnUnknownNameAndForTlsNamesOnAPlainStream) {
  auto [ours, theirs] = TcpSocketPair();
  const Connection connection = ConnectionOver(std::move(ours));
  for (const char* name :
       {"", "nonsense", "sslcontext", "ssl_object", "peercert", "cipher", "compression"}) {
    EXPECT_FALSE(connection.writer.GetExtraInfo(name).has_value()) << name;
  }
  co_return;
}

// Rows: 208
CO_TEST_REAL(OpenConnectionTest, AfterTheEndBothNamesStayAndTheSocketsNumberIsMinus1) {
  auto [ours, theirs] = TcpSocketPair();
  const SocketAddress sockname = LocalOf(ours);
  Connection connection = ConnectionOver(std::move(ours));
  const TransportSocket early = connection.writer.socket();
  connection.writer.Close();
  EXPECT_THAT(co_await connection.writer.WaitClosed(), IsOk());
  EXPECT_EQ(std::any_cast<SocketAddress>(connection.writer.GetExtraInfo("sockname")), sockname);
  EXPECT_EQ(std::any_cast<SocketAddress>(connection.writer.GetExtraInfo("peername")),
            LocalOf(theirs));
  EXPECT_EQ(std::any_cast<TransportSocket>(connection.writer.GetExtraInfo("socket")).fileno(), -1);
  EXPECT_EQ(early.fileno(), -1);
  EXPECT_THAT(early.getsockopt(SOL_SOCKET, SO_KEEPALIVE), HasErrno(EBADF));
}

}  // namespace
}  // namespace sockbroker::streams
