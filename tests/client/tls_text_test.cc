#include "client/tls_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sockbroker::client {
namespace {

using testing::HasSubstr;

constexpr int64_t kDay = 86400;

v1::Certificate ValidFor(int64_t from_day, int64_t to_day) {
  v1::Certificate certificate;
  certificate.mutable_not_before()->set_seconds(from_day * kDay);
  certificate.mutable_not_after()->set_seconds(to_day * kDay);
  return certificate;
}

absl::Time Day(int64_t day) { return absl::FromUnixSeconds(day * kDay); }

TEST(TlsText, ACertificatesEndIsSaidFromToday) {
  const v1::Certificate certificate = ValidFor(10, 100);
  EXPECT_EQ(ExpiryText(certificate, Day(88)), "expires in 12 days");
  EXPECT_EQ(ExpiryText(certificate, Day(99)), "expires in 24 hours");
  EXPECT_EQ(ExpiryText(certificate, Day(100) - absl::Seconds(90)), "expires in 1 minute");
  EXPECT_EQ(ExpiryText(certificate, Day(103)), "expired 3 days ago");
  EXPECT_EQ(ExpiryText(certificate, Day(9)), "not valid before 1970-01-11");
  EXPECT_EQ(ValidityText(certificate, Day(50)), "1970-01-11 to 1970-04-11 (expires in 50 days)");
}

TEST(TlsText, WhatWasAgreedIsOneLine) {
  v1::TlsInfo tls;
  tls.set_version("TLSv1.3");
  tls.mutable_cipher()->set_name("TLS_AES_128_GCM_SHA256");
  EXPECT_EQ(TlsSummary(tls), "TLSv1.3, TLS_AES_128_GCM_SHA256");
  tls.set_alpn("h2");
  tls.set_resumed(true);
  EXPECT_EQ(TlsSummary(tls), "TLSv1.3, TLS_AES_128_GCM_SHA256, ALPN h2, resumed");
}

TEST(TlsText, WhatWasNotVerifiedIsNotOk) {
  v1::TlsInfo tls;
  EXPECT_EQ(VerifyText(tls), "the peer showed no certificate");
  tls.add_peer_certificates();
  EXPECT_EQ(VerifyText(tls), "ok");
  tls.set_verify_code(10);
  tls.set_verify_text("certificate has expired");
  EXPECT_EQ(VerifyText(tls), "not verified: certificate has expired");
}

TEST(TlsText, AFailureSaysWhatToDoNext) {
  EXPECT_EQ(TlsCauseText("certificate verify failed", "self-signed certificate"),
            "the certificate is not accepted: self-signed certificate; --cacert FILE trusts it, -k "
            "goes without verification");
  EXPECT_THAT(TlsCauseText("", "unable to get local issuer certificate"), HasSubstr("--cacert"));
  EXPECT_THAT(TlsCauseText("", "hostname mismatch"), HasSubstr("--servername"));
  EXPECT_THAT(TlsCauseText("", "IP address mismatch"), HasSubstr("--servername"));
  EXPECT_EQ(TlsCauseText("", "CA signature digest algorithm too weak"),
            "the certificate is not accepted: CA signature digest algorithm too weak; -k goes "
            "without verification");
  EXPECT_THAT(TlsCauseText("wrong version number", ""), HasSubstr("--starttls"));
  EXPECT_THAT(TlsCauseText("tlsv13 alert certificate required", ""), HasSubstr("--cert"));
  EXPECT_THAT(TlsCauseText("tlsv1 alert no application protocol", ""), HasSubstr("--alpn"));
  EXPECT_EQ(TlsCauseText("internal error", ""), "internal error");
}

}  // namespace
}  // namespace sockbroker::client
