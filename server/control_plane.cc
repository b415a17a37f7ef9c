#include "server/control_plane.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/support/server_interceptor.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "server/control_handshakes.h"
#include "server/control_listener.h"
#include "streams/loop_thread.h"

namespace sockbroker::server {
namespace {

using grpc::experimental::ExternalConnectionAcceptor;

std::size_t QuarterOfMemory() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page = sysconf(_SC_PAGESIZE);
  const std::size_t least = std::size_t{256} << 20;
  if (pages <= 0 || page <= 0) return least;
  return std::max(least, static_cast<std::size_t>(pages) / 4 * static_cast<std::size_t>(page));
}

// Before the first ServerBuilder is made; both settings are the process's.
void InstallBuiltInServices() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    // Never undone: with the last user gRPC ends its threads, and one that still polls on behalf of
    // a write that was blocked is waited for up to 10 s (1.51), longer than a drain may take.
    grpc_init();
  });
}

void Configure(const ControlPlaneLimits& limits, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(limits.max_receive_message);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, limits.max_metadata);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams);
  grpc::ResourceQuota quota("sockbroker");
  quota.Resize(limits.memory != 0 ? limits.memory : QuarterOfMemory());
  quota.SetMaxThreads(limits.max_threads);
  builder->SetResourceQuota(quota);

  // Both ends ping every 20 s, whether calls are under way or not, so that either notices within
  // half a minute that the other is gone; clients may ping every 10 s.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);

  // Who can't get through the handshake must not hold a descriptor for gRPC's two minutes.
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 20'000);

  // Only reflection blocks a thread; it needs few, and starts none before it is used.
  builder->SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
}

// Each call shows that its connection is through the handshake.
class ProofOfHandshake final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit ProofOfHandshake(ControlHandshakes* handshakes) : handshakes_(handshakes) {}

  // None is needed: being asked for one is enough.
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    if (handshakes_->size() > 0) handshakes_->Proven(info->server_context()->peer());
    return nullptr;
  }

 private:
  ControlHandshakes* const handshakes_;
};

}  // namespace

struct ControlPlane::Parts {
  explicit Parts(std::size_t max_handshakes) : handshakes(max_handshakes) {}

  // Destroyed from the last to the first: the listeners' loop before what they hand connections to.
  ControlHandshakes handshakes;
  std::unique_ptr<ExternalConnectionAcceptor> plain;
  std::unique_ptr<ExternalConnectionAcceptor> tls;  // null when no listener needs it
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<streams::LoopThread> thread;
  // They live on the thread's loop; the list changes under the mutex, for RemoveFiles.
  absl::Mutex mutex;
  std::vector<std::unique_ptr<ControlListener>> listeners ABSL_GUARDED_BY(mutex);
  bool shut_down = false;

  // Runs `function` on the loop, and waits.
  template <typename Function>
  void OnLoop(Function function) {
    absl::Notification done;
    thread->loop()->Post([&] {
      function();
      done.Notify();
    });
    done.WaitForNotification();
  }
};

ControlPlane::ControlPlane(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

absl::StatusOr<std::unique_ptr<ControlPlane>> ControlPlane::Start(
    std::vector<ListeningSocket> sockets, std::vector<grpc::Service*> services,
    ControlPlaneOptions options) {
  InstallBuiltInServices();
  auto parts = std::make_unique<Parts>(options.limits.max_handshakes);
  grpc::ServerBuilder builder;
  Configure(options.limits, &builder);
  for (grpc::Service* service : services) builder.RegisterService(service);
  const auto add_acceptor = [&](std::shared_ptr<grpc::ServerCredentials> credentials) {
    return builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        std::move(credentials));
  };
  parts->plain = add_acceptor(grpc::InsecureServerCredentials());
  if (std::any_of(sockets.begin(), sockets.end(), [](const auto& s) { return s.tls(); })) {
    if (!options.tls.has_value()) {
      return absl::InvalidArgumentError("mutual TLS needs certificates");
    }
    if (absl::Status status = CheckControlTls(*options.tls); !status.ok()) return status;
    parts->tls = add_acceptor(MakeTlsCredentials(*options.tls));
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> factories;
    factories.push_back(std::make_unique<ProofOfHandshake>(&parts->handshakes));
    builder.experimental().SetInterceptorCreators(std::move(factories));
  }
  parts->server = builder.BuildAndStart();
  if (parts->server == nullptr) return absl::InternalError("gRPC could not start its server");
  // From here on the destructor undoes what was done.
  std::unique_ptr<ControlPlane> plane(new ControlPlane(std::move(parts)));
  Parts& p = *plane->parts_;
  p.thread = std::make_unique<streams::LoopThread>("control");

  const auto listening = [&](bool tls) {
    ControlListenerOptions result;
    result.on_trouble = options.on_trouble;
    result.on_connection = [acceptor = tls ? p.tls.get() : p.plain.get(),
                            handshakes =
                                tls ? &p.handshakes : nullptr](streams::Descriptor connection) {
      if (handshakes != nullptr) handshakes->Begin(connection.get());
      ExternalConnectionAcceptor::NewConnectionParameters parameters;
      // gRPC's from here on. (It would leak it before BuildAndStart and after Shutdown: no
      // listener lives then.)
      parameters.fd = connection.Release();
      acceptor->HandleNewConnection(&parameters);
    };
    return result;
  };
  absl::Status status;
  p.OnLoop([&] {
    absl::MutexLock lock(&p.mutex);
    for (ListeningSocket& socket : sockets) {
      plane->addresses_.push_back(socket.ToString());
      ControlListenerOptions how = listening(socket.tls());
      p.listeners.push_back(
          std::make_unique<ControlListener>(p.thread->loop(), std::move(socket), std::move(how)));
      status.Update(p.listeners.back()->Start());
    }
  });
  if (!status.ok()) return status;
  plane->SetServing(true);
  return plane;
}

ControlPlane::~ControlPlane() { Shutdown(absl::ZeroDuration()); }

void ControlPlane::SetServing(bool serving) {
  parts_->server->GetHealthCheckService()->SetServingStatus(serving);
}

void ControlPlane::Shutdown(absl::Duration grace) {
  if (std::exchange(parts_->shut_down, true)) return;
  SetServing(false);
  if (parts_->thread != nullptr) {
    parts_->OnLoop([&] {
      absl::MutexLock lock(&parts_->mutex);
      parts_->listeners.clear();
    });
    parts_->thread.reset();
  }
  parts_->server->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
}

void ControlPlane::RemoveFiles() const {
  absl::MutexLock lock(&parts_->mutex);
  for (const auto& listener : parts_->listeners) listener->socket().RemoveFile();
}

}  // namespace sockbroker::server
