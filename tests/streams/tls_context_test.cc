// TlsContext: what it takes, what it refuses, and that it never says what a key was.
#include "streams/tls_context.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/error.h"
#include "streams/internal/openssl.h"
#include "streams/testing/status_matchers.h"
#include "streams/tls_info.h"
#include "tests/streams/tls_sides.h"

namespace sockbroker::streams {
namespace {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// A file that is gone at the end.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& content) {
    const int fd = mkstemp(name_.data());
    if (fd >= 0) close(fd);
    std::ofstream(name_) << content;
  }
  ~TemporaryFile() { std::remove(name_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& name() const { return name_; }

 private:
  std::string name_ = ::testing::TempDir() + "tls_context_XXXXXX";
};

// No line of the key's PEM but those that every PEM has.
void ExpectNothingOf(const std::string& key_pem, const absl::Status& status) {
  for (const absl::string_view line : absl::StrSplit(key_pem, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "-----")) continue;
    EXPECT_FALSE(absl::StrContains(status.ToString(), line.substr(0, 16))) << status;
  }
}

TlsContextOptions Server(std::string certificate_pem, std::string key_pem) {
  TlsContextOptions options;
  options.side = TlsSide::kServer;
  options.certificate_pem = std::move(certificate_pem);
  options.private_key_pem = std::move(key_pem);
  return options;
}

// --- certificates and keys

// Rows: 22
TEST(TlsContextTest, AClientNeedsNothing) {
  const auto context = TlsContext::Create({.side = TlsSide::kClient});
  ASSERT_THAT(context, IsOk());
  EXPECT_EQ((*context)->side(), TlsSide::kClient);
  EXPECT_TRUE((*context)->check_hostname());
}

// Rows: 74
TEST(TlsContextTest, AServerWithoutACertificateIsRefused) {
  EXPECT_THAT(TlsContext::Create({.side = TlsSide::kServer}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("needs a certificate")));
}

TEST(TlsContextTest, ACertificateThatIsNoPemIsRefused) {
  const TestCertificate& good = ServerIdentity();
  for (const std::string& bad :
       {std::string("not a certificate"), good.certificate_pem.substr(0, 100),
        absl::StrCat("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}) {
    EXPECT_THAT(TlsContext::Create(Server(bad, good.key_pem)),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("certificate")));
  }
}

TEST(TlsContextTest, ADamagedCertificateBehindAGoodOneIsRefused) {
  const TestCertificate& good = ServerIdentity();
  const std::string damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
  EXPECT_THAT(TlsContext::Create(Server(good.certificate_pem + damaged, good.key_pem)),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("certificate chain")));
  EXPECT_THAT(TlsContext::Create(
                  {.side = TlsSide::kClient, .ca_pem = Authority().certificate_pem() + damaged}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("ca")));
}

TEST(TlsContextTest, AKeyThatIsNoPemIsRefusedWithoutBeingQuoted) {
  const TestCertificate& good = ServerIdentity();
  const std::string cut = good.key_pem.substr(0, good.key_pem.size() - 60);
  for (const std::string& bad : {cut, std::string("AAAA"), good.certificate_pem}) {
    const absl::Status status = TlsContext::Create(Server(good.certificate_pem, bad)).status();
    EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, HasSubstr("private key")));
    ExpectNothingOf(good.key_pem, status);
    ExpectNothingOf(bad, status);
  }
}

TEST(TlsContextTest, AKeyOfAnotherCertificateIsRefusedWithoutBeingQuoted) {
  const TestCertificate other = MakeSelfSigned({});
  const absl::Status status =
      TlsContext::Create(Server(ServerIdentity().certificate_pem, other.key_pem)).status();
  EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, HasSubstr("mismatch")));
  ExpectNothingOf(other.key_pem, status);
}

TEST(TlsContextTest, AnEncryptedKeyIsRefusedAndNobodyIsAskedForAPassword) {
  const internal::BioPtr plain(BIO_new_mem_buf(ServerIdentity().key_pem.data(), -1));
  const internal::EvpKeyPtr key(PEM_read_bio_PrivateKey(plain.get(), nullptr, nullptr, nullptr));
  const internal::BioPtr bio(BIO_new(BIO_s_mem()));
  unsigned char password[] = "secret";
  ASSERT_EQ(PEM_write_bio_PrivateKey(bio.get(), key.get(), EVP_aes_128_cbc(), password, 6, nullptr,
                                     nullptr),
            1);
  char* text = nullptr;
  const auto size = BIO_get_mem_data(bio.get(), &text);
  const std::string encrypted(text, static_cast<std::size_t>(size));
  const absl::Status status =
      TlsContext::Create(Server(ServerIdentity().certificate_pem, encrypted)).status();
  EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, HasSubstr("private key")));
  ExpectNothingOf(encrypted, status);
}

TEST(TlsContextTest, ACertificateAndItsKeyMayComeInOnePem) {
  EXPECT_THAT(
      TlsContext::Create(Server(ServerIdentity().certificate_pem + ServerIdentity().key_pem, "")),
      IsOk());
}

TEST(TlsContextTest, NothingIsKeptOfTheKeysText) {
  const auto context = ServerContext();
  EXPECT_TRUE(context->state().options.private_key_pem.empty());
  EXPECT_TRUE(context->state().options.certificate_pem.empty());
}

TEST(TlsContextTest, CertificateKeyAndRootsMayComeFromFiles) {
  const TemporaryFile certificate(ServerIdentity().certificate_pem);
  const TemporaryFile key(ServerIdentity().key_pem);
  const TemporaryFile ca(Authority().certificate_pem());
  EngineLink link(MakeContext({.side = TlsSide::kClient, .ca_file = ca.name()}),
                  MakeContext({.side = TlsSide::kServer,
                               .certificate_file = certificate.name(),
                               .private_key_file = key.name()}));
  EXPECT_TRUE(link.Establish());
}

TEST(TlsContextTest, AFileThatIsMissingIsNamed) {
  const std::string missing = ::testing::TempDir() + "there is no such file.pem";
  const TemporaryFile certificate(ServerIdentity().certificate_pem);
  EXPECT_THAT(TlsContext::Create({.side = TlsSide::kServer, .certificate_file = missing}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("no such file.pem")));
  EXPECT_THAT(TlsContext::Create({.side = TlsSide::kServer,
                                  .certificate_file = certificate.name(),
                                  .private_key_file = missing}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("no such file.pem")));
  EXPECT_THAT(TlsContext::Create({.side = TlsSide::kClient, .ca_file = missing}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("no such file.pem")));
}

TEST(TlsContextTest, IntermediatesAreSentBehindTheCertificate) {
  const TestAuthority middle = Authority().IssueAuthority("Test Intermediate");
  const TestCertificate leaf = middle.Issue({.common_name = "leaf", .dns_names = {"localhost"}});
  EngineLink link(ClientContext(), MakeContext(ServerTlsOptions(leaf)));
  ASSERT_TRUE(link.Establish()) << link.client->error();
  ASSERT_THAT(link.client->info().peer_certificates, SizeIs(2));
  EXPECT_EQ(ReadCertificate(link.client->info().peer_certificates[0])->subject, "CN=leaf");
  EXPECT_EQ(ReadCertificate(link.client->info().peer_certificates[1])->subject,
            "CN=Test Intermediate");
}

// --- roots and verification

struct Failure {
  int code;
  std::string text;
};
Failure FailureWith(const TestCertificate& identity, TlsContextOptions client = ClientTlsOptions(),
                    const std::string& name = "localhost") {
  EngineLink link(MakeContext(std::move(client)), MakeContext(ServerTlsOptions(identity)), name);
  EXPECT_FALSE(link.Establish());
  const auto failure = GetTlsVerifyFailure(link.client->error());
  if (!failure.has_value()) return {-1, link.client->error().ToString()};
  EXPECT_TRUE(IsTlsError(link.client->error()));
  EXPECT_THAT(link.client->error(), StatusIs(StatusCode::kUnavailable, HasSubstr(failure->text)));
  return {failure->code, failure->text};
}

// Rows: 210
TEST(TlsVerifyTest, AnExpiredCertificateIsNamedSo) {
  const Failure failure = FailureWith(Authority().Issue(
      {.dns_names = {"localhost"}, .begins = -absl::Hours(48), .ends = -absl::Hours(24)}));
  EXPECT_EQ(failure.code, X509_V_ERR_CERT_HAS_EXPIRED);
  EXPECT_EQ(failure.text, "certificate has expired");
}

// Rows: 210
TEST(TlsVerifyTest, ACertificateOfTheFutureIsNamedSo) {
  const Failure failure = FailureWith(Authority().Issue(
      {.dns_names = {"localhost"}, .begins = absl::Hours(24), .ends = absl::Hours(48)}));
  EXPECT_EQ(failure.code, X509_V_ERR_CERT_NOT_YET_VALID);
}

// Rows: 20, 210
TEST(TlsVerifyTest, AWrongHostIsNamedSo) {
  const Failure failure = FailureWith(Authority().Issue({.dns_names = {"elsewhere.example"}}));
  EXPECT_EQ(failure.code, X509_V_ERR_HOSTNAME_MISMATCH);
  EXPECT_THAT(failure.text, HasSubstr("ostname mismatch"));
}

// Rows: 20, 210
TEST(TlsVerifyTest, AWrongAddressIsNamedSo) {
  const Failure failure = FailureWith(ServerIdentity(), ClientTlsOptions(), "192.0.2.1");
  EXPECT_EQ(failure.code, X509_V_ERR_IP_ADDRESS_MISMATCH);
}

// Rows: 210
TEST(TlsVerifyTest, ASelfSignedCertificateIsNamedSo) {
  const Failure failure = FailureWith(MakeSelfSigned({.dns_names = {"localhost"}}));
  EXPECT_EQ(failure.code, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT);
  EXPECT_EQ(failure.text, "self-signed certificate");
}

// Rows: 210
TEST(TlsVerifyTest, AnotherRootIsNamedSo) {
  const TestAuthority other("Another Root");
  const Failure failure = FailureWith(other.Issue({.dns_names = {"localhost"}}));
  EXPECT_EQ(failure.code, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
}

// Rows: 22
TEST(TlsVerifyTest, WithoutRootsAClientTakesTheSystems) {
  const Failure failure = FailureWith(ServerIdentity(), {.side = TlsSide::kClient});
  EXPECT_EQ(failure.code, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
}

// Rows: 22
TEST(TlsVerifyTest, ACommonNameIsNoHostName) {
  const Failure failure =
      FailureWith(Authority().Issue({.common_name = "localhost", .dns_names = {"other.example"}}));
  EXPECT_EQ(failure.code, X509_V_ERR_HOSTNAME_MISMATCH);
}

// Rows: 21
TEST(TlsVerifyTest, TheNameNeedNotBeChecked) {
  TlsContextOptions options = ClientTlsOptions();
  options.check_hostname = false;
  EngineLink link(MakeContext(options), ServerContext(), "elsewhere.example");
  EXPECT_TRUE(link.Establish());
}

// Rows: 207
TEST(TlsVerifyTest, WithoutVerificationEverythingPassesAndTheResultIsTold) {
  EngineLink link(MakeContext({.side = TlsSide::kClient, .verify = TlsVerify::kNone}),
                  MakeContext(ServerTlsOptions(MakeSelfSigned({}))), "elsewhere.example");
  ASSERT_TRUE(link.Establish());
  EXPECT_EQ(link.client->info().verify_code, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT);
  EXPECT_EQ(link.client->info().verify_text, "self-signed certificate");
  EXPECT_THAT(link.client->info().peer_certificates, SizeIs(1));
}

TEST(TlsVerifyTest, ACaWithoutACertificateIsRefused) {
  EXPECT_THAT(TlsContext::Create({.side = TlsSide::kClient, .ca_pem = "nothing in here"}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("ca")));
}

TEST(TlsVerifyTest, AServerThatVerifiesNeedsRoots) {
  TlsContextOptions options = ServerTlsOptions();
  options.verify = TlsVerify::kRequired;
  EXPECT_THAT(TlsContext::Create(options),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("needs a ca")));
}

// A client's certificate, asked for by a server.
class ClientCertificateTest : public ::testing::TestWithParam<TlsVersion> {
 protected:
  static std::shared_ptr<const TlsContext> Client(const TestCertificate* identity) {
    TlsContextOptions options = At(GetParam(), ClientTlsOptions());
    if (identity != nullptr) {
      options.certificate_pem = identity->certificate_pem;
      options.private_key_pem = identity->key_pem;
    }
    return MakeContext(options);
  }
  static std::shared_ptr<const TlsContext> Server(TlsVerify verify = TlsVerify::kDefault) {
    TlsContextOptions options = At(GetParam(), ServerTlsOptions());
    options.ca_pem = Authority().certificate_pem();
    options.verify = verify;
    return MakeContext(options);
  }
};

INSTANTIATE_TEST_SUITE_P(Versions, ClientCertificateTest,
                         ::testing::Values(TlsVersion::kTls12, TlsVersion::kTls13),
                         [](const auto& version) {
                           return version.param == TlsVersion::kTls12 ? "Tls12" : "Tls13";
                         });

// Rows: 204, 207
TEST_P(ClientCertificateTest, IsSeenByTheServer) {
  EngineLink link(Client(&ClientIdentity()), Server());
  ASSERT_TRUE(link.Establish()) << link.server->error();
  ASSERT_THAT(link.server->info().peer_certificates, SizeIs(1));
  const auto text = ReadCertificate(link.server->info().peer_certificates[0]);
  EXPECT_EQ(text->subject, "CN=client");
  EXPECT_THAT(text->subject_alt_names, ElementsAre("URI:spiffe://test/client"));
}

// Rows: 210
TEST_P(ClientCertificateTest, ThatIsMissingFailsAtTheServerThatHasRoots) {
  EngineLink link(Client(nullptr), Server());
  link.Establish();
  EXPECT_THAT(link.server->error(),
              StatusIs(StatusCode::kUnavailable, HasSubstr("peer did not return a certificate")));
  // A client of TLS 1.3 has finished by then, and hears of it when it reads.
  link.Carry(*link.server);
  link.ReadAll(*link.client);
  EXPECT_TRUE(IsTlsError(link.client->error())) << link.client->error();
}

// Rows: 210
TEST_P(ClientCertificateTest, ThatIsBadNamesTheVerifyResultAtTheServer) {
  const TestCertificate bad = MakeSelfSigned({.common_name = "intruder"});
  for (const TlsVerify verify : {TlsVerify::kRequired, TlsVerify::kOptional}) {
    EngineLink link(Client(&bad), Server(verify));
    link.Establish();
    const auto failure = GetTlsVerifyFailure(link.server->error());
    ASSERT_TRUE(failure.has_value()) << link.server->error();
    EXPECT_EQ(failure->code, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT);
  }
}

// Rows: 207
TEST_P(ClientCertificateTest, MayBeMissingWhereItIsOptional) {
  EngineLink link(Client(nullptr), Server(TlsVerify::kOptional));
  ASSERT_TRUE(link.Establish());
  EXPECT_TRUE(link.server->info().peer_certificates.empty());
}

// Rows: 207
TEST_P(ClientCertificateTest, IsNotAskedForByDefault) {
  EngineLink link(Client(&ClientIdentity()), MakeContext(At(GetParam(), ServerTlsOptions())));
  ASSERT_TRUE(link.Establish());
  EXPECT_TRUE(link.server->info().peer_certificates.empty());
}

// --- ALPN, versions, ciphers

std::string AgreedAlpn(std::vector<std::string> client, std::vector<std::string> server) {
  TlsContextOptions client_options = ClientTlsOptions();
  client_options.alpn = std::move(client);
  TlsContextOptions server_options = ServerTlsOptions();
  server_options.alpn = std::move(server);
  EngineLink link(MakeContext(client_options), MakeContext(server_options));
  EXPECT_TRUE(link.Establish());
  EXPECT_EQ(link.client->info().alpn, link.server->info().alpn);
  return link.client->info().alpn;
}

TEST(TlsAlpnTest, TheServersPreferenceDecides) {
  EXPECT_EQ(AgreedAlpn({"h2", "http/1.1"}, {"http/1.1", "h2"}), "http/1.1");
  EXPECT_EQ(AgreedAlpn({"h2", "http/1.1"}, {"h2"}), "h2");
}

TEST(TlsAlpnTest, WithoutASharedProtocolTheConnectionGoesOnWithoutOne) {
  EXPECT_EQ(AgreedAlpn({"h2"}, {"smtp"}), "");
  EXPECT_EQ(AgreedAlpn({"h2"}, {}), "");
  EXPECT_EQ(AgreedAlpn({}, {"h2"}), "");
}

TEST(TlsAlpnTest, ANameOfTheWrongLengthIsRefused) {
  for (const std::string& name : {std::string(), std::string(256, 'x')}) {
    TlsContextOptions options = ClientTlsOptions();
    options.alpn = {"h2", name};
    EXPECT_THAT(TlsContext::Create(options),
                StatusIs(StatusCode::kInvalidArgument, HasSubstr("alpn")));
  }
  TlsContextOptions many = ClientTlsOptions();
  many.alpn.assign(300, std::string(255, 'x'));
  EXPECT_THAT(TlsContext::Create(many), StatusIs(StatusCode::kInvalidArgument));
}

TEST(TlsVersionTest, TheHighestSharedVersionIsTaken) {
  TlsContextOptions old = ServerTlsOptions();
  old.max_version = TlsVersion::kTls12;
  EngineLink link(ClientContext(), MakeContext(old));
  ASSERT_TRUE(link.Establish());
  EXPECT_EQ(link.client->info().version, "TLSv1.2");
  EngineLink newer;
  ASSERT_TRUE(newer.Establish());
  EXPECT_EQ(newer.client->info().version, "TLSv1.3");
}

// Rows: 210
TEST(TlsVersionTest, WithoutASharedVersionTheHandshakeFails) {
  EngineLink link(MakeContext(At(TlsVersion::kTls12, ClientTlsOptions())),
                  MakeContext(At(TlsVersion::kTls13, ServerTlsOptions())));
  EXPECT_FALSE(link.Establish());
  EXPECT_TRUE(IsTlsError(link.client->error()));
  EXPECT_TRUE(IsTlsError(link.server->error()));
}

TEST(TlsVersionTest, ARangeTheWrongWayRoundIsRefused) {
  TlsContextOptions options = ClientTlsOptions();
  options.min_version = TlsVersion::kTls13;
  options.max_version = TlsVersion::kTls12;
  EXPECT_THAT(TlsContext::Create(options), StatusIs(StatusCode::kInvalidArgument));
}

TEST(TlsCipherTest, TheCipherCanBeChosenForBothVersions) {
  TlsContextOptions options = At(TlsVersion::kTls12, ClientTlsOptions());
  options.ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256";
  EngineLink old(MakeContext(options), ServerContext());
  ASSERT_TRUE(old.Establish());
  EXPECT_EQ(old.server->info().cipher, "ECDHE-ECDSA-AES128-GCM-SHA256");
  options = ClientTlsOptions();
  options.ciphersuites = "TLS_CHACHA20_POLY1305_SHA256";
  EngineLink newer(MakeContext(options), ServerContext());
  ASSERT_TRUE(newer.Establish());
  EXPECT_EQ(newer.server->info().cipher, "TLS_CHACHA20_POLY1305_SHA256");
}

TEST(TlsCipherTest, AnUnknownCipherIsRefused) {
  TlsContextOptions options = ClientTlsOptions();
  options.ciphers = "NO-SUCH-CIPHER";
  EXPECT_THAT(TlsContext::Create(options),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("ciphers")));
  options.ciphers.clear();
  options.ciphersuites = "NO_SUCH_SUITE";
  EXPECT_THAT(TlsContext::Create(options),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("ciphersuites")));
}

// --- resumption

// Shakes hands and lets the client have its tickets; whether it was a resumption.
bool Resumes(const std::shared_ptr<const TlsContext>& client,
             const std::shared_ptr<const TlsContext>& server,
             const std::string& name = "localhost") {
  EngineLink link(client, server, name);
  EXPECT_TRUE(link.Establish()) << link.client->error();
  link.ReadAll(*link.client);
  EXPECT_EQ(link.client->info().resumed, link.server->info().resumed);
  return link.client->info().resumed;
}

class TlsResumptionTest : public ::testing::TestWithParam<TlsVersion> {};

INSTANTIATE_TEST_SUITE_P(Versions, TlsResumptionTest,
                         ::testing::Values(TlsVersion::kTls12, TlsVersion::kTls13),
                         [](const auto& version) {
                           return version.param == TlsVersion::kTls12 ? "Tls12" : "Tls13";
                         });

TEST_P(TlsResumptionTest, TheSecondConnectionToANameResumesTheFirst) {
  const auto client = MakeContext(At(GetParam(), ClientTlsOptions()));
  const auto server = MakeContext(At(GetParam(), ServerTlsOptions()));
  EXPECT_FALSE(Resumes(client, server));
  EXPECT_TRUE(Resumes(client, server));
  EXPECT_TRUE(Resumes(client, server));
}

TEST_P(TlsResumptionTest, TheCertificatesAreStillTold) {
  TlsContextOptions client_options = At(GetParam(), ClientTlsOptions());
  client_options.certificate_pem = ClientIdentity().certificate_pem;
  client_options.private_key_pem = ClientIdentity().key_pem;
  const auto client = MakeContext(client_options);
  TlsContextOptions server_options = At(GetParam(), ServerTlsOptions());
  server_options.ca_pem = Authority().certificate_pem();
  const auto server = MakeContext(server_options);
  EXPECT_FALSE(Resumes(client, server));
  EngineLink link(client, server);
  ASSERT_TRUE(link.Establish());
  EXPECT_TRUE(link.client->info().resumed);
  EXPECT_THAT(link.client->info().peer_certificates, SizeIs(1));
  EXPECT_THAT(link.server->info().peer_certificates, SizeIs(1));
  EXPECT_EQ(link.client->info().verify_code, 0);
}

TEST_P(TlsResumptionTest, AConnectionThatFailedIsNotResumed) {
  const auto client = MakeContext(At(GetParam(), ClientTlsOptions()));
  const auto server = MakeContext(At(GetParam(), ServerTlsOptions()));
  {
    EngineLink link(client, server);
    ASSERT_TRUE(link.Establish());
    link.ReadAll(*link.client);
    link.client->FeedCiphertext(absl::Cord("no record of TLS, which ends the connection"));
    link.ReadAll(*link.client);
    ASSERT_EQ(link.last, EngineResult::kError);
  }
  EXPECT_FALSE(Resumes(client, server));
}

TEST_P(TlsResumptionTest, AnotherNameDoesNotResume) {
  const TestCertificate both = Authority().Issue({.dns_names = {"localhost", "other.example"}});
  const auto client = MakeContext(At(GetParam(), ClientTlsOptions()));
  const auto server = MakeContext(At(GetParam(), ServerTlsOptions(both)));
  EXPECT_FALSE(Resumes(client, server));
  EXPECT_FALSE(Resumes(client, server, "other.example"));
}

TEST_P(TlsResumptionTest, AnotherServerUnderTheNameIsVerifiedAnew) {
  const auto client = MakeContext(At(GetParam(), ClientTlsOptions()));
  EXPECT_FALSE(Resumes(client, MakeContext(At(GetParam(), ServerTlsOptions()))));
  EXPECT_FALSE(Resumes(client, MakeContext(At(GetParam(), ServerTlsOptions()))));
}

TEST_P(TlsResumptionTest, CanBeTurnedOffOnEitherSide) {
  for (const bool off_at_client : {true, false}) {
    TlsContextOptions client_options = At(GetParam(), ClientTlsOptions());
    TlsContextOptions server_options = At(GetParam(), ServerTlsOptions());
    (off_at_client ? client_options : server_options).session_resumption = false;
    const auto client = MakeContext(client_options);
    const auto server = MakeContext(server_options);
    EXPECT_FALSE(Resumes(client, server));
    EXPECT_FALSE(Resumes(client, server));
  }
}

// --- the key log

TEST(TlsKeyLogTest, GivesTheLinesOfAnNssKeyLog) {
  std::vector<std::string> lines;
  TlsContextOptions options = ClientTlsOptions();
  options.key_log = [&lines](absl::string_view line) { lines.emplace_back(line); };
  EngineLink link(MakeContext(options), ServerContext());
  ASSERT_TRUE(link.Establish());
  std::vector<std::string> labels;
  for (const std::string& line : lines) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    ASSERT_THAT(words, SizeIs(3)) << line;
    EXPECT_EQ(words[1].size(), 64u);
    labels.push_back(words[0]);
  }
  EXPECT_THAT(labels, UnorderedElementsAre(
                          "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET",
                          "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0", "EXPORTER_SECRET"));
}

// --- sharing

TEST(TlsContextTest, MayBeSharedByThreads) {
  const auto client = ClientContext();
  const auto server = ServerContext();
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&client, &server] {
      for (int k = 0; k < 20; ++k) Resumes(client, server);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// --- certificates as a person reads them

TEST(ReadCertificateTest, TellsWhatIsInIt) {
  TlsContextOptions unverified{.side = TlsSide::kClient, .verify = TlsVerify::kNone};
  const TestCertificate identity = Authority().Issue({.common_name = "Jürgen",
                                                      .dns_names = {"a.example", "*.b.example"},
                                                      .ip_addresses = {"192.0.2.1", "2001:db8::1"},
                                                      .uris = {"spiffe://test/x"}});
  EngineLink link(MakeContext(unverified), MakeContext(ServerTlsOptions(identity)));
  ASSERT_TRUE(link.Establish());
  const auto text = ReadCertificate(link.client->info().peer_certificates[0]);
  ASSERT_TRUE(text.has_value());
  EXPECT_EQ(text->subject, "CN=Jürgen");
  EXPECT_EQ(text->issuer, "CN=Test Root");
  EXPECT_THAT(text->subject_alt_names,
              ElementsAre("DNS:a.example", "DNS:*.b.example", "IP:192.0.2.1", "IP:2001:db8::1",
                          "URI:spiffe://test/x"));
  EXPECT_LT(text->not_before, absl::Now());
  EXPECT_GT(text->not_after, absl::Now());
  EXPECT_FALSE(text->serial.empty());
  EXPECT_EQ(text->sha256_fingerprint.size(), 32u * 3 - 1);
}

TEST(ReadCertificateTest, RefusesWhatIsNone) {
  EXPECT_FALSE(ReadCertificate("").has_value());
  EXPECT_FALSE(ReadCertificate("not DER").has_value());
}

}  // namespace
}  // namespace sockbroker::streams
