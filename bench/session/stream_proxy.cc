// What a broker without sessions would be: one gRPC stream per connection, bytes as they come. And,
// with no target, an echo of gRPC alone. Usage: bench_stream_proxy ADDRESS [TARGET_PORT]
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "streams/event_loop.h"
#include "streams/loop_thread.h"
#include "streams/open_connection.h"
#include "streams/stream_reader.h"
#include "streams/stream_writer.h"
#include "streams/wait_queue.h"
#include "transport/byte_buffer.h"

namespace sockbroker::bench {
namespace {

using streams::Task;

class Echo final : public grpc::ServerGenericBidiReactor {
 public:
  Echo() { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    StartWrite(&message_);
  }
  void OnWriteDone(bool ok) override {
    if (ok) StartRead(&message_);
  }
  void OnDone() override { delete this; }

 private:
  grpc::ByteBuffer message_;
};

class Proxy final : public grpc::ServerGenericBidiReactor,
                    public std::enable_shared_from_this<Proxy> {
 public:
  static Proxy* Start(streams::EventLoop* loop, uint16_t port) {
    std::shared_ptr<Proxy> proxy(new Proxy(loop));
    proxy->self_ = proxy;
    loop->Post([proxy, loop, port] { loop->Spawn(Run(proxy, port)); });
    return proxy.get();
  }

 private:
  explicit Proxy(streams::EventLoop* loop) : loop_(loop) {}

  static Task<void> Run(std::shared_ptr<Proxy> self, uint16_t port) {
    auto connection = co_await streams::OpenConnection(std::string("127.0.0.1"), port);
    if (!connection.ok()) {
      self->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "cannot connect"));
      co_return;
    }
    self->writer_ = connection->writer;
    self->StartRead(&self->received_);
    while (true) {
      auto data = co_await connection->reader.Read(65536);
      if (!data.ok() || data->empty()) break;
      self->sending_ = ToByteBuffer(*data);
      self->writing_ = true;
      self->StartWrite(&self->sending_);
      while (self->writing_) (void)co_await self->written_.Wait();
    }
    self->Finish(grpc::Status::OK);
  }
  void OnReadDone(bool ok) override {
    loop_->Post([self = self_, ok, data = ok ? ToCord(received_) : absl::Cord()] {
      if (!ok) return self->writer_.Close();
      (void)self->writer_.Write(data);
      self->StartRead(&self->received_);
    });
  }
  void OnWriteDone(bool) override {
    loop_->Post([self = self_] {
      self->writing_ = false;
      self->written_.WakeAll();
    });
  }
  void OnDone() override { const std::shared_ptr<Proxy> self = std::move(self_); }

  streams::EventLoop* const loop_;
  streams::StreamWriter writer_;
  streams::WaitQueue written_;
  bool writing_ = false;
  grpc::ByteBuffer received_;
  grpc::ByteBuffer sending_;
  std::shared_ptr<Proxy> self_;
};

class Service final : public grpc::CallbackGenericService {
 public:
  explicit Service(uint16_t port) : port_(port) {
    const unsigned count = std::max(1u, std::thread::hardware_concurrency());
    for (unsigned i = 0; i < count; ++i) {
      threads_.push_back(std::make_unique<streams::LoopThread>("proxy"));
    }
  }
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    if (port_ == 0) return new Echo;
    return Proxy::Start(threads_[next_++ % threads_.size()]->loop(), port_);
  }

 private:
  const uint16_t port_;
  std::atomic<std::size_t> next_{0};
  std::vector<std::unique_ptr<streams::LoopThread>> threads_;
};

}  // namespace
}  // namespace sockbroker::bench

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    std::fprintf(stderr, "usage: %s ADDRESS [TARGET_PORT]\n", argv[0]);
    return 2;
  }
  sockbroker::bench::Service service(static_cast<uint16_t>(argc == 3 ? std::atoi(argv[2]) : 0));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials());
  builder.RegisterCallbackGenericService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  std::printf("listening on %s\n", argv[1]);
  std::fflush(stdout);
  server->Wait();
}
