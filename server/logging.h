// Logging: the broker's log on stderr, as text or as one JSON object per line. gRPC's own messages
// and the audit lines go the same way.
//
//   Logging logging({.level = spdlog::level::info, .format = LogFormat::kText});
//   spdlog::warn("{}: accept: {}", address, error);        // from any thread
//   AuditLog audit(logging.audit_sink());
#pragma once

#include <spdlog/common.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace spdlog {
class logger;
}
namespace spdlog::details {
class thread_pool;
}

namespace sockbroker::server {

enum class LogFormat { kText, kJson };

struct LoggingOptions {
  spdlog::level::level_enum level = spdlog::level::info;
  LogFormat format = LogFormat::kText;
  // Where to write; 2 is stderr.
  int fd = 2;
};

// Installs spdlog's default logger for its lifetime. Lines are queued and written by one thread, so
// no event loop waits for a slow terminal or pipe; when the queue is full the oldest lines are
// dropped, and a line says how many.
class Logging {
 public:
  explicit Logging(const LoggingOptions& options);
  // Writes what is queued.
  ~Logging();
  Logging(const Logging&) = delete;
  Logging& operator=(const Logging&) = delete;

  // For AuditLog. Audit lines are JSON objects in either format, and are written at level `info`
  // and below.
  std::function<void(const std::string& line)> audit_sink() const;

 private:
  std::shared_ptr<spdlog::details::thread_pool> pool_;
  std::shared_ptr<spdlog::logger> audit_;
};

}  // namespace sockbroker::server
