#include "server/control_tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "streams/testing/status_matchers.h"
#include "streams/testing/test_certificates.h"
#include "tests/server/temporary_directory.h"

namespace sockbroker::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ControlTlsTest : public ::testing::Test {
 protected:
  ControlTlsTest() {
    const streams::TestCertificate leaf = authority_.Issue({.dns_names = {"broker.example"}});
    files_ = {.certificate = Write("broker.crt", leaf.certificate_pem),
              .key = Write("broker.key", leaf.key_pem),
              .client_ca = Write("clients.ca", authority_.certificate_pem())};
  }

  std::string Write(const std::string& name, const std::string& content) {
    std::ofstream(directory_.path(name)) << content;
    return directory_.path(name);
  }

  TemporaryDirectory directory_;
  streams::TestAuthority authority_{"Test Root"};
  ControlTlsFiles files_;
};

TEST_F(ControlTlsTest, GoodFilesAreGood) {
  EXPECT_THAT(CheckControlTls(files_), streams::IsOk());
  EXPECT_NE(MakeTlsCredentials(files_), nullptr);
}

TEST_F(ControlTlsTest, AFileThatIsMissingIsNamed) {
  for (std::string ControlTlsFiles::* file :
       {&ControlTlsFiles::certificate, &ControlTlsFiles::key, &ControlTlsFiles::client_ca}) {
    ControlTlsFiles files = files_;
    files.*file = directory_.path("nowhere");
    const absl::Status status = CheckControlTls(files);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.message(), HasSubstr(directory_.path("nowhere")));
  }
}

TEST_F(ControlTlsTest, AKeyOfAnotherCertificateIsRefusedWithoutSayingIt) {
  const streams::TestCertificate other = authority_.Issue({.dns_names = {"other.example"}});
  files_.key = Write("other.key", other.key_pem);
  const absl::Status status = CheckControlTls(files_);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), AllOf(HasSubstr("--tls-key"), HasSubstr("private key")));
  EXPECT_EQ(status.message().find("BEGIN"), absl::string_view::npos);
}

TEST_F(ControlTlsTest, WhatIsNoPemIsRefused) {
  files_.client_ca = Write("empty.ca", "");
  EXPECT_FALSE(CheckControlTls(files_).ok());
  files_.client_ca =
      Write("key.ca", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n");
  EXPECT_FALSE(CheckControlTls(files_).ok());
}

}  // namespace
}  // namespace sockbroker::server
