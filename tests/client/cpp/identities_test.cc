// Several clients of one broker at once, and who may have what.
#include <fstream>
#include <string>
#include <utility>

#include "client/cpp/broker.h"
#include "client/cpp/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/control_tls.h"
#include "streams/streams.h"
#include "streams/testing/co_test.h"
#include "streams/testing/test_certificates.h"
#include "tests/client/cpp/real_broker.h"

namespace sockbroker::client {
namespace {

using streams::CreateTask;
using streams::IsOk;
using streams::IsOkAndHolds;
using streams::StatusIs;
using streams::Task;
using streams::TestAuthority;

Task<void> Echo(streams::StreamReader reader, streams::StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(65536);
    if (!data.ok() || data->empty()) break;
    (void)writer.Write(*std::move(data));
    if (!(co_await writer.Drain()).ok()) break;
  }
  writer.Close();
}

// A broker that knows its callers by their certificates, and callers.
class Identities {
 public:
  std::string address() const { return broker_.tls_address(); }
  // The options of a client with that name.
  BrokerOptions As(const std::string& name) const { return Vouched(authority_, name); }
  // With a certificate of that name, but of another authority.
  BrokerOptions AsImpostor(const std::string& name) const { return Vouched(other_, name); }

 private:
  BrokerOptions Vouched(const TestAuthority& authority, const std::string& name) const {
    const streams::TestCertificate own =
        authority.Issue({.common_name = name, .uris = {"spiffe://test/" + name}});
    BrokerOptions options;
    options.credentials = MutualTls(authority_.certificate_pem(), own.certificate_pem, own.key_pem);
    return options;
  }
  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(directory_.path(name)) << content;
    return directory_.path(name);
  }
  server::ControlTlsFiles Files() const {
    const streams::TestCertificate own = authority_.Issue({.ip_addresses = {"127.0.0.1"}});
    return {.certificate = Write("broker.crt", own.certificate_pem),
            .key = Write("broker.key", own.key_pem),
            .client_ca = Write("clients.ca", authority_.certificate_pem())};
  }

  server::TemporaryDirectory directory_;
  TestAuthority authority_{"Test Root"};
  TestAuthority other_{"Other Root"};
  RealBroker broker_{server::MakeTlsCredentials(Files())};
};

Task<absl::StatusOr<Connection>> OpenEcho(Broker broker, const streams::Server& echo) {
  return broker.OpenConnection("127.0.0.1", echo.sockets()[0].port());
}

Task<absl::StatusOr<absl::Cord>> Ask(Connection* connection, std::string question) {
  (void)connection->writer.Write(question);
  co_return co_await connection->reader.ReadExactly(question.size());
}

CO_TEST_REAL(Identities, OneIdentityHasItsConnectionsInEverySessionOfIts) {
  Identities identities;
  const streams::Server echo = *co_await streams::StartServer(Echo, "127.0.0.1", 0);
  auto first = co_await Broker::Connect(identities.address(), identities.As("alice"));
  CO_ASSERT_OK(first);
  auto second = co_await Broker::Connect(identities.address(), identities.As("alice"));
  CO_ASSERT_OK(second);

  auto mine = co_await OpenEcho(*first, echo);
  CO_ASSERT_OK(mine);
  auto taken = co_await second->Attach(mine->writer.handle(), {.steal = true});
  CO_ASSERT_OK(taken);
  EXPECT_THAT(co_await Ask(&*taken, "mine too"), IsOkAndHolds("mine too"));
  EXPECT_EQ(GetStreamEnd((co_await mine->reader.Read(1)).status()), StreamEnd::kFenced);
}

CO_TEST_REAL(Identities, AnothersHandleIsNotFoundAndItsConnectionIsNotTouched) {
  Identities identities;
  const streams::Server echo = *co_await streams::StartServer(Echo, "127.0.0.1", 0);
  auto alice = co_await Broker::Connect(identities.address(), identities.As("alice"));
  CO_ASSERT_OK(alice);
  auto bob = co_await Broker::Connect(identities.address(), identities.As("bob"));
  CO_ASSERT_OK(bob);

  auto hers = co_await OpenEcho(*alice, echo);
  CO_ASSERT_OK(hers);
  EXPECT_THAT(co_await bob->Attach(hers->writer.handle()), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(co_await bob->Attach(hers->writer.handle(), {.steal = true}),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(co_await Ask(&*hers, "still mine"), IsOkAndHolds("still mine"));

  auto server = co_await alice->StartServer(nullptr, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  auto stolen = co_await bob->AttachServer(nullptr, server->handle());
  if (stolen.ok()) {
    EXPECT_THAT(co_await stolen->Accept(), StatusIs(absl::StatusCode::kNotFound));
  } else {
    EXPECT_THAT(stolen, StatusIs(absl::StatusCode::kNotFound));
  }
}

CO_TEST_REAL(Identities, WhoHasNoCertificateOfTheRightAuthorityDoesNotGetIn) {
  Identities identities;
  EXPECT_THAT(co_await Broker::Connect(identities.address(), identities.AsImpostor("alice")),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(co_await Broker::Connect(identities.address()),
              StatusIs(absl::StatusCode::kUnavailable));
}

Task<void> Carry(Connection connection, char content) {
  constexpr std::size_t kSize = 8 << 20;
  auto sender = CreateTask([](StreamWriter writer, std::string bytes) -> Task<void> {
    for (std::size_t i = 0; i < bytes.size(); i += 50'000) {
      EXPECT_THAT(writer.Write(bytes.substr(i, 50'000)), IsOk());
      EXPECT_THAT(co_await writer.Drain(), IsOk());
    }
  }(connection.writer, std::string(kSize, content)));
  const auto back = co_await connection.reader.ReadExactly(kSize);
  CO_ASSERT_OK(back);
  EXPECT_EQ(std::string(*back).find_first_not_of(content), std::string::npos);
  co_await sender.Join();
}

CO_TEST_REAL(RealBroker, TwoClientsAtOnceEachHaveTheirOwnBytes) {
  RealBroker real;
  const streams::Server echo = *co_await streams::StartServer(Echo, "127.0.0.1", 0);
  auto first = co_await Broker::Connect(real.address());
  CO_ASSERT_OK(first);
  auto second = co_await Broker::Connect(real.address());
  CO_ASSERT_OK(second);
  auto a = co_await OpenEcho(*first, echo);
  CO_ASSERT_OK(a);
  auto b = co_await OpenEcho(*second, echo);
  CO_ASSERT_OK(b);
  EXPECT_NE(a->writer.handle(), b->writer.handle());
  auto other = CreateTask(Carry(*std::move(a), 'a'));
  co_await Carry(*std::move(b), 'b');
  co_await other.Join();
}

}  // namespace
}  // namespace sockbroker::client
