#include "tests/client/fake_broker.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace sockbroker::client {

FakeBroker::FakeBroker() {
  char name[] = "/tmp/sb-fake-XXXXXX";
  directory_ = mkdtemp(name);
  path_ = directory_ + "/broker.sock";
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + path_, grpc::InsecureServerCredentials());
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

FakeBroker::~FakeBroker() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  (void)unlink(path_.c_str());
  (void)rmdir(directory_.c_str());
}

grpc::Status FakeBroker::ListConnections(grpc::ServerContext* /*context*/,
                                         const v1::ListConnectionsRequest* request,
                                         v1::ListConnectionsResponse* response) {
  std::size_t index = 0;
  if (!request->page_token().empty()) index = std::stoul(request->page_token());
  while (index < listed_connections.size() &&
         !absl::StartsWith(listed_connections[index].handle(), request->handle_prefix())) {
    ++index;
  }
  if (index >= listed_connections.size()) return grpc::Status::OK;
  *response->add_connections() = listed_connections[index];
  response->set_next_page_token(absl::StrCat(index + 1));
  return grpc::Status::OK;
}

grpc::Status FakeBroker::ListServers(grpc::ServerContext* /*context*/,
                                     const v1::ListServersRequest* request,
                                     v1::ListServersResponse* response) {
  for (const v1::Server& server : listed_servers) {
    if (absl::StartsWith(server.handle(), request->handle_prefix()))
      *response->add_servers() = server;
  }
  return grpc::Status::OK;
}

}  // namespace sockbroker::client
