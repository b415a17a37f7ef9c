#include "server/principal.h"

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace sockbroker::server {
namespace {

// What gRPC knows of a connection.
class Certificate final : public grpc::AuthContext {
 public:
  using Properties = std::vector<std::pair<std::string, std::string>>;
  explicit Certificate(Properties properties) : properties_(std::move(properties)) {}

  bool IsPeerAuthenticated() const override { return true; }
  std::vector<grpc::string_ref> GetPeerIdentity() const override { return {}; }
  std::string GetPeerIdentityPropertyName() const override { return ""; }
  std::vector<grpc::string_ref> FindPropertyValues(const std::string& name) const override {
    std::vector<grpc::string_ref> values;
    for (const auto& [key, value] : properties_) {
      if (key == name) values.emplace_back(value);
    }
    return values;
  }
  grpc::AuthPropertyIterator begin() const override { return end(); }
  grpc::AuthPropertyIterator end() const override { return Nothing(); }
  void AddProperty(const std::string&, const grpc::string_ref&) override {}
  bool SetPeerIdentityPropertyName(const std::string&) override { return false; }

 private:
  class Nothing : public grpc::AuthPropertyIterator {};
  const Properties properties_;
};

constexpr char kUri[] = GRPC_PEER_URI_PROPERTY_NAME;
constexpr char kDns[] = GRPC_PEER_DNS_PROPERTY_NAME;

TEST(Principal, WhoComesThroughTheUnixSocketIsTheOwner) {
  for (const char* peer : {"unix:", "unix:/run/x", "unix-abstract:x", "inproc"}) {
    const auto owner = PrincipalOfPeer(peer);
    EXPECT_EQ(owner->name, "unix");
    EXPECT_TRUE(owner->may_open && owner->may_use_unix && owner->may_adopt) << peer;
  }
}

TEST(Principal, WhoComesThroughPlainTcpMayOpenButLendsNothingOfTheBrokers) {
  for (const char* peer : {"ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1", "", "anything"}) {
    const auto anybody = PrincipalOfPeer(peer);
    EXPECT_EQ(anybody->name, "insecure-loopback");
    EXPECT_TRUE(anybody->may_open);
    EXPECT_FALSE(anybody->may_use_unix || anybody->may_adopt) << peer;
    EXPECT_EQ(anybody->rule, "insecure-loopback");
  }
}

TEST(Principal, TheFirstUriNamesACertificatesBearerElseTheFirstDnsName) {
  EXPECT_EQ(CertificateIdentity(
                Certificate({{kDns, "a.example"}, {kUri, "spiffe://x/1"}, {kUri, "spiffe://x/2"}})),
            "cert:spiffe://x/1");
  EXPECT_EQ(CertificateIdentity(Certificate({{kDns, "a.example"}, {kDns, "b.example"}})),
            "cert-dns:a.example");
  // A URI and a DNS name of one text are two principals.
  EXPECT_NE(CertificateIdentity(Certificate({{kUri, "x"}})),
            CertificateIdentity(Certificate({{kDns, "x"}})));
}

TEST(Principal, ASubjectOrAnAddressNamesNobody) {
  EXPECT_EQ(CertificateIdentity(Certificate({{GRPC_X509_CN_PROPERTY_NAME, "admin"},
                                             {GRPC_PEER_IP_PROPERTY_NAME, "192.0.2.1"},
                                             {kUri, ""}})),
            "");
}

TEST(Principal, ACertificateMayNothingUnlessAllMayEverything) {
  const Certificate certificate({{kUri, "spiffe://x/1"}});
  const auto denied = PrincipalOfCertificate(certificate, {.allow_all = false});
  EXPECT_EQ(denied->name, "cert:spiffe://x/1");
  EXPECT_FALSE(denied->may_open || denied->may_use_unix || denied->may_adopt);
  EXPECT_EQ(denied->rule, "no-policy");
  const auto allowed = PrincipalOfCertificate(certificate, {.allow_all = true});
  EXPECT_TRUE(allowed->may_open && allowed->may_use_unix && allowed->may_adopt);
}

TEST(Principal, WhoIsNobodyMayNothingWhateverIsAllowed) {
  const auto nobody = PrincipalOfCertificate(Certificate({}), {.allow_all = true});
  EXPECT_FALSE(nobody->may_open || nobody->may_use_unix || nobody->may_adopt);
}

TEST(Principal, TlsIsKnownByWhatTheConnectionSays) {
  const auto says = [](const char* type) {
    return IsTls(Certificate({{GRPC_TRANSPORT_SECURITY_TYPE_PROPERTY_NAME, type}}));
  };
  EXPECT_TRUE(says(GRPC_TLS_TRANSPORT_SECURITY_TYPE) && says(GRPC_SSL_TRANSPORT_SECURITY_TYPE));
  EXPECT_FALSE(says("insecure") || says("local"));
  EXPECT_FALSE(IsTls(Certificate({})));
}

}  // namespace
}  // namespace sockbroker::server
