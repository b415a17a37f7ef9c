// Searching a Cord for separators without making it one piece.
//
//   std::optional<Match> match = FindFirstEnding(buffer, {"\r\n", "\n"}, /*from=*/0);
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace sockbroker::streams::internal {

struct Match {
  std::size_t start;
  std::size_t end;
};

// The first occurrence of `needle` (not empty) that starts at or after `from`: its start.
std::optional<std::size_t> Find(const absl::Cord& haystack, absl::string_view needle,
                                std::size_t from);

// Of every separator's first occurrence at or after `from`, the one that ends first; of those that
// end together, the shortest, provided `separators` is sorted by length. asyncio's readuntil.
std::optional<Match> FindFirstEnding(const absl::Cord& haystack,
                                     const std::vector<std::string>& separators, std::size_t from);

}  // namespace sockbroker::streams::internal
