// AuditLog: one line of JSON for each thing the broker opened, refused or closed for somebody. Who,
// what and why; never payload, never a secret.
//
//   audit->Record({.kind = AuditEvent::Kind::kOpen, .rpc = "OpenConnection",
//                  .principal = "uid:1000", .handle = handle,
//                  .requested = "example.org:443", .peer = "192.0.2.7:443"});
//   // {"time":"2026-01-02T03:04:05.678Z","audit":"open","rpc":"OpenConnection",...}
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace sockbroker::server {

// What is empty or absent is left out of the line. The views are read during Record only.
struct AuditEvent {
  enum class Kind {
    kOpen,     // a connection was opened or accepted, or a server started
    kRefusal,  // it was asked for and not given
    kClose,    // it is gone
  };
  Kind kind = Kind::kOpen;
  // "connection" or "server".
  absl::string_view object = "connection";
  // The method that asked, "OpenConnection"; for kClose the one that had opened.
  absl::string_view rpc;
  absl::string_view principal;
  // The bytes; written as hexadecimal.
  absl::string_view handle;
  // The handle of the server that a connection came from.
  absl::string_view server;
  // What the caller named: "example.org:443", a path.
  absl::string_view requested;
  absl::string_view peer;
  absl::string_view local;
  // Of a refusal or close: the contract's Reason by name, and the system's error.
  absl::string_view reason;
  absl::string_view message;
  int os_errno = 0;
  absl::string_view traceparent;
  // Of a close.
  std::optional<uint64_t> bytes_read;
  std::optional<uint64_t> bytes_written;
  std::optional<absl::Duration> lifetime;
};

class AuditLog {
 public:
  // `sink` gets each line, without its line feed, on the thread that records; it must be safe from
  // every thread and quick.
  explicit AuditLog(std::function<void(const std::string& line)> sink);

  // Any thread.
  void Record(const AuditEvent& event) const;

 private:
  const std::function<void(const std::string& line)> sink_;
};

// The line that Record writes. For tests.
std::string FormatAuditEvent(const AuditEvent& event, absl::Time now);

}  // namespace sockbroker::server
