// AppendJsonString: text as a JSON string literal (RFC 8259), for log lines.
//
//   std::string line = "{\"msg\":";
//   AppendJsonString("said \"no\"", &line);      // ... "said \"no\""
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace sockbroker::server {

// With its quotes. What comes from outside (paths, names) may be any bytes: those that are not
// UTF-8 become U+FFFD, and control characters are escaped, so that a line stays one line.
void AppendJsonString(absl::string_view text, std::string* out);

}  // namespace sockbroker::server
