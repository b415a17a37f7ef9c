// A bound channel as the pair that applications get.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "client/cpp/connection.h"
#include "client/cpp/internal/channel.h"

namespace sockbroker::client {

struct ConnectionMaker {
  static absl::StatusOr<Connection> Make(const std::shared_ptr<internal::Channel>& channel);
};

}  // namespace sockbroker::client
