#include "client/listing.h"

namespace sockbroker::client {
namespace {

constexpr uint32_t kPageSize = 500;

}  // namespace

grpc::Status ForEachConnection(BrokerLink& link, v1::ListConnectionsRequest request,
                               absl::FunctionRef<void(const v1::Connection&)> visit) {
  request.set_page_size(kPageSize);
  while (true) {
    v1::ListConnectionsResponse page;
    const grpc::Status status = link.Call(&BrokerLink::Stub::ListConnections, request, &page);
    if (!status.ok()) return status;
    for (const v1::Connection& connection : page.connections()) visit(connection);
    if (page.next_page_token().empty()) return status;
    request.set_page_token(page.next_page_token());
  }
}

grpc::Status ForEachServer(BrokerLink& link, v1::ListServersRequest request,
                           absl::FunctionRef<void(const v1::Server&)> visit) {
  request.set_page_size(kPageSize);
  while (true) {
    v1::ListServersResponse page;
    const grpc::Status status = link.Call(&BrokerLink::Stub::ListServers, request, &page);
    if (!status.ok()) return status;
    for (const v1::Server& server : page.servers()) visit(server);
    if (page.next_page_token().empty()) return status;
    request.set_page_token(page.next_page_token());
  }
}

}  // namespace sockbroker::client
