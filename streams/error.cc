#include "streams/error.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sockbroker::streams {
namespace {

constexpr char kErrnoUrl[] = "sockbroker.streams/errno";
constexpr char kPartialUrl[] = "sockbroker.streams/partial";
constexpr char kExpectedUrl[] = "sockbroker.streams/expected";
constexpr char kConsumedUrl[] = "sockbroker.streams/consumed";
constexpr char kResolverUrl[] = "sockbroker.streams/resolver";
constexpr char kPhaseUrl[] = "sockbroker.streams/phase";
constexpr char kTlsUrl[] = "sockbroker.streams/tls";
constexpr char kTlsVerifyUrl[] = "sockbroker.streams/tls_verify";
constexpr char kAttemptsUrl[] = "sockbroker.streams/attempts";

constexpr char kTruncated[] = "the peer ended the connection without close_notify";

void SetNumber(absl::Status* status, const char* url, uint64_t number) {
  status->SetPayload(url, absl::Cord(absl::StrCat(number)));
}

std::optional<uint64_t> GetNumber(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  uint64_t number = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &number)) {
    return std::nullopt;
  }
  return number;
}

// The attempts' payload is private to this file: per attempt the errno, the address and the text,
// each with its length in front.
void AppendField(std::string* out, absl::string_view field) {
  absl::StrAppend(out, field.size(), ":");
  out->append(field.data(), field.size());
}

std::string TakeField(absl::string_view* in) {
  std::size_t size = 0;
  const std::size_t colon = in->find(':');
  if (colon == absl::string_view::npos || !absl::SimpleAtoi(in->substr(0, colon), &size)) return "";
  std::string field(in->substr(colon + 1, size));
  in->remove_prefix(std::min(colon + 1 + size, in->size()));
  return field;
}

}  // namespace

absl::Status ErrnoToStatus(int os_errno, absl::string_view context) {
  absl::Status status = absl::UnavailableError(
      absl::StrCat(context, ": [errno ", os_errno, "] ", strerrordesc_np(os_errno)));
  SetNumber(&status, kErrnoUrl, static_cast<uint64_t>(os_errno));
  return status;
}

int GetErrno(const absl::Status& status) {
  return static_cast<int>(GetNumber(status, kErrnoUrl).value_or(0));
}

absl::Status IncompleteReadError(absl::Cord partial, std::optional<std::size_t> expected) {
  absl::Status status = absl::OutOfRangeError(absl::StrCat(
      partial.size(), " bytes read on a total of ",
      expected.has_value() ? absl::StrCat(*expected) : "undefined", " expected bytes"));
  status.SetPayload(kPartialUrl, std::move(partial));
  if (expected.has_value()) SetNumber(&status, kExpectedUrl, *expected);
  return status;
}

std::optional<IncompleteRead> GetIncompleteRead(const absl::Status& status) {
  auto partial = status.GetPayload(kPartialUrl);
  if (!partial.has_value()) return std::nullopt;
  IncompleteRead incomplete;
  incomplete.partial = *std::move(partial);
  if (const auto expected = GetNumber(status, kExpectedUrl)) incomplete.expected = *expected;
  return incomplete;
}

absl::Status LimitOverrunError(absl::string_view message, std::size_t consumed) {
  absl::Status status = absl::ResourceExhaustedError(message);
  SetNumber(&status, kConsumedUrl, consumed);
  return status;
}

std::optional<LimitOverrun> GetLimitOverrun(const absl::Status& status) {
  const auto consumed = GetNumber(status, kConsumedUrl);
  if (!consumed.has_value()) return std::nullopt;
  return LimitOverrun{*consumed};
}

absl::Status ResolveError(absl::string_view name, absl::string_view reason) {
  absl::Status status = absl::NotFoundError(absl::StrCat("cannot resolve '", name, "': ", reason));
  status.SetPayload(kResolverUrl, absl::Cord(reason));
  return status;
}

std::optional<std::string> GetResolverError(const absl::Status& status) {
  const auto reason = status.GetPayload(kResolverUrl);
  if (!reason.has_value()) return std::nullopt;
  return std::string(*reason);
}

absl::Status PhaseTimeoutError(absl::string_view phase, absl::string_view message) {
  absl::Status status = absl::DeadlineExceededError(message);
  status.SetPayload(kPhaseUrl, absl::Cord(phase));
  return status;
}

std::optional<std::string> GetTimeoutPhase(const absl::Status& status) {
  const auto phase = status.GetPayload(kPhaseUrl);
  if (!phase.has_value()) return std::nullopt;
  return std::string(*phase);
}

absl::Status TlsError(absl::string_view reason) {
  absl::Status status = absl::UnavailableError(absl::StrCat("TLS: ", reason));
  status.SetPayload(kTlsUrl, absl::Cord(reason));
  return status;
}

bool IsTlsError(const absl::Status& status) { return status.GetPayload(kTlsUrl).has_value(); }

absl::Status TlsVerifyError(int code, absl::string_view text) {
  absl::Status status = TlsError(absl::StrCat("certificate verify failed: ", text));
  status.SetPayload(kTlsVerifyUrl, absl::Cord(absl::StrCat(code, " ", text)));
  return status;
}

std::optional<TlsVerifyFailure> GetTlsVerifyFailure(const absl::Status& status) {
  const auto payload = status.GetPayload(kTlsVerifyUrl);
  if (!payload.has_value()) return std::nullopt;
  const std::string encoded(*payload);
  const std::size_t space = encoded.find(' ');
  TlsVerifyFailure failure{0, encoded.substr(space + 1)};
  if (!absl::SimpleAtoi(encoded.substr(0, space), &failure.code)) return std::nullopt;
  return failure;
}

absl::Status TlsTruncatedError() { return TlsError(kTruncated); }

bool IsTlsTruncated(const absl::Status& status) {
  const auto payload = status.GetPayload(kTlsUrl);
  return payload.has_value() && *payload == kTruncated;
}

absl::Status AttemptsError(std::vector<AttemptFailure> attempts) {
  const bool all_alike = std::all_of(
      attempts.begin(), attempts.end(),
      [&](const AttemptFailure& attempt) { return attempt.message == attempts.front().message; });
  std::string message;
  if (attempts.empty()) {
    message = "no address to try";
  } else if (all_alike) {
    message = attempts.front().message;
  } else {
    message = absl::StrCat(
        "Multiple exceptions: ",
        absl::StrJoin(attempts, ", ", [](std::string* out, const AttemptFailure& attempt) {
          out->append(attempt.message);
        }));
  }
  absl::Status status = absl::UnavailableError(message);
  // asyncio: several different errors have no errno of their own.
  if (!attempts.empty() && all_alike && attempts.front().os_errno != 0) {
    SetNumber(&status, kErrnoUrl, static_cast<uint64_t>(attempts.front().os_errno));
  }
  std::string encoded;
  for (const AttemptFailure& attempt : attempts) {
    AppendField(&encoded, absl::StrCat(attempt.os_errno));
    AppendField(&encoded, absl::string_view(reinterpret_cast<const char*>(attempt.address.data()),
                                            attempt.address.size()));
    AppendField(&encoded, attempt.message);
  }
  status.SetPayload(kAttemptsUrl, absl::Cord(std::move(encoded)));
  return status;
}

std::vector<AttemptFailure> GetAttempts(const absl::Status& status) {
  std::vector<AttemptFailure> attempts;
  const auto payload = status.GetPayload(kAttemptsUrl);
  if (!payload.has_value()) return attempts;
  const std::string encoded(*payload);
  absl::string_view rest = encoded;
  while (!rest.empty()) {
    AttemptFailure attempt;
    if (!absl::SimpleAtoi(TakeField(&rest), &attempt.os_errno)) break;
    const std::string address = TakeField(&rest);
    if (!address.empty()) {
      attempt.address =
          SocketAddress::FromSockaddr(reinterpret_cast<const sockaddr*>(address.data()),
                                      static_cast<socklen_t>(address.size()));
    }
    attempt.message = TakeField(&rest);
    attempts.push_back(std::move(attempt));
  }
  return attempts;
}

}  // namespace sockbroker::streams
