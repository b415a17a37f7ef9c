#include "client/labels.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sockbroker::client {

absl::Status ParseLabels(const std::vector<std::string>& texts,
                         google::protobuf::Map<std::string, std::string>* labels) {
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    const std::string key = text.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (key.empty())
      return absl::InvalidArgumentError(absl::StrCat("label '", text, "' has no key: KEY=VALUE"));
    if (!labels->insert({key, value}).second) {
      return absl::InvalidArgumentError(absl::StrCat("label '", key, "' is given twice"));
    }
  }
  return absl::OkStatus();
}

std::string LabelsText(const google::protobuf::Map<std::string, std::string>& labels) {
  std::vector<std::string> texts;
  for (const auto& [key, value] : labels)
    texts.push_back(value.empty() ? key : absl::StrCat(key, "=", value));
  if (texts.empty()) return "-";
  std::sort(texts.begin(), texts.end());
  return absl::StrJoin(texts, ",");
}

}  // namespace sockbroker::client
