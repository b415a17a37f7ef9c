// Lists that may have many pages, one item after another.
//
//   v1::ListConnectionsRequest request;
//   grpc::Status status = ForEachConnection(link, request, [](const v1::Connection& c) { ... });
#pragma once

#include "absl/functional/function_ref.h"
#include "client/broker_link.h"

namespace sockbroker::client {

// What was seen before an error was seen: nothing is taken back.
grpc::Status ForEachConnection(BrokerLink& link, v1::ListConnectionsRequest request,
                               absl::FunctionRef<void(const v1::Connection&)> visit);
grpc::Status ForEachServer(BrokerLink& link, v1::ListServersRequest request,
                           absl::FunctionRef<void(const v1::Server&)> visit);

}  // namespace sockbroker::client
