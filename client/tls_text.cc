#include "client/tls_text.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/seconds.h"

namespace sockbroker::client {
namespace {

std::string Count(int64_t count, absl::string_view unit) {
  return absl::StrCat(count, " ", unit, count == 1 ? "" : "s");
}

std::string LongText(absl::Duration duration) {
  if (duration >= absl::Hours(48)) return Count(duration / absl::Hours(24), "day");
  if (duration >= absl::Hours(2)) return Count(duration / absl::Hours(1), "hour");
  return Count(duration / absl::Minutes(1), "minute");
}

std::string Day(const google::protobuf::Timestamp& timestamp) {
  return absl::FormatTime("%Y-%m-%d", ToTime(timestamp), absl::UTCTimeZone());
}

struct Hint {
  absl::string_view word;
  absl::string_view advice;
};

// By X509_verify_cert_error_string's words.
constexpr Hint kVerifyHints[] = {
    {"mismatch", "; --servername NAME says whom it is for"},
    {"has expired", "; it must be renewed"},
    {"not yet valid", "; a clock may be wrong"},
    {"self-signed", "; --cacert FILE trusts it"},
    {"self signed", "; --cacert FILE trusts it"},
    {"issuer certificate", "; --cacert FILE names who vouches for it"},
    {"unable to verify the first certificate", "; --cacert FILE names who vouches for it"},
};

// By the words of OpenSSL's reasons.
constexpr Hint kFailureHints[] = {
    {"wrong version number",
     "; the peer speaks no TLS here: leave --tls out, or upgrade with --starttls PROTOCOL"},
    {"packet length too long",
     "; the peer speaks no TLS here: leave --tls out, or upgrade with --starttls PROTOCOL"},
    {"http request", "; the peer speaks HTTP without TLS"},
    {"certificate required", "; the peer demands a certificate: --cert FILE --key FILE"},
    {"alert handshake failure",
     "; the peer found nothing in common, or demands a certificate: --cert FILE --key FILE"},
    {"alert bad certificate", "; the peer does not accept our certificate: see --cert"},
    {"alert unknown ca", "; the peer trusts nobody who vouches for our certificate: see --cert"},
    {"alert certificate unknown", "; the peer does not accept our certificate: see --cert"},
    {"alert certificate expired", "; our certificate must be renewed: see --cert"},
    {"unrecognized name", "; the peer knows no such name: see --servername"},
    {"no application protocol", "; the peer speaks none of these protocols: see --alpn"},
    {"protocol version", "; the peer speaks neither TLS 1.2 nor 1.3"},
    {"unsupported protocol", "; the peer speaks neither TLS 1.2 nor 1.3"},
};

template <std::size_t kCount>
absl::string_view AdviceFor(absl::string_view text, const Hint (&hints)[kCount]) {
  for (const Hint& hint : hints) {
    if (absl::StrContains(text, hint.word)) return hint.advice;
  }
  return "";
}

}  // namespace

std::string TlsSummary(const v1::TlsInfo& tls) {
  std::string text = absl::StrCat(tls.version(), ", ", tls.cipher().name());
  if (!tls.alpn().empty()) absl::StrAppend(&text, ", ALPN ", tls.alpn());
  if (tls.resumed()) absl::StrAppend(&text, ", resumed");
  return text;
}

std::string VerifyText(const v1::TlsInfo& tls) {
  if (tls.verify_code() != 0) return absl::StrCat("not verified: ", tls.verify_text());
  return tls.peer_certificates().empty() ? "the peer showed no certificate" : "ok";
}

std::string ExpiryText(const v1::Certificate& certificate, absl::Time now) {
  const absl::Time end = ToTime(certificate.not_after());
  if (now >= end) return absl::StrCat("expired ", LongText(now - end), " ago");
  if (now < ToTime(certificate.not_before())) {
    return absl::StrCat("not valid before ", Day(certificate.not_before()));
  }
  return absl::StrCat("expires in ", LongText(end - now));
}

std::string ValidityText(const v1::Certificate& certificate, absl::Time now) {
  return absl::StrCat(Day(certificate.not_before()), " to ", Day(certificate.not_after()), " (",
                      ExpiryText(certificate, now), ")");
}

std::string TlsCauseText(absl::string_view message, absl::string_view verify_result) {
  if (verify_result.empty()) return absl::StrCat(message, AdviceFor(message, kFailureHints));
  const absl::string_view advice = AdviceFor(verify_result, kVerifyHints);
  return absl::StrCat("the certificate is not accepted: ", verify_result, advice,
                      advice.empty() ? "; " : ", ", "-k goes without verification");
}

}  // namespace sockbroker::client
