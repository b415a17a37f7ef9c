#include "streams/internal/cord_search.h"

#include <cstring>

namespace sockbroker::streams::internal {

std::optional<std::size_t> Find(const absl::Cord& haystack, absl::string_view needle,
                                std::size_t from) {
  if (from > haystack.size() || haystack.size() - from < needle.size()) return std::nullopt;
  // `seam` is the end of what was searched, needle.size() - 1 bytes of it, followed by the begin of
  // the next chunk: a match across chunks is found there, one within a chunk in the chunk itself.
  std::string seam;
  std::size_t position = from;  // of the next chunk's first byte
  absl::Cord::CharIterator it = haystack.char_begin();
  absl::Cord::Advance(&it, from);
  const std::size_t keep = needle.size() - 1;
  while (it != haystack.char_end()) {
    const absl::string_view chunk = absl::Cord::ChunkRemaining(it);
    if (!seam.empty()) {
      const std::size_t seam_start = position - seam.size();
      const std::size_t kept = seam.size();
      seam.append(chunk.data(), std::min(keep, chunk.size()));
      const std::size_t at = seam.find(needle.data(), 0, needle.size());
      if (at != std::string::npos) return seam_start + at;
      seam.resize(kept);
    }
    if (const void* hit = memmem(chunk.data(), chunk.size(), needle.data(), needle.size())) {
      return position + static_cast<std::size_t>(static_cast<const char*>(hit) - chunk.data());
    }
    seam.append(chunk.data() + (chunk.size() - std::min(keep, chunk.size())),
                std::min(keep, chunk.size()));
    if (seam.size() > keep) seam.erase(0, seam.size() - keep);
    position += chunk.size();
    absl::Cord::Advance(&it, chunk.size());
  }
  return std::nullopt;
}

std::optional<Match> FindFirstEnding(const absl::Cord& haystack,
                                     const std::vector<std::string>& separators, std::size_t from) {
  std::optional<Match> best;
  for (const std::string& separator : separators) {
    const std::optional<std::size_t> start = Find(haystack, separator, from);
    if (!start.has_value()) continue;
    const std::size_t end = *start + separator.size();
    if (!best.has_value() || end < best->end) best = Match{*start, end};
  }
  return best;
}

}  // namespace sockbroker::streams::internal
