// KeyLog: a file of TLS secrets in NSS's format, as SSLKEYLOGFILE names one. For debugging.
//
//   absl::StatusOr<std::shared_ptr<KeyLog>> log = KeyLog::Open("/tmp/keys.log");
//   (*log)->Write("CLIENT_RANDOM ...");
//
// Safe from every thread: a line is one write() to a file opened for appending.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "streams/descriptor.h"

namespace sockbroker::server {

class KeyLog {
 public:
  // The file is made with mode 0600 if it isn't there.
  static absl::StatusOr<std::shared_ptr<KeyLog>> Open(const std::string& path);
  explicit KeyLog(streams::Descriptor file) : file_(std::move(file)) {}

  void Write(absl::string_view line) const;

 private:
  const streams::Descriptor file_;
};

}  // namespace sockbroker::server
