// Ports as nc takes them: "80", "20-30", "http".
//
//   ParsePorts({"22", "8000-8002"})   ->  22, 8000, 8001, 8002
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sockbroker::client {

// Either a number or the name of a service, which the broker's machine resolves.
struct Port {
  uint16_t number = 0;
  std::string service;

  bool operator==(const Port&) const = default;
};

std::string PortText(const Port& port);

// 0 to 65535, or a service's name. kInvalidArgument.
absl::StatusOr<Port> ParsePort(absl::string_view text);
// Each a port or a range FIRST-LAST of numbers (either way round); in the order given.
absl::StatusOr<std::vector<Port>> ParsePorts(const std::vector<std::string>& texts);

}  // namespace sockbroker::client
