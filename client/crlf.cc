#include "client/crlf.h"

namespace sockbroker::client {

void CrlfConverter::Append(absl::string_view piece, std::string* out) {
  while (!piece.empty()) {
    const std::size_t end = piece.find('\n');
    const absl::string_view line = piece.substr(0, end);
    out->append(line.data(), line.size());
    if (!line.empty()) after_cr_ = line.back() == '\r';
    if (end == absl::string_view::npos) return;
    out->append(after_cr_ ? "\n" : "\r\n");
    after_cr_ = false;
    piece.remove_prefix(end + 1);
  }
}

}  // namespace sockbroker::client
