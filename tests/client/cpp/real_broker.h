// RealBroker: a broker with a gRPC server on a Unix socket, in this process, in real time; and
// CuttingProxy, a way to it that breaks at chosen bytes.
//
//   RealBroker real;
//   CuttingProxy proxy(real.path());                     // on the running loop
//   CO_ASSERT_OK(co_await proxy.Start());
//   Broker broker = *co_await Broker::Connect(proxy.address());
//   proxy.CutAfter(10'000);                              // so many more bytes, either way
//   real.Restart();                                      // another incarnation
#pragma once

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/cpp/broker.h"
#include "server/broker.h"
#include "server/descriptor_budget.h"
#include "streams/streams.h"
#include "tests/server/temporary_directory.h"

namespace sockbroker::client {

class RealBroker {
 public:
  // `tls`: also listens on loopback, with these; whoever has a certificate may open anything.
  explicit RealBroker(std::shared_ptr<grpc::ServerCredentials> tls = nullptr);
  ~RealBroker();

  std::string path() const { return directory_.path("broker.sock"); }
  std::string address() const { return "unix:" + path(); }
  // With `tls`.
  std::string tls_address() const { return "127.0.0.1:" + std::to_string(tls_port_); }
  std::string file(const std::string& name) const { return directory_.path(name); }
  server::Broker& broker() { return *broker_; }
  void Stop();
  void Start();
  void Restart() {
    Stop();
    Start();
  }

 private:
  server::TemporaryDirectory directory_;
  const std::shared_ptr<grpc::ServerCredentials> tls_;
  int tls_port_ = 0;
  server::DescriptorBudget budget_{100'000};
  std::unique_ptr<server::Broker> broker_;
  std::unique_ptr<grpc::Server> server_;
};

class CuttingProxy {
 public:
  CuttingProxy(std::string target, std::string path);
  ~CuttingProxy();
  CuttingProxy(const CuttingProxy&) = delete;
  CuttingProxy& operator=(const CuttingProxy&) = delete;

  streams::Task<absl::Status> Start();
  std::string address() const;
  // Every connection through it is reset.
  void Cut();
  // After so many more bytes in either direction.
  void CutAfter(uint64_t bytes);
  // Connections are accepted and nothing passes; or they are refused at once.
  void Refuse(bool refuse);
  int cuts() const;
  int connections() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace sockbroker::client
