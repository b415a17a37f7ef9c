// What asyncio carries in an exception's attributes travels in the payloads of an absl::Status;
// these functions put it there and take it out.
//
//   absl::StatusOr<absl::Cord> line = co_await reader.ReadUntil("\r\n");
//   // IncompleteReadError.partial, LimitOverrunError.consumed, OSError.errno:
//   if (auto incomplete = GetIncompleteRead(line.status())) use(incomplete->partial);
//   if (auto overrun = GetLimitOverrun(line.status())) skip(overrun->consumed);
//   if (GetErrno(line.status()) == ECONNRESET) ...
//
// Codes: kInvalidArgument is ValueError and TypeError, kFailedPrecondition RuntimeError (wrong
// state), kUnavailable an OSError of the network (GetErrno), kNotFound socket.gaierror, kOutOfRange
// IncompleteReadError, kResourceExhausted LimitOverrunError, kCancelled and kDeadlineExceeded
// cancellation and time-outs.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "streams/address.h"

namespace sockbroker::streams {

// An OSError: kUnavailable, "<context>: [errno N] <text>", with the errno. `context` names the call
// or address.
absl::Status ErrnoToStatus(int os_errno, absl::string_view context);
// The errno of a status that has one, else 0.
int GetErrno(const absl::Status& status);

// asyncio.IncompleteReadError: EOF came first.
struct IncompleteRead {
  absl::Cord partial;                   // all there was; taken out of the reader's buffer
  std::optional<std::size_t> expected;  // none for readuntil
};
absl::Status IncompleteReadError(absl::Cord partial, std::optional<std::size_t> expected);
std::optional<IncompleteRead> GetIncompleteRead(const absl::Status& status);

// asyncio.LimitOverrunError: the separator isn't within the limit; the buffer is unchanged.
struct LimitOverrun {
  std::size_t consumed;  // so many bytes can be skipped with ReadExactly
};
absl::Status LimitOverrunError(absl::string_view message, std::size_t consumed);
std::optional<LimitOverrun> GetLimitOverrun(const absl::Status& status);

// socket.gaierror: a name that can't be resolved. `GetResolverError` gives the resolver's words.
absl::Status ResolveError(absl::string_view name, absl::string_view reason);
std::optional<std::string> GetResolverError(const absl::Status& status);

// Which time-out of the engine's own passed ("connect", "close", ...); none for a caller's.
absl::Status PhaseTimeoutError(absl::string_view phase, absl::string_view message);
std::optional<std::string> GetTimeoutPhase(const absl::Status& status);

// ssl.SSLError and SSLCertVerificationError: the TLS handshake or a record failed. kUnavailable.
absl::Status TlsError(absl::string_view reason);
bool IsTlsError(const absl::Status& status);
struct TlsVerifyFailure {
  int code;  // X509_V_ERR_*
  std::string
      text;  // "certificate has expired", "self-signed certificate", "hostname mismatch", ...
};
absl::Status TlsVerifyError(int code, absl::string_view text);
std::optional<TlsVerifyFailure> GetTlsVerifyFailure(const absl::Status& status);
// The peer ended TLS without close_notify, and that was required.
absl::Status TlsTruncatedError();
bool IsTlsTruncated(const absl::Status& status);

// One failed attempt to reach or bind an address.
struct AttemptFailure {
  SocketAddress address;
  int os_errno = 0;
  std::string message;
};
// asyncio's rule for several failures (one: that very error; all alike: the first; else "Multiple
// exceptions: ..."), with every attempt kept, in order.
absl::Status AttemptsError(std::vector<AttemptFailure> attempts);
std::vector<AttemptFailure> GetAttempts(const absl::Status& status);

}  // namespace sockbroker::streams
