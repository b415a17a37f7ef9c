#include "client/close_command.h"

#include "absl/strings/str_cat.h"
#include "client/console.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/handle_text.h"

namespace sockbroker::client {
namespace {

grpc::Status CloseConnection(BrokerLink& link, const std::string& handle, bool abort) {
  if (abort) {
    v1::AbortRequest request;
    request.set_handle(handle);
    v1::AbortResponse response;
    return link.Call(&BrokerLink::Stub::Abort, request, &response);
  }
  v1::CloseRequest request;
  request.set_handle(handle);
  v1::CloseResponse response;
  return link.Call(&BrokerLink::Stub::Close, request, &response);
}

grpc::Status CloseServer(BrokerLink& link, const std::string& handle, const CloseOptions& options) {
  v1::CloseServerRequest request;
  request.set_handle(handle);
  v1::CloseServerResponse response;
  grpc::Status status = link.Call(&BrokerLink::Stub::CloseServer, request, &response);
  if (!status.ok() || !options.clients) return status;
  if (options.abort) {
    v1::AbortClientsRequest abort;
    abort.set_handle(handle);
    v1::AbortClientsResponse aborted;
    return link.Call(&BrokerLink::Stub::AbortClients, abort, &aborted);
  }
  v1::CloseClientsRequest close;
  close.set_handle(handle);
  v1::CloseClientsResponse closed;
  return link.Call(&BrokerLink::Stub::CloseClients, close, &closed);
}

}  // namespace

int RunClose(BrokerLink& link, const CloseOptions& options) {
  int exit_status = kExitOk;
  for (const std::string& text : options.handles) {
    int one = kExitOk;
    const absl::StatusOr<NamedHandle> named = ResolveHandle(link, text);
    if (!named.ok()) {
      one = FailWith(named.status());
    } else {
      const grpc::Status status = named->is_server
                                      ? CloseServer(link, named->handle, options)
                                      : CloseConnection(link, named->handle, options.abort);
      if (!status.ok())
        one = FailWith(ToAbslStatus(link.address(), absl::StrCat("close ", text), status));
    }
    if (exit_status == kExitOk) exit_status = one;
    if (one == kExitNoBroker) break;
  }
  return exit_status;
}

}  // namespace sockbroker::client
