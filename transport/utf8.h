// What the string fields of messages hold: UTF-8, or the message cannot be read.
//
//   request.set_host(argument);                     // only when IsUtf8(argument)
//   detail.set_message(ToUtf8(status.message()));   // text from elsewhere: a path may be any bytes
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace sockbroker {

// With U+FFFD in place of every byte that is not part of a character.
std::string ToUtf8(absl::string_view text);
bool IsUtf8(absl::string_view text);

}  // namespace sockbroker
