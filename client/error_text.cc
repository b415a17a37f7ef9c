#include "client/error_text.h"

#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/broker_probe.h"
#include "client/cpp/status.h"
#include "client/endpoint_text.h"
#include "client/exit_status.h"
#include "client/tls_text.h"
#include "google/rpc/status.pb.h"

namespace sockbroker::client {
namespace {

std::string PhaseText(v1::Phase phase) {
  switch (phase) {
    case v1::PHASE_RESOLVE:
      return " while the name was looked up";
    case v1::PHASE_HANDSHAKE:
      return " in the TLS handshake";
    case v1::PHASE_SHUTDOWN:
      return " in the TLS shutdown";
    case v1::PHASE_IDLE:
      return ": nothing came or went";
    case v1::PHASE_HALF_CLOSE:
      return " after one direction had ended";
    case v1::PHASE_CLOSE:
      return " before everything was sent";
    case v1::PHASE_PROXY_HEADER:
      return " waiting for the PROXY header";
    default:
      return "";
  }
}

// The system's word for it; with several addresses that failed in different ways, each one's.
std::string SystemText(const v1::ErrorDetail& detail, absl::string_view otherwise) {
  std::vector<std::string> tried;
  bool alike = true;
  int first = detail.os_errno();
  for (const v1::Attempt& attempt : detail.attempts()) {
    if (attempt.os_errno() == 0) continue;
    if (first == 0) first = attempt.os_errno();
    alike = alike && attempt.os_errno() == first;
    tried.push_back(
        absl::StrCat(EndpointText(attempt.endpoint()), ": ", ErrnoText(attempt.os_errno())));
  }
  if (!alike && tried.size() > 1) return absl::StrJoin(tried, "; ");
  return first == 0 ? std::string(otherwise) : ErrnoText(first);
}

int FirstErrno(const v1::ErrorDetail& detail) {
  if (detail.os_errno() != 0) return detail.os_errno();
  for (const v1::Attempt& attempt : detail.attempts()) {
    if (attempt.os_errno() != 0) return attempt.os_errno();
  }
  return 0;
}

std::string LimitText(const v1::ErrorDetail& detail, absl::string_view otherwise) {
  std::string text = "the broker is at its limit";
  if (!detail.limit_name().empty()) {
    absl::StrAppend(&text, " (", detail.limit_name(), " = ", detail.limit_value(), ")");
  } else if (!otherwise.empty()) {
    absl::StrAppend(&text, " (", otherwise, ")");
  }
  absl::StrAppend(&text, "; close what is not needed");
  if (detail.has_retry_after() && detail.retry_after().seconds() > 0) {
    absl::StrAppend(&text, " or try again in ", detail.retry_after().seconds(), " s");
  }
  return text;
}

std::string BindText(const v1::ErrorDetail& detail) {
  std::string text = SystemText(detail, "the address cannot be bound");
  if (FirstErrno(detail) == EADDRNOTAVAIL) text += "; the broker's machine has no such address";
  return text;
}

// What fills the field of a request, in the words of the command line.
struct FlagOfField {
  absl::string_view field;
  absl::string_view flag;
};
constexpr FlagOfField kFlags[] = {
    {"host", "HOST"},
    {"hosts", "HOST"},
    {"port", "PORT"},
    {"service", "PORT"},
    {"path", "PATH"},
    {"family", "-4 or -6"},
    {"local_host", "-s"},
    {"local_port", "-p"},
    {"labels", "-l"},
    {"options.labels", "-l"},
    {"options.accepted.labels", "-l"},
    {"options.name", "--name"},
    {"options.lease", "--lease"},
    {"options.accepted.lease", "--lease"},
    {"options.timeouts.connect", "-w"},
    {"server", "--server"},
    {"tls.handshake_timeout", "-w"},
    {"tls.ca_pem", "--cacert or --client-ca"},
    {"tls.ca_name", "the store:NAME of --cacert or --client-ca"},
    {"tls.certificate_pem", "--cert"},
    {"tls.private_key_pem", "--key"},
    {"tls.identity_name", "the store:NAME of --cert"},
    {"tls.server_hostname", "--servername"},
    {"tls.alpn", "--alpn"},
};

std::string FieldText(const v1::ErrorDetail& detail, const std::string& message) {
  if (detail.field().empty()) return message;
  absl::string_view name = detail.field();
  for (const FlagOfField& flag : kFlags) {
    if (flag.field == name) name = flag.flag;
  }
  absl::string_view allowed = detail.allowed();
  if (allowed.empty()) return absl::StrCat(name, ": ", message);
  // The engine's sentences begin with its own name for the option.
  for (const absl::string_view own :
       {"server_hostname", "alpn:", "ca:", "private key:", "certificate chain:", "certificate:"}) {
    if (absl::ConsumePrefix(&allowed, own)) {
      return absl::StrCat(name, absl::EndsWith(own, ":") ? ":" : "", allowed);
    }
  }
  return absl::StrCat(name, " must be ", allowed);
}

std::string WithoutDetail(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "timed out";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "what answers there does not know this call: no sockbrokerd, or an older one";
    case grpc::StatusCode::UNAVAILABLE:
      return absl::StrCat("the broker cannot be reached (", status.error_message(), ")");
    default:
      return status.error_message().empty()
                 ? absl::StrCat("gRPC status ", static_cast<int>(status.error_code()))
                 : status.error_message();
  }
}

}  // namespace

absl::optional<v1::ErrorDetail> DetailOf(const grpc::Status& status) {
  google::rpc::Status rich;
  if (status.ok() || status.error_details().empty() ||
      !rich.ParseFromString(status.error_details())) {
    return absl::nullopt;
  }
  for (const google::protobuf::Any& any : rich.details()) {
    v1::ErrorDetail detail;
    if (any.Is<v1::ErrorDetail>() && any.UnpackTo(&detail)) return detail;
  }
  return absl::nullopt;
}

v1::Reason ReasonOf(const grpc::Status& status) {
  const absl::optional<v1::ErrorDetail> detail = DetailOf(status);
  return detail.has_value() ? detail->reason() : v1::REASON_UNSPECIFIED;
}

std::string CloseReasonText(v1::Reason reason) {
  switch (reason) {
    case v1::CLOSED_BY_CLIENT:
      return "it was closed";
    case v1::ABORTED_BY_CLIENT:
      return "it was aborted";
    case v1::LEASE_EXPIRED:
      return "its lease ran out";
    case v1::BROKER_STOPPED:
      return "the broker stopped";
    case v1::ENDED_BY_TIMEOUT:
    case v1::TIMED_OUT:
      return "timed out";
    case v1::CLOSED_BY_SERVER:
      return "its server's clients were closed";
    case v1::ENDED_BY_PEER:
      return "the peer ended it";
    case v1::CONNECTION_RESET:
      return "Connection reset by peer";
    case v1::UNREACHABLE:
      return "the network became unreachable";
    case v1::TLS_FAILED:
      return "TLS failed";
    case v1::TLS_TRUNCATED:
      return "the peer ended without a TLS close_notify";
    default:
      return absl::AsciiStrToLower(v1::Reason_Name(reason));
  }
}

std::string CauseText(const grpc::Status& status) {
  const absl::optional<v1::ErrorDetail> detail = DetailOf(status);
  if (!detail.has_value()) return WithoutDetail(status);
  switch (detail->reason()) {
    case v1::CONNECTION_REFUSED:
      return SystemText(*detail, "Connection refused");
    case v1::UNREACHABLE:
      return SystemText(*detail, "Network is unreachable");
    case v1::CONNECTION_RESET:
      return SystemText(*detail, "Connection reset by peer");
    case v1::OS_ERROR:
      return SystemText(*detail, status.error_message());
    case v1::NAME_NOT_FOUND:
      return detail->resolver_error().empty() ? "Name or service not known"
                                              : detail->resolver_error();
    case v1::BIND_FAILED:
      return BindText(*detail);
    case v1::TLS_FAILED:
      return TlsCauseText(status.error_message(), detail->tls_verify_result());
    case v1::TIMED_OUT:
      return absl::StrCat("timed out", PhaseText(detail->phase()));
    case v1::POLICY:
      return absl::StrCat(
          "the broker's policy forbids it",
          detail->rule().empty() ? "" : absl::StrCat(" (rule ", detail->rule(), ")"));
    case v1::NO_SUCH_HANDLE:
      return "no such connection or server; `sockbroker ls` and `sockbroker servers` list what "
             "there is";
    case v1::WRONG_BROKER:
      return "it belongs to another broker; name that one with -b ADDRESS";
    case v1::LOST:
      return "the broker was restarted, and its sockets are gone";
    case v1::CLOSED:
      return detail->close_reason() == v1::REASON_UNSPECIFIED
                 ? "the connection is closed"
                 : absl::StrCat("the connection is closed: ",
                                CloseReasonText(detail->close_reason()));
    case v1::SERVER_CLOSED:
      return "the server was closed";
    case v1::BOUND:
      return "another client has it; --steal takes it over";
    case v1::STALE_EPOCH:
      return "another client has taken it over";
    case v1::READ_PENDING:
      return "somebody else reads from it";
    case v1::OTHER_WRITER:
      return "somebody else has written to it meanwhile";
    case v1::DESCRIPTOR_RESERVE:
    case v1::QUOTA:
    case v1::BUDGET:
      return LimitText(*detail, detail->reason() == v1::DESCRIPTOR_RESERVE ? "descriptors" : "");
    case v1::DRAINING:
      return "the broker is shutting down and opens nothing new";
    case v1::INVALID_FIELD:
      return FieldText(*detail, status.error_message());
    default:
      return status.error_message().empty()
                 ? absl::AsciiStrToLower(v1::Reason_Name(detail->reason()))
                 : status.error_message();
  }
}

std::string ErrorLine(absl::string_view action, const grpc::Status& status) {
  return absl::StrCat(action, " failed: ", CauseText(status));
}

std::string BindAdvice(const grpc::Status& status, Bound what) {
  const absl::optional<v1::ErrorDetail> detail = DetailOf(status);
  if (!detail.has_value() || detail->reason() != v1::BIND_FAILED) return "";
  const int error = FirstErrno(*detail);
  if (error == EADDRINUSE) {
    switch (what) {
      case Bound::kPort:
        return "; port 0 takes a free one, and `sockbroker servers` shows whether a listener of "
               "yours has it";
      case Bound::kPath:
        return "; `sockbroker servers` shows whether a listener of yours has it";
      case Bound::kSource:
        return "; without -p it is a free port";
    }
  }
  if (error == EACCES || error == EPERM) {
    return what == Bound::kPath
               ? "; the broker may not make a socket there"
               : "; the broker may not bind this (ports below 1024 need CAP_NET_BIND_SERVICE)";
  }
  return "";
}

std::string NoBrokerText(const BrokerAddress& address, const grpc::Status& status) {
  const int error = address.ProbeErrno();
  std::string cause;
  if (error != 0) {
    cause = ErrnoText(error);
  } else {
    const bool silent = status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
    cause = silent || status.error_message().empty() ? "no answer" : status.error_message();
  }
  if (!address.is_unix() && status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED) {
    const std::string why = WhyNoBroker(address);
    if (!why.empty()) return absl::StrCat("no broker at ", address.text(), ": ", why);
  }
  const std::string what = absl::StrCat("no broker at ", address.text(), ": ", cause, "; ");
  if (error == EACCES)
    return what + "run as the user who started it, or name another with -b ADDRESS";
  return what + "start `sockbrokerd`, or name another with -b ADDRESS or SOCKBROKER_ADDRESS";
}

bool IsBrokenLink(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return ReasonOf(status) == v1::REASON_UNSPECIFIED;
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::INTERNAL:
      // What a gRPC server that is torn down, or a stream reset on the way, shows as. The broker's
      // own come with a detail.
      return !DetailOf(status).has_value();
    default:
      return false;
  }
}

int ExitStatusOf(const grpc::Status& status) {
  if (status.ok()) return kExitOk;
  return IsBrokenLink(status) || ReasonOf(status) == v1::DRAINING ? kExitNoBroker : kExitFailed;
}

absl::Status ToAbslStatus(const BrokerAddress& address, absl::string_view action,
                          const grpc::Status& status, absl::string_view advice) {
  if (status.ok()) return absl::OkStatus();
  if (IsBrokenLink(status)) return absl::UnavailableError(NoBrokerText(address, status));
  // The two libraries number their codes alike. What a user typed is judged here, not by the
  // broker's code.
  auto code = static_cast<absl::StatusCode>(status.error_code());
  if (code == absl::StatusCode::kInvalidArgument) code = absl::StatusCode::kFailedPrecondition;
  return {code, absl::StrCat(ErrorLine(action, status), advice)};
}

int ExitStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kUnavailable:
      return kExitNoBroker;
    default:
      return kExitFailed;
  }
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(status.message());
  if (GetStreamEnd(status) == StreamEnd::kGivenUp) {
    return {grpc::StatusCode::UNAVAILABLE, message};
  }
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::optional<v1::ErrorDetail> detail = GetErrorDetail(status);
  return detail.has_value() ? MakeStatus(code, message, *detail) : grpc::Status(code, message);
}

std::string ErrnoText(int error) {
  char buffer[128];
  // The GNU form: it may return a constant instead of filling the buffer.
  return strerror_r(error, buffer, sizeof(buffer));
}

grpc::Status MakeStatus(grpc::StatusCode code, absl::string_view message,
                        const v1::ErrorDetail& detail) {
  google::rpc::Status rich;
  rich.set_code(code);
  rich.set_message(std::string(message));
  rich.add_details()->PackFrom(detail);
  return {code, std::string(message), rich.SerializeAsString()};
}

}  // namespace sockbroker::client
