// The loop's resolver, c-ares, against a DNS server of the test's own.
#include "streams/resolver.h"

#include <netdb.h>

#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/open_connection.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "streams/wait_for.h"
#include "tests/streams/dns_server.h"
#include "tests/streams/sockets.h"

namespace sockbroker::streams {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

Task<absl::StatusOr<std::vector<SocketAddress>>> Resolve(std::string host, Port port = 80,
                                                         int family = AF_UNSPEC, int flags = 0) {
  AddrInfoRequest request;
  request.host = std::move(host);
  request.port = std::move(port);
  request.family = family;
  request.flags = flags;
  return GetRunningLoop()->resolver().GetAddrInfo(std::move(request));
}

std::vector<std::string> Texts(const absl::StatusOr<std::vector<SocketAddress>>& addresses) {
  if (!addresses.ok()) return {addresses.status().ToString()};
  std::vector<std::string> texts;
  for (const SocketAddress& address : *addresses) texts.push_back(address.ToString());
  return texts;
}

// --- names

CO_TEST_REAL(ResolverTest, ANameGivesItsAddressesOfBothFamiliesWithThePort) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  dns.answers["two.test"] = {.v4 = {"127.0.0.1", "127.0.0.2"}, .v6 = {"::1"}};
  EXPECT_THAT(Texts(co_await Resolve("two.test", 8080)),
              UnorderedElementsAre("127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080"));
}

CO_TEST_REAL(ResolverTest, AFamilyIsTheOnlyOneAskedFor) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  dns.answers["two.test"] = {.v4 = {"127.0.0.1"}, .v6 = {"::1"}};
  EXPECT_THAT(Texts(co_await Resolve("two.test", 1, AF_INET)), ElementsAre("127.0.0.1:1"));
  EXPECT_THAT(dns.queries, ElementsAre(Pair("two.test", "A")));
  dns.queries.clear();
  EXPECT_THAT(Texts(co_await Resolve("two.test", 1, AF_INET6)), ElementsAre("[::1]:1"));
  EXPECT_THAT(dns.queries, ElementsAre(Pair("two.test", "AAAA")));
}

CO_TEST_REAL(ResolverTest, AnAddressThatIsAnsweredTwiceIsGivenOnce) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  dns.answers["twice.test"].v4 = {"127.0.0.1", "127.0.0.1"};
  EXPECT_THAT(co_await Resolve("twice.test"), IsOkAndHolds(SizeIs(1)));
}

CO_TEST_REAL(ResolverTest, LocalhostIsLoopbackAndNobodyIsAsked) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  EXPECT_THAT(Texts(co_await Resolve("localhost", 1, AF_INET)), ElementsAre("127.0.0.1:1"));
  EXPECT_THAT(dns.queries, IsEmpty());
}

// Rows: 32
CO_TEST_REAL(ResolverTest, ANameThatDoesNotExistIsNotKnown) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  const absl::Status status = (co_await Resolve("nobody.test")).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("nobody.test")));
  EXPECT_THAT(GetResolverError(status), Optional(std::string("Name or service not known")));
}

// Rows: 32
CO_TEST_REAL(ResolverTest, ANameWithoutAddressesSaysSo) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  dns.answers["empty.test"] = {};
  EXPECT_THAT(GetResolverError((co_await Resolve("empty.test")).status()),
              Optional(std::string("No address associated with hostname")));
}

// Rows: 32
CO_TEST_REAL(ResolverTest, AServerThatFailsIsATemporaryFailure) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  CaresOptions options;
  options.tries = 1;
  UseDns(dns, options);
  dns.answers["broken.test"].code = 2;
  EXPECT_THAT(GetResolverError((co_await Resolve("broken.test")).status()),
              Optional(std::string("Temporary failure in name resolution")));
}

// Rows: 32
CO_TEST_REAL(ResolverTest, AServerThatDoesNotAnswerIsATemporaryFailureWhenTheTriesAreOver) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  CaresOptions options;
  options.tries = 2;
  options.timeout = absl::Milliseconds(10);
  UseDns(dns, options);
  dns.answers["silent.test"].silent = true;
  EXPECT_THAT(GetResolverError((co_await Resolve("silent.test", 1, AF_INET)).status()),
              Optional(std::string("Temporary failure in name resolution")));
  EXPECT_THAT(dns.queries, SizeIs(2));
}

CO_TEST_REAL(ResolverTest, AnAnswerTooLongForUdpIsFetchedOverTcpAtOnce) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  CaresOptions options;
  // An answer that is not noticed when it comes would be found when a try times out.
  options.timeout = absl::Hours(1);
  UseDns(dns, options);
  std::vector<std::string> expected;
  for (int i = 1; i <= 60; ++i) {
    dns.answers["long.test"].v4.push_back(absl::StrCat("127.0.1.", i));
    expected.push_back(absl::StrCat("127.0.1.", i, ":80"));
  }
  dns.answers["long.test"].truncated = true;
  EXPECT_THAT(Texts(co_await Resolve("long.test", 80, AF_INET)),
              ::testing::UnorderedElementsAreArray(expected));
  EXPECT_EQ(dns.tcp_queries, 1);
}

CO_TEST_REAL(ResolverTest, ALookUpOverTcpGoesOnAfterTheServerHasClosedAnEarlierOne) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  dns.closes_tcp = true;
  CaresOptions options;
  options.timeout = absl::Hours(1);
  UseDns(dns, options);
  for (int i = 0; i < 5; ++i) {
    const std::string name = absl::StrCat("long", i, ".test");
    dns.answers[name] = {.v4 = {"127.0.0.9"}, .truncated = true};
    EXPECT_THAT(Texts(co_await Resolve(name, 1, AF_INET)), ElementsAre("127.0.0.9:1"));
  }
}

// --- literals

// Rows: 30
CO_TEST_REAL(ResolverTest, AnAddressIsItsOwnAnswerAndNobodyIsAsked) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  EXPECT_THAT(Texts(co_await Resolve("127.0.0.1")), ElementsAre("127.0.0.1:80"));
  EXPECT_THAT(Texts(co_await Resolve("::1", 80, AF_INET6, AI_NUMERICHOST)),
              ElementsAre("[::1]:80"));
  EXPECT_THAT(co_await Resolve("::1", 80, AF_INET), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(co_await Resolve("127.0.0.1", 80, AF_INET6), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(dns.queries, IsEmpty());
}

// getaddrinfo takes most of these for 127.0.0.1, another library for another address; a policy that
// was shown the text would be deceived.
CO_TEST_REAL(ResolverTest, OldSpellingsOfIpv4AddressesAreNotAddresses) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  for (const char* host : {"127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0", "0x7f000001",
                           "127.0.0.0x1", "127.0.0.1.", "1.2.3.4.5", "a.test.1"}) {
    EXPECT_THAT(co_await Resolve(host), StatusIs(absl::StatusCode::kNotFound)) << host;
  }
  EXPECT_THAT(dns.queries, IsEmpty());
  // A number elsewhere in a name is a name.
  dns.answers["10.0x1.test"].v4 = {"127.0.0.1"};
  EXPECT_THAT(co_await Resolve("10.0x1.test", 80, AF_INET), IsOk());
}

CO_TEST_REAL(ResolverTest, ANameIsNotLookedUpWhenOnlyAddressesAreAllowed) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  dns.answers["a.test"].v4 = {"127.0.0.1"};
  EXPECT_THAT(co_await Resolve("a.test", 80, AF_UNSPEC, AI_NUMERICHOST),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(dns.queries, IsEmpty());
}

// Rows: 31
CO_TEST_REAL(ResolverTest, AZoneIsAnInterfacesNameOrNumber) {
  EXPECT_THAT(Texts(co_await Resolve("fe80::1%lo")), ElementsAre("[fe80::1%lo]:80"));
  EXPECT_THAT(Texts(co_await Resolve("fe80::1%1")), ElementsAre("[fe80::1%lo]:80"));
}

CO_TEST_REAL(ResolverTest, AZoneThatNoInterfaceHasCannotBeResolved) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  EXPECT_THAT(co_await Resolve("fe80::1%nowhere"), StatusIs(absl::StatusCode::kNotFound));
}

CO_TEST_REAL(ResolverTest, ANulInAHostOrServiceIsRefusedAndNothingIsCutShort) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  EXPECT_THAT(co_await Resolve(std::string("127.0.0.1\0.evil.test", 20)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("null byte")));
  EXPECT_THAT(co_await Resolve(std::string("a\0b", 3)),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(co_await Resolve("127.0.0.1", Port(std::string("http\0x", 6))),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(dns.queries, IsEmpty());
}

CO_TEST_REAL(ResolverTest, NamesThatCannotBeInDnsAreNotKnown) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  for (const std::string& host : {std::string(), std::string("."), std::string("a..test"),
                                  std::string(300, 'x'), std::string(64, 'x') + ".test"}) {
    EXPECT_THAT(co_await Resolve(host), StatusIs(absl::StatusCode::kNotFound)) << host;
  }
}

// --- ports

// Rows: 26
CO_TEST_REAL(ResolverTest, AServiceIsFoundByItsName) {
  const servent* const http = getservbyname("http", "tcp");
  if (http == nullptr) GTEST_LOG_(INFO) << "there is no /etc/services here";
  if (http == nullptr) co_return;
  EXPECT_THAT(Texts(co_await Resolve("127.0.0.1", "http")), ElementsAre("127.0.0.1:80"));
}

// Rows: 26
CO_TEST_REAL(ResolverTest, AServiceWithANameMustBeANumberWhenOnlyNumbersAreAllowed) {
  EXPECT_THAT(co_await Resolve("127.0.0.1", "http", AF_UNSPEC, AI_NUMERICSERV),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Texts(co_await Resolve("127.0.0.1", "8080", AF_UNSPEC, AI_NUMERICSERV)),
              ElementsAre("127.0.0.1:8080"));
}

// Rows: 28, 58
CO_TEST_REAL(ResolverTest, NoHostIsLoopbackOrEveryInterfaceWhenPassive) {
  AddrInfoRequest request;
  request.port = 7;
  Resolver& resolver = GetRunningLoop()->resolver();
  EXPECT_THAT(Texts(co_await resolver.GetAddrInfo(request)), ElementsAre("[::1]:7", "127.0.0.1:7"));
  request.flags = AI_PASSIVE;
  EXPECT_THAT(Texts(co_await resolver.GetAddrInfo(request)),
              UnorderedElementsAre("0.0.0.0:7", "[::]:7"));
  request.family = AF_INET;
  EXPECT_THAT(Texts(co_await resolver.GetAddrInfo(request)), ElementsAre("0.0.0.0:7"));
}

// --- ending early

CO_TEST_REAL(ResolverTest, ACancelledLookUpEndsAtOnceAndTheOthersGoOn) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  CaresOptions options;
  options.timeout = absl::Hours(1);
  UseDns(dns, options);
  dns.answers["silent.test"].silent = true;
  TaskHandle<absl::StatusOr<std::vector<SocketAddress>>> gone = CreateTask(Resolve("silent.test"));
  TaskHandle<absl::StatusOr<std::vector<SocketAddress>>> stays = CreateTask(Resolve("silent.test"));
  co_await Until([&] { return dns.queries.size() == 4; });
  gone.Cancel();
  EXPECT_THAT(co_await gone.Join(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_FALSE(stays.done());
  dns.answers["other.test"].v4 = {"127.0.0.1"};
  EXPECT_THAT(co_await Resolve("other.test", 1, AF_INET), IsOk());
  stays.Cancel();
  EXPECT_THAT(co_await stays.Join(), StatusIs(absl::StatusCode::kCancelled));
}

// Rows: 50
CO_TEST_REAL(ResolverTest, AConnectTimeoutCoversTheLookUp) {
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  UseDns(dns);
  dns.answers["silent.test"].silent = true;
  OpenConnectionOptions options;
  options.connect_timeout = absl::Milliseconds(10);
  const absl::Status status = (co_await OpenConnection("silent.test", 80, options)).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(GetTimeoutPhase(status), Optional(std::string("connect")));
}

int ThreadsOfThisProcess() {
  std::ifstream status("/proc/self/status");
  std::string word;
  int threads = 0;
  while (status >> word) {
    if (word == "Threads:") status >> threads;
  }
  return threads;
}

CO_TEST_REAL(ResolverTest, TenThousandPendingLookUpsCostNoThreadAndCancelAtOnce) {
  constexpr std::size_t kLookUps = 10'000;
  FakeDnsServer dns;
  CO_ASSERT_OK(co_await dns.Start());
  CaresOptions options;
  options.timeout = absl::Hours(1);
  UseDns(dns, options);
  const int threads = ThreadsOfThisProcess();
  const std::size_t descriptors = OpenDescriptors();
  std::vector<TaskHandle<absl::StatusOr<std::vector<SocketAddress>>>> lookups;
  for (std::size_t i = 0; i < kLookUps; ++i) {
    const std::string name = absl::StrCat("silent", i, ".test");
    dns.answers[name].silent = true;
    lookups.push_back(CreateTask(Resolve(name, 1, AF_INET)));
  }
  // The kernel may drop some of so many datagrams: they are pending all the same.
  co_await Until([&] { return dns.queries.size() > 100; });
  co_await Turns();
  EXPECT_EQ(ThreadsOfThisProcess(), threads);
  EXPECT_LE(OpenDescriptors(), descriptors + 2);
  for (auto& lookup : lookups) EXPECT_TRUE(lookup.Cancel());
  for (auto& lookup : lookups) {
    EXPECT_THAT(co_await lookup.Join(), StatusIs(absl::StatusCode::kCancelled));
  }
}

TEST(ResolverLoopTest, ALookUpThatIsPendingWhenItsLoopGoesEndsCancelled) {
  absl::Status status;
  auto resolve = [](absl::Status* result) -> Task<void> {
    *result = (co_await Resolve("silent.test")).status();
  };
  {
    EventLoop loop;
    FakeDnsServer dns;
    dns.answers["silent.test"].silent = true;
    auto start = [](FakeDnsServer* server) -> Task<void> {
      EXPECT_THAT(co_await server->Start(), IsOk());
      UseDns(*server);
    };
    loop.RunUntilComplete(start(&dns));
    loop.Spawn(resolve(&status));
    loop.RunUntilComplete(Until([&] { return !dns.queries.empty(); }));
    EXPECT_THAT(status, IsOk());
  }
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled));
}

TEST(ResolverLoopTest, AResolverThatWasNeverUsedCostsNothing) {
  const std::size_t descriptors = OpenDescriptors();
  EventLoop loop;
  const std::size_t with_loop = OpenDescriptors();
  loop.resolver();
  EXPECT_EQ(OpenDescriptors(), with_loop);
  EXPECT_GT(with_loop, descriptors);
}

}  // namespace
}  // namespace sockbroker::streams
