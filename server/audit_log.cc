#include "server/audit_log.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/json_string.h"

namespace sockbroker::server {
namespace {

absl::string_view KindName(AuditEvent::Kind kind) {
  switch (kind) {
    case AuditEvent::Kind::kOpen:
      return "open";
    case AuditEvent::Kind::kRefusal:
      return "refusal";
    case AuditEvent::Kind::kClose:
      return "close";
  }
  return "";
}

void AppendText(absl::string_view key, absl::string_view value, std::string* line) {
  if (value.empty()) return;
  absl::StrAppend(line, ",\"", key, "\":");
  AppendJsonString(value, line);
}

template <typename Number>
void AppendNumber(absl::string_view key, Number value, std::string* line) {
  absl::StrAppend(line, ",\"", key, "\":", value);
}

}  // namespace

std::string FormatAuditEvent(const AuditEvent& event, absl::Time now) {
  std::string line = absl::StrCat(
      "{\"time\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", now, absl::UTCTimeZone()), "\"");
  AppendText("audit", KindName(event.kind), &line);
  AppendText("object", event.object, &line);
  AppendText("rpc", event.rpc, &line);
  AppendText("principal", event.principal, &line);
  AppendText("handle", absl::BytesToHexString(event.handle), &line);
  AppendText("server", absl::BytesToHexString(event.server), &line);
  AppendText("requested", event.requested, &line);
  AppendText("peer", event.peer, &line);
  AppendText("local", event.local, &line);
  AppendText("reason", event.reason, &line);
  AppendText("message", event.message, &line);
  if (event.os_errno != 0) AppendNumber("errno", event.os_errno, &line);
  AppendText("traceparent", event.traceparent, &line);
  if (event.bytes_read) AppendNumber("bytes_read", *event.bytes_read, &line);
  if (event.bytes_written) AppendNumber("bytes_written", *event.bytes_written, &line);
  if (event.lifetime)
    AppendNumber("lifetime_ms", absl::ToInt64Milliseconds(*event.lifetime), &line);
  line.push_back('}');
  return line;
}

AuditLog::AuditLog(std::function<void(const std::string& line)> sink) : sink_(std::move(sink)) {}

void AuditLog::Record(const AuditEvent& event) const {
  sink_(FormatAuditEvent(event, absl::Now()));
}

}  // namespace sockbroker::server
