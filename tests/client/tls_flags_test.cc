#include "client/tls_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "client/exit_status.h"
#include "streams/testing/test_certificates.h"

namespace sockbroker::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kCertificate[] = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
constexpr char kKey[] = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
constexpr char kLocked[] =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";

class TlsFlags : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sb-tls-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string File(const std::string& name, const std::string& content) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path) << content;
    return path;
  }

  static std::string Error(const absl::StatusOr<v1::TlsOptions>& tls) {
    EXPECT_EQ(tls.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(tls.status().message());
  }

 private:
  std::string directory_;
};

TEST_F(TlsFlags, TlsAloneTrustsTheSystemAndChecksTheHost) {
  const auto tls = MakeClientTls({.tls = true}, "example.org");
  ASSERT_TRUE(tls.ok());
  EXPECT_EQ(tls->server_hostname(), "example.org");
  EXPECT_EQ(tls->verify(), v1::TLS_VERIFY_UNSPECIFIED);
  EXPECT_FALSE(tls->has_check_hostname());
  EXPECT_TRUE(tls->ca_pem().empty());
}

TEST_F(TlsFlags, FilesAreReadAndSentAlong) {
  const streams::TestCertificate me = streams::MakeSelfSigned({});
  const ClientTlsFlags flags{.tls = true,
                             .ca = File("ca.crt", me.certificate_pem),
                             .certificate = File("me.crt", me.certificate_pem),
                             .key = File("me.key", me.key_pem),
                             .alpn = "h2,http/1.1"};
  const auto tls = MakeClientTls(flags, "h");
  ASSERT_TRUE(tls.ok()) << tls.status();
  EXPECT_EQ(tls->ca_pem(), me.certificate_pem);
  EXPECT_EQ(tls->certificate_pem(), me.certificate_pem);
  EXPECT_EQ(tls->private_key_pem(), me.key_pem);
  EXPECT_THAT(tls->alpn(), ElementsAre("h2", "http/1.1"));
}

TEST_F(TlsFlags, TheKeyMayStandInTheCertificatesFile) {
  const streams::TestCertificate me = streams::MakeSelfSigned({});
  const std::string both = me.certificate_pem + me.key_pem;
  const auto tls = MakeServerTls({.tls = true, .certificate = File("both.pem", both)});
  ASSERT_TRUE(tls.ok()) << tls.status();
  EXPECT_EQ(tls->private_key_pem(), both);
}

TEST_F(TlsFlags, NamesOfTheBrokersStoreAreNoFiles) {
  const auto tls =
      MakeServerTls({.tls = true, .certificate = "store:www", .client_ca = "store:clients"});
  ASSERT_TRUE(tls.ok()) << tls.status();
  EXPECT_EQ(tls->identity_name(), "www");
  EXPECT_EQ(tls->ca_name(), "clients");
  EXPECT_TRUE(tls->certificate_pem().empty());
  EXPECT_THAT(Error(MakeServerTls({.tls = true, .certificate = "store:www", .key = "k"})),
              HasSubstr("leave --key out"));
}

TEST_F(TlsFlags, InsecureTakesAnyCertificateButStillAsksForTheHost) {
  const auto tls = MakeClientTls({.tls = true, .insecure = true}, "example.org");
  ASSERT_TRUE(tls.ok());
  EXPECT_EQ(tls->verify(), v1::TLS_VERIFY_NONE);
  EXPECT_EQ(tls->server_hostname(), "example.org");
}

TEST_F(TlsFlags, AUnixSocketNeedsANameUnlessNothingIsVerified) {
  EXPECT_THAT(Error(MakeClientTls({.tls = true}, "")), HasSubstr("--servername"));
  EXPECT_EQ(MakeClientTls({.tls = true, .server_name = "x"}, "")->server_hostname(), "x");
  const auto nobody = MakeClientTls({.tls = true, .server_name = ""}, "");
  EXPECT_TRUE(nobody->has_server_hostname());
  EXPECT_EQ(nobody->server_hostname(), "");
  EXPECT_TRUE(MakeClientTls({.tls = true, .insecure = true}, "").ok());
}

TEST_F(TlsFlags, WhatCannotBeUsedIsSaidWithTheFlag) {
  const std::string certificate = File("c", kCertificate);
  EXPECT_THAT(Error(MakeClientTls({.tls = true, .ca = "/nonexistent"}, "h")),
              HasSubstr("--cacert: /nonexistent: No such file"));
  EXPECT_THAT(Error(MakeClientTls({.tls = true, .ca = File("x", "0\x82")}, "h")),
              HasSubstr("not a PEM file"));
  EXPECT_THAT(Error(MakeClientTls({.tls = true, .ca = "/tmp"}, "h")), HasSubstr("/tmp"));
  EXPECT_THAT(Error(MakeClientTls({.tls = true, .key = "k"}, "h")), HasSubstr("needs --cert"));
  EXPECT_THAT(Error(MakeClientTls({.tls = true, .certificate = certificate}, "h")),
              HasSubstr("needs --key"));
  EXPECT_THAT(
      Error(MakeClientTls({.tls = true, .certificate = certificate, .key = certificate}, "h")),
      HasSubstr("holds no private key"));
  EXPECT_THAT(Error(MakeClientTls({.tls = true, .alpn = "h2,,x"}, "h")), HasSubstr("--alpn"));
  EXPECT_THAT(Error(MakeServerTls({.tls = true})), HasSubstr("--cert"));
}

TEST_F(TlsFlags, APemFileOfTheWrongKindIsNamedWithItsFlag) {
  const streams::TestCertificate me = streams::MakeSelfSigned({});
  const std::string certificate = File("me.crt", me.certificate_pem);
  const std::string key = File("me.key", me.key_pem);
  EXPECT_EQ(Error(MakeClientTls({.tls = true, .ca = key}, "h")),
            "--cacert: " + key + " holds no certificate");
  EXPECT_THAT(Error(MakeClientTls({.tls = true, .ca = File("bad", kCertificate)}, "h")),
              HasSubstr("/bad cannot be read: "));
  EXPECT_EQ(
      Error(MakeServerTls({.tls = true, .certificate = certificate, .key = key, .client_ca = key})),
      "--client-ca: " + key + " holds no certificate");
  EXPECT_EQ(Error(MakeServerTls({.tls = true, .certificate = key, .key = key})),
            "--cert: " + key + " holds no certificate");
  const std::string other = File("other.key", streams::MakeSelfSigned({}).key_pem);
  EXPECT_EQ(Error(MakeServerTls({.tls = true, .certificate = certificate, .key = other})),
            "--key: " + other + " is not the key of the certificate in " + certificate);
  EXPECT_THAT(
      Error(MakeServerTls({.tls = true, .certificate = certificate, .key = File("k", kKey)})),
      HasSubstr("--key: "));
}

TEST_F(TlsFlags, ANameInTheStoreMustBeText) {
  EXPECT_THAT(Error(MakeClientTls({.tls = true, .ca = "store:\xff"}, "h")), HasSubstr("--cacert"));
  EXPECT_THAT(Error(MakeServerTls({.tls = true, .certificate = "store:\xff"})),
              HasSubstr("--cert"));
}

TEST_F(TlsFlags, AKeyBehindAPassphraseSaysHowToOpenIt) {
  const ClientTlsFlags flags{
      .tls = true, .certificate = File("c", kCertificate), .key = File("k", kLocked)};
  EXPECT_THAT(Error(MakeClientTls(flags, "h")), HasSubstr("openssl pkey -in "));
}

TEST_F(TlsFlags, AnUnknownProtocolIsAnsweredWithTheRightOne) {
  EXPECT_THAT(Error(MakeClientTls({.starttls = "smpt"}, "h")), HasSubstr("did you mean 'smtp'?"));
  EXPECT_THAT(Error(MakeClientTls({.starttls = "gopher"}, "h")), HasSubstr("smtp, imap, pop3"));
  EXPECT_TRUE(MakeClientTls({.starttls = "xmpp"}, "h").ok());
}

TEST_F(TlsFlags, WithoutTlsNoFlagOfItHasAMeaning) {
  EXPECT_TRUE(CheckWithoutTls(ClientTlsFlags{}).ok());
  EXPECT_TRUE(CheckWithoutTls(ServerTlsFlags{}).ok());
  EXPECT_THAT(CheckWithoutTls(ClientTlsFlags{.insecure = true}).message(),
              HasSubstr("--insecure needs --tls or --starttls"));
  EXPECT_THAT(CheckWithoutTls(ClientTlsFlags{.server_name = ""}).message(),
              HasSubstr("--servername"));
  EXPECT_THAT(CheckWithoutTls(ServerTlsFlags{.client_ca = "x"}).message(),
              HasSubstr("--client-ca needs --tls"));
}

}  // namespace
}  // namespace sockbroker::client
