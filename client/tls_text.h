// What was agreed on by TLS, and whose certificate it was, as people read it; and why TLS failed,
// with what to do about it.
//
//   TlsSummary(tls)    ->  "TLSv1.3, TLS_AES_256_GCM_SHA384, ALPN h2"
//   ValidityText(certificate, absl::Now())
//       ->  "2026-01-01 to 2026-03-31 (expires in 12 days)"
//   TlsCauseText("certificate verify failed", "certificate has expired")
//       ->  "the certificate is not accepted: certificate has expired; ..."
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "sockbroker/v1/tls.pb.h"

namespace sockbroker::client {

std::string TlsSummary(const v1::TlsInfo& tls);
// "ok", "ok (there was none to verify)", or what would have been wrong: "not verified: ...".
std::string VerifyText(const v1::TlsInfo& tls);
// "expires in 12 days", "expires in 5 hours", "expired 3 days ago", "not valid before 2026-01-01".
std::string ExpiryText(const v1::Certificate& certificate, absl::Time now);
std::string ValidityText(const v1::Certificate& certificate, absl::Time now);

// `message`: the broker's; `verify_result`: empty when it was not the certificate.
std::string TlsCauseText(absl::string_view message, absl::string_view verify_result);

}  // namespace sockbroker::client
