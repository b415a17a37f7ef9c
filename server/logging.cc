#include "server/logging.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <spdlog/async.h>
#include <spdlog/async_logger.h>
#include <spdlog/formatter.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/json_string.h"

namespace sockbroker::server {
namespace {

constexpr std::size_t kQueuedLines = 8192;
constexpr char kAuditLogger[] = "audit";

absl::string_view View(spdlog::string_view_t text) { return {text.data(), text.size()}; }

void Append(absl::string_view text, spdlog::memory_buf_t* out) {
  out->append(text.data(), text.data() + text.size());
}

// "2026-01-02T03:04:05.678Z info: ..." as {"time":"...","level":"info","message":"..."}. Audit
// lines are objects already.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    std::string line;
    if (View(message.logger_name) == kAuditLogger) {
      line = std::string(View(message.payload));
    } else {
      line = absl::StrCat("{\"time\":\"",
                          absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromChrono(message.time),
                                           absl::UTCTimeZone()),
                          "\",\"level\":\"", View(spdlog::level::to_string_view(message.level)),
                          "\",\"message\":");
      AppendJsonString(View(message.payload), &line);
      line.push_back('}');
    }
    line.push_back('\n');
    Append(line, &out);
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

class TextFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    if (View(message.logger_name) == kAuditLogger) {
      Append(View(message.payload), &out);
    } else {
      Append(absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromChrono(message.time),
                                           absl::UTCTimeZone()),
                          " ", View(spdlog::level::to_string_view(message.level)), ": ",
                          View(message.payload)),
             &out);
    }
    Append("\n", &out);
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<TextFormatter>();
  }
};

// Writes each line whole; says how many the queue has lost.
class DescriptorSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  DescriptorSink(int fd, std::weak_ptr<spdlog::details::thread_pool> pool)
      : fd_(fd), pool_(std::move(pool)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    // Not the owner: the pool's thread runs this while the last owner waits for it to end.
    if (const auto pool = pool_.lock(); pool != nullptr) SayLost(pool->overrun_counter());
    Write(message);
  }
  void flush_() override {}

  void SayLost(std::size_t lost) {
    if (lost == said_lost_) return;
    const std::string text = absl::StrCat(lost - std::exchange(said_lost_, lost),
                                          " log lines were lost: whoever reads them is too slow");
    Write(spdlog::details::log_msg("", spdlog::level::warn, text));
  }

  void Write(const spdlog::details::log_msg& message) {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    const char* data = line.data();
    std::size_t size = line.size();
    while (size > 0) {
      const ssize_t written = write(fd_, data, size);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return;  // nobody to tell
      data += written;
      size -= static_cast<std::size_t>(written);
    }
  }

  const int fd_;
  const std::weak_ptr<spdlog::details::thread_pool> pool_;
  std::size_t said_lost_ = 0;
};

void LogFromGrpc(gpr_log_func_args* args) {
  const auto level = args->severity == GPR_LOG_SEVERITY_ERROR  ? spdlog::level::err
                     : args->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::info
                                                               : spdlog::level::debug;
  const char* file = std::strrchr(args->file, '/');
  spdlog::log(level, "gRPC: {} ({}:{})", args->message, file != nullptr ? file + 1 : args->file,
              args->line);
}

// What it complains of is what clients have sent, who are answered; so it is a line for who debugs.
void LogFromProtobuf(google::protobuf::LogLevel level, const char* file, int line,
                     const std::string& message) {
  const char* const name = std::strrchr(file, '/');
  spdlog::log(
      level == google::protobuf::LOGLEVEL_FATAL ? spdlog::level::critical : spdlog::level::debug,
      "Protobuf: {} ({}:{})", message, name != nullptr ? name + 1 : file, line);
}

}  // namespace

Logging::Logging(const LoggingOptions& options)
    : pool_(std::make_shared<spdlog::details::thread_pool>(kQueuedLines, 1)) {
  const auto sink = std::make_shared<DescriptorSink>(options.fd, pool_);
  if (options.format == LogFormat::kJson) {
    sink->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    sink->set_formatter(std::make_unique<TextFormatter>());
  }
  const auto make = [&](const char* name) {
    auto logger = std::make_shared<spdlog::async_logger>(
        name, sink, pool_, spdlog::async_overflow_policy::overrun_oldest);
    logger->set_level(options.level);
    return logger;
  };
  audit_ = make(kAuditLogger);
  spdlog::set_default_logger(make("sockbrokerd"));
  // Until gRPC is initialised it says nothing at all, whatever GRPC_VERBOSITY is.
  gpr_log_verbosity_init();
  gpr_set_log_function(LogFromGrpc);
  google::protobuf::SetLogHandler(LogFromProtobuf);
}

Logging::~Logging() {
  google::protobuf::SetLogHandler(nullptr);
  gpr_set_log_function(nullptr);
  // A logger must be there for who logs later; this one has no sink.
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(""));
  audit_.reset();
  pool_.reset();  // joins its thread, which has written everything by then
}

std::function<void(const std::string& line)> Logging::audit_sink() const {
  return [logger = audit_](const std::string& line) { logger->info("{}", line); };
}

}  // namespace sockbroker::server
