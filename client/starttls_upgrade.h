// Talks a StartTlsDialogue through a connection of the broker, then upgrades it to TLS at the byte
// where the dialogue ended.
//
//   auto dialogue = MakeStartTlsDialogue("smtp", names);
//   absl::Status status = UpgradeToTls(*link, *dialogue, tls, "127.0.0.1 port 25", {},
//   &connection);
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/broker_link.h"
#include "client/starttls.h"
#include "sockbroker/v1/connection.pb.h"
#include "sockbroker/v1/tls.pb.h"

namespace sockbroker::client {

struct UpgradeOptions {
  // May be null.
  Canceller* canceller = nullptr;
  // Of the dialogue, and again of the handshake.
  absl::Duration timeout = absl::Seconds(60);
};

// On success `connection` has `tls`, and offsets where protected bytes begin. Else the status has a
// line for people, which calls the other end `peer`; the connection is the caller's to close.
absl::Status UpgradeToTls(BrokerLink& link, StartTlsDialogue& dialogue, const v1::TlsOptions& tls,
                          absl::string_view peer, const UpgradeOptions& options,
                          v1::Connection* connection);

}  // namespace sockbroker::client
