// "Did you mean": the known word that is nearest to one that was mistyped.
//
//   Suggest("conect", {"connect", "close"})   ->  "connect"
//   Suggest("frobnicate", {...})              ->  ""
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sockbroker::client {

// Empty when none is near: more than a third of the letters would have to change.
std::string Suggest(absl::string_view word, const std::vector<std::string>& known);

}  // namespace sockbroker::client
