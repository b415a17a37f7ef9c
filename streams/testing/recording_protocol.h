// RecordingProtocol: a StreamProtocol that notes what it is told. For tests of ByteStreams
// themselves.
//
//   auto protocol = std::make_shared<RecordingProtocol>();
//   stream->Start(protocol);
//   EXPECT_THAT(protocol->events, ElementsAre("data 5", "eof", "lost OK"));
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "streams/byte_stream.h"

namespace sockbroker::streams {

class RecordingProtocol final : public StreamProtocol {
 public:
  // `keep_open`: what OnEof answers.
  explicit RecordingProtocol(bool keep_open = true) : keep_open_(keep_open) {}

  void OnData(absl::Cord data) override {
    events.push_back(absl::StrCat("data ", data.size()));
    received.Append(std::move(data));
  }
  bool OnEof() override {
    events.emplace_back("eof");
    return keep_open_;
  }
  void OnPauseWriting() override { events.emplace_back("pause"); }
  void OnResumeWriting() override { events.emplace_back("resume"); }
  void OnConnectionLost(const absl::Status& status) override {
    events.push_back(absl::StrCat("lost ", absl::StatusCodeToString(status.code())));
    lost = status;
  }

  std::vector<std::string> events;
  absl::Cord received;
  std::optional<absl::Status> lost;

 private:
  const bool keep_open_;
};

}  // namespace sockbroker::streams
