// FakeBroker: a broker that has nothing but lists, on a real Unix socket.
//
//   FakeBroker broker;
//   broker.listed_connections.push_back(connection);
//   ResolveHandle(*broker.Link(), "9f86");
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "client/broker_address.h"
#include "client/broker_link.h"
#include "grpcpp/server.h"
#include "sockbroker/v1/sockbroker.grpc.pb.h"

namespace sockbroker::client {

class FakeBroker final : public v1::SocketBroker::Service {
 public:
  FakeBroker();
  ~FakeBroker() override;

  std::unique_ptr<BrokerLink> Link() const {
    return *BrokerLink::Connect(*BrokerAddress::Parse("unix:" + path_));
  }

  // One connection a page.
  std::vector<v1::Connection> listed_connections;
  std::vector<v1::Server> listed_servers;

  grpc::Status ListConnections(grpc::ServerContext* context,
                               const v1::ListConnectionsRequest* request,
                               v1::ListConnectionsResponse* response) override;
  grpc::Status ListServers(grpc::ServerContext* context, const v1::ListServersRequest* request,
                           v1::ListServersResponse* response) override;

 private:
  std::string directory_;
  std::string path_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace sockbroker::client
