// Notes: what `connect` and `listen` tell on stderr of how it goes, in nc's words or as JSON, one
// line each.
//
//   Notes notes(/*verbose=*/true, /*json=*/false);
//   notes.Listening(server);       // Listening on 127.0.0.1 40123
//   notes.Received(connection);    // Connection received on 127.0.0.1 51514
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/pump.h"
#include "sockbroker/v1/connection.pb.h"
#include "sockbroker/v1/server.pb.h"

namespace sockbroker::client {

class Notes {
 public:
  // JSON notes are written whether verbose or not: who asks for them wants them.
  Notes(bool verbose, bool json) : verbose_(verbose), json_(json) {}

  // `needed`: also when not verbose, because the port was the kernel's choice.
  void Listening(const v1::Server& server, bool needed) const;
  void Received(const v1::Connection& connection) const;
  // `host` and `port` as the user named them.
  void Connected(absl::string_view host, absl::string_view port,
                 const v1::Connection& connection) const;
  // Of a connection that speaks TLS: what was agreed, and who the peer is.
  void Tls(const v1::Connection& connection) const;
  // Of a connection that was there: where the two directions go on.
  void Attached(const v1::Connection& connection, uint64_t read_offset,
                uint64_t write_offset) const;
  // It was left open: said in any case, with how to take it up again.
  void Left(const v1::Connection& connection, uint64_t read_offset, uint64_t write_offset) const;
  void LinkBroken(const absl::Status& reason) const;
  void LinkRestored() const;
  void Ended(const v1::Connection& connection, const PumpResult& result) const;

  bool verbose() const { return verbose_; }

 private:
  bool verbose_;
  bool json_;
};

// {"host":"127.0.0.1","port":80} or {"unix":"/run/x"}.
std::string EndpointJson(const v1::Endpoint& endpoint);
// "Connection to localhost (127.0.0.1) 80 port [tcp/http] succeeded!", as nc says it. `numeric`: no
// names.
std::string ConnectedText(absl::string_view host, absl::string_view port, const v1::Endpoint& peer);

}  // namespace sockbroker::client
