// ServiceManager: tells whoever started the broker how it is doing, where that wants to know:
// systemd with Type=notify, sd_notify(3).
//
//   const ServiceManager manager = ServiceManager::FromEnvironment();  // before any thread starts
//   absl::Status told = manager.Tell("READY=1");                       // its unit goes on
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sockbroker::server {

class ServiceManager {
 public:
  // `address` as NOTIFY_SOCKET has it: a path, or @NAME for an abstract one. Empty: nobody is told.
  explicit ServiceManager(std::string address) : address_(std::move(address)) {}

  // Whom NOTIFY_SOCKET names. Unsets it, so that no child speaks in the broker's name. Call it
  // once, before other threads run.
  static ServiceManager FromEnvironment();

  // Sends assignments, one a line, as one datagram. Blocks while the manager's queue is full. OK
  // when there is no manager.
  absl::Status Tell(absl::string_view state) const;

 private:
  std::string address_;
};

}  // namespace sockbroker::server
