// TLS as requests ask for it, in the engine's types; and what was agreed, in the contract's.
//
//   TlsSettings tls(options.tls_store, options.tls_key_log);
//   streams::TlsOptions engine;
//   RpcStatus status = tls.Make(request.tls(), streams::TlsSide::kClient, principal, &engine);
//
// Contexts are kept, so that a caller's connections with equal options share their session tickets.
// They are told apart by a hash: no key stays here. Safe from every thread.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/strings/string_view.h"
#include "server/errors.h"
#include "sockbroker/v1/tls.pb.h"
#include "streams/connection.h"
#include "streams/stream_writer.h"
#include "streams/tls_context.h"
#include "streams/tls_info.h"

namespace sockbroker::server {

// The fields of `tls` alone, as far as they can be judged without reading anything.
RpcStatus CheckTls(const v1::TlsOptions& tls, streams::TlsSide side);

class TlsSettings {
 public:
  // `store`: the directory that names stand for files in; "": there is none. `key_log`: gets the
  // lines of an NSS key log; null: nobody does.
  TlsSettings(std::string store, std::function<void(absl::string_view)> key_log)
      : store_(std::move(store)), key_log_(std::move(key_log)) {}

  // INVALID_ARGUMENT names the field that is unusable; what a key was is never said. `tls` has
  // passed CheckTls.
  RpcStatus Make(const v1::TlsOptions& tls, streams::TlsSide side, absl::string_view principal,
                 streams::TlsOptions* out);

 private:
  using Contexts = std::list<std::pair<std::string, std::shared_ptr<const streams::TlsContext>>>;

  RpcStatus ReadNamed(const std::string& name, absl::string_view suffix, absl::string_view field,
                      std::string* out) const;

  const std::string store_;
  const std::function<void(absl::string_view)> key_log_;
  std::mutex mutex_;
  Contexts recent_;  // the last used first
  std::unordered_map<std::string, Contexts::iterator> by_key_;
};

// For StartTls.
streams::StartTlsOptions ToStartTlsOptions(const streams::TlsOptions& tls);

// Where TLS began is the caller's to add.
v1::TlsInfo ToProto(const streams::TlsInfo& info, bool server_side);

}  // namespace sockbroker::server
