// Labels on the command line: `--label key=value`, or `--label key` to ask for the key alone.
//
//   absl::Status status = ParseLabels({"job=42", "debug"}, request.mutable_labels());
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "google/protobuf/map.h"

namespace sockbroker::client {

// kInvalidArgument when a key is empty or given twice.
absl::Status ParseLabels(const std::vector<std::string>& texts,
                         google::protobuf::Map<std::string, std::string>* labels);
// "job=42,debug", sorted; "-" for none.
std::string LabelsText(const google::protobuf::Map<std::string, std::string>& labels);

}  // namespace sockbroker::client
