#include "client/port_range.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sockbroker::client {
namespace {

bool AllDigits(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c));
  });
}

absl::StatusOr<uint16_t> ParseNumber(absl::string_view text) {
  uint32_t number = 0;
  if (!absl::SimpleAtoi(text, &number) || number > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a port: 0 to 65535 are"));
  }
  return static_cast<uint16_t>(number);
}

}  // namespace

std::string PortText(const Port& port) {
  return port.service.empty() ? absl::StrCat(port.number) : port.service;
}

absl::StatusOr<Port> ParsePort(absl::string_view text) {
  if (AllDigits(text)) {
    const absl::StatusOr<uint16_t> number = ParseNumber(text);
    if (!number.ok()) return number.status();
    return Port{*number, ""};
  }
  // Names of services have a letter (RFC 6335); "-5" and "1e3" are mistakes.
  const bool name = !text.empty() && text.size() <= 32 &&
                    absl::ascii_isalpha(static_cast<unsigned char>(text[0])) &&
                    std::all_of(text.begin(), text.end(), [](char c) {
                      return absl::ascii_isgraph(static_cast<unsigned char>(c));
                    });
  if (!name) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a port: 0 to 65535 or a service's name (http) are"));
  }
  return Port{0, std::string(text)};
}

absl::StatusOr<std::vector<Port>> ParsePorts(const std::vector<std::string>& texts) {
  std::vector<Port> ports;
  for (const std::string& text : texts) {
    const std::size_t dash = text.find('-');
    // "ssh-agent" is a name, "20-30" a range.
    if (dash == std::string::npos || !AllDigits(absl::string_view(text).substr(0, dash))) {
      const absl::StatusOr<Port> port = ParsePort(text);
      if (!port.ok()) return port.status();
      ports.push_back(*port);
      continue;
    }
    const absl::StatusOr<uint16_t> first = ParseNumber(absl::string_view(text).substr(0, dash));
    if (!first.ok()) return first.status();
    const absl::StatusOr<uint16_t> last = ParseNumber(absl::string_view(text).substr(dash + 1));
    if (!last.ok()) return last.status();
    // As nc: "30-20" means the same.
    for (uint32_t number = std::min(*first, *last); number <= std::max(*first, *last); ++number) {
      ports.push_back({static_cast<uint16_t>(number), ""});
    }
  }
  return ports;
}

}  // namespace sockbroker::client
