#include "tests/client/cpp/real_broker.h"

#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "gtest/gtest.h"

namespace sockbroker::client {

using streams::Task;

RealBroker::RealBroker(std::shared_ptr<grpc::ServerCredentials> tls) : tls_(std::move(tls)) {
  // Held to the end of the process: see tests/server/broker_fixture.cc.
  static const bool grpc_held = (grpc_init(), true);
  (void)grpc_held;
  Start();
}

RealBroker::~RealBroker() { Stop(); }

void RealBroker::Start() {
  server::BrokerOptions options;
  options.loops = 2;
  options.broker_id_seed = "test";
  options.descriptors = &budget_;
  options.allow_all = tls_ != nullptr;
  broker_ = std::make_unique<server::Broker>(std::move(options));
  grpc::ServerBuilder builder;
  builder.RegisterService(broker_->service());
  builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
  if (tls_ != nullptr) builder.AddListeningPort("127.0.0.1:0", tls_, &tls_port_);
  server_ = builder.BuildAndStart();
  EXPECT_NE(server_, nullptr);
}

void RealBroker::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
  broker_.reset();
}

// --- CuttingProxy

struct CuttingProxy::State {
  std::string target;
  std::string path;
  streams::Server server;
  std::vector<streams::StreamWriter> open;
  std::optional<uint64_t> left;
  bool refuse = false;
  int cuts = 0;
  int connections = 0;

  void Cut() {
    cuts++;
    left.reset();
    for (streams::StreamWriter& writer : std::exchange(open, {})) writer.Abort();
  }
  // How many of `size` bytes may pass; cuts when that is not all.
  std::size_t Pass(std::size_t size) {
    if (!left.has_value()) return size;
    const auto may = static_cast<std::size_t>(std::min<uint64_t>(size, *left));
    *left -= may;
    return may;
  }
};

namespace {

template <typename State>
Task<void> Pump(std::shared_ptr<State> state, streams::StreamReader reader,
                streams::StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(64 * 1024);
    if (!data.ok() || data->empty()) break;
    const std::size_t may = state->Pass(data->size());
    const bool cut = may < data->size();
    if (may > 0) (void)writer.Write(data->Subcord(0, may));
    if (!(co_await writer.Drain()).ok()) break;
    if (cut) {
      state->Cut();
      break;
    }
  }
  writer.Close();
}

template <typename State>
Task<void> Relay(std::shared_ptr<State> state, streams::StreamReader reader,
                 streams::StreamWriter writer) {
  state->connections++;
  if (state->refuse) {
    writer.Abort();
    co_return;
  }
  auto broker = co_await streams::OpenUnixConnection(state->target);
  if (!broker.ok()) {
    writer.Abort();
    co_return;
  }
  state->open.push_back(writer);
  state->open.push_back(broker->writer);
  auto back = streams::CreateTask(Pump(state, broker->reader, writer));
  co_await Pump(state, reader, broker->writer);
  co_await back.Join();
}

}  // namespace

CuttingProxy::CuttingProxy(std::string target, std::string path)
    : state_(std::make_shared<State>()) {
  state_->target = std::move(target);
  state_->path = std::move(path);
}

CuttingProxy::~CuttingProxy() {
  state_->Cut();
  state_->server = streams::Server();
}

Task<absl::Status> CuttingProxy::Start() {
  std::shared_ptr<State> state = state_;
  auto server = co_await streams::StartUnixServer(
      [weak = std::weak_ptr<State>(state)](streams::StreamReader reader,
                                           streams::StreamWriter writer) {
        return Relay(weak.lock(), std::move(reader), std::move(writer));
      },
      state->path);
  if (!server.ok()) co_return server.status();
  state->server = *std::move(server);
  co_return absl::OkStatus();
}

std::string CuttingProxy::address() const { return "unix:" + state_->path; }
void CuttingProxy::Cut() { state_->Cut(); }
void CuttingProxy::CutAfter(uint64_t bytes) { state_->left = bytes; }
void CuttingProxy::Refuse(bool refuse) { state_->refuse = refuse; }
int CuttingProxy::cuts() const { return state_->cuts; }
int CuttingProxy::connections() const { return state_->connections; }

}  // namespace sockbroker::client
