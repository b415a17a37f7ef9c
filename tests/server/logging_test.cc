#include "server/logging.h"

#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "server/audit_log.h"
#include "streams/descriptor.h"

namespace sockbroker::server {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

// What `write` logs, read back from a pipe.
template <typename Write>
std::string Logged(LoggingOptions options, Write write) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const streams::Descriptor in(ends[0]);
  {
    const streams::Descriptor out(ends[1]);
    options.fd = out.get();
    const Logging logging(options);
    write(logging);
  }
  std::string all;
  char buffer[4096];
  for (ssize_t n; (n = read(in.get(), buffer, sizeof(buffer))) > 0;) {
    all.append(buffer, static_cast<std::size_t>(n));
  }
  return all;
}

TEST(Logging, TextHasTimeLevelAndMessage) {
  EXPECT_THAT(Logged({}, [](const Logging&) { spdlog::warn("port {}", 7); }),
              MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9:.]+Z warning: port 7\n"));
}

TEST(Logging, JsonIsOneObjectALine) {
  const std::string logged = Logged({.format = LogFormat::kJson}, [](const Logging& logging) {
    spdlog::error("two\n\"lines\"");
    AuditLog(logging.audit_sink()).Record({.rpc = "Write"});
  });
  EXPECT_THAT(logged, HasSubstr(R"(,"level":"error","message":"two\n\"lines\""})"
                                "\n{\"time\":"));
  EXPECT_THAT(logged, HasSubstr(R"("audit":"open","object":"connection","rpc":"Write"})"));
}

TEST(Logging, KeepsSilentBelowItsLevel) {
  const std::string logged = Logged({.level = spdlog::level::warn}, [](const Logging& logging) {
    spdlog::info("not this");
    AuditLog(logging.audit_sink()).Record({});
    spdlog::warn("but this");
  });
  EXPECT_THAT(logged,
              AllOf(Not(HasSubstr("not this")), Not(HasSubstr("audit")), HasSubstr("but this")));
}

TEST(Logging, WhatGrpcSaysGoesTheSameWay) {
  // why: a foreign line in between would be no JSON
  EXPECT_THAT(Logged({.format = LogFormat::kJson},
                     [](const Logging&) { gpr_log(GPR_ERROR, "said %s", "something"); }),
              HasSubstr(R"("level":"error","message":"gRPC: said something (logging_test.cc:)"));
}

TEST(Logging, WhatProtobufSaysGoesTheSameWayForThoseWhoDebug) {
  const auto log = [](const Logging&) { GOOGLE_LOG(ERROR) << "bad UTF-8"; };
  EXPECT_EQ(Logged({.format = LogFormat::kJson}, log), "");
  EXPECT_THAT(Logged({.level = spdlog::level::debug, .format = LogFormat::kJson}, log),
              HasSubstr(R"("level":"debug","message":"Protobuf: bad UTF-8 (logging_test.cc:)"));
}

TEST(Logging, AFullPipeStallsNobodyAndTheLossIsSaid) {
  // why: a logger that waits for its reader would stop an event loop
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const streams::Descriptor in(ends[0]);
  std::string all;
  {
    const streams::Descriptor out(ends[1]);
    const Logging logging({.fd = out.get()});
    // Far more than the pipe (64 KiB) and the queue hold, with nobody reading: it must return.
    for (int i = 0; i < 20'000; i++) spdlog::warn("line {}", i);
    std::thread reader([&] {
      char buffer[4096];
      while (!absl::StrContains(all, "the last line")) {
        const ssize_t n = read(in.get(), buffer, sizeof(buffer));
        if (n <= 0) return;
        all.append(buffer, static_cast<std::size_t>(n));
      }
    });
    spdlog::warn("the last line");
    reader.join();
  }
  EXPECT_THAT(all, HasSubstr("log lines were lost"));
  EXPECT_THAT(all, EndsWith("the last line\n"));
}

}  // namespace
}  // namespace sockbroker::server
