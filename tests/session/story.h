// Story: a test vector of the Session protocol, see "Test vectors" in docs/session.md. It is run
// through the client's end or the broker's, and every message must come out as the story has it.
//
//   absl::StatusOr<google::protobuf::Struct> story = ReadStory("proto/.../resume.json");
//   EXPECT_OK(RunClient(*story));
//   EXPECT_OK(RunBroker(*story));
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/struct.pb.h"

namespace sockbroker::session {

absl::StatusOr<google::protobuf::Struct> ReadStory(const std::string& path);

// An error says at which step what came instead of what was expected.
absl::Status RunClient(const google::protobuf::Struct& story);
absl::Status RunBroker(const google::protobuf::Struct& story);

// Whether the story has something to say about that end: "client" or "broker".
bool IsFor(const google::protobuf::Struct& story, const std::string& end);
// Whether this end must bring that step about by itself, rather than being told of it.
bool IsExpected(const google::protobuf::Struct& step, const std::string& end);

}  // namespace sockbroker::session
