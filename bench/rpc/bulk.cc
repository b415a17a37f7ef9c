// Bulk bytes through one bare gRPC stream, in messages as large as a session's: what gRPC alone
// allows.
//
//   bench_rpc_bulk serve ADDRESS                  says "listening on ADDRESS", then serves
//   bench_rpc_bulk up|down ADDRESS SECONDS        prints one line of JSON: MiB/s
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>

namespace sockbroker::bench {
namespace {

constexpr std::size_t kMessage = 256 * 1024;

grpc::ByteBuffer Message() {
  const grpc::Slice slice(std::string(kMessage, 'x'));
  return grpc::ByteBuffer(&slice, 1);
}

// Reads until the client has ended; with "/bench/down" writes as fast as it is taken.
class Reactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Reactor(bool sends) : sends_(sends) {
    StartRead(&incoming_);
    if (sends_) StartWrite(&outgoing_);
  }
  void OnReadDone(bool ok) override {
    incoming_.Clear();
    if (ok) return StartRead(&incoming_);
    if (!sends_) Finish(grpc::Status::OK);
  }
  void OnWriteDone(bool ok) override {
    if (ok) return StartWrite(&outgoing_);
    Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }

 private:
  const bool sends_;
  grpc::ByteBuffer incoming_;
  const grpc::ByteBuffer outgoing_ = Message();
};

class Service final : public grpc::CallbackGenericService {
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Reactor(context->method() == "/bench/down");
  }
};

class Caller final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Caller(const std::shared_ptr<grpc::Channel>& channel, bool sends, double seconds)
      : sends_(sends),
        until_(Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                  std::chrono::duration<double>(seconds))) {
    grpc::GenericStub(channel).PrepareBidiStreamingCall(
        &context_, sends ? "/bench/up" : "/bench/down", {}, this);
    StartRead(&incoming_);
    if (sends_) StartWrite(&outgoing_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    bytes_ += incoming_.Length();
    incoming_.Clear();
    if (Clock::now() > until_) context_.TryCancel();
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return;
    bytes_ += kMessage;
    if (Clock::now() > until_) return StartWritesDone();
    StartWrite(&outgoing_);
  }
  void OnDone(const grpc::Status& /*status*/) override { done_.set_value(Clock::now()); }

  double Rate() {
    const double seconds = std::chrono::duration<double>(done_.get_future().get() - began_).count();
    return static_cast<double>(bytes_) / seconds / (1 << 20);
  }

 private:
  using Clock = std::chrono::steady_clock;
  const bool sends_;
  const Clock::time_point began_ = Clock::now();
  const Clock::time_point until_;
  grpc::ClientContext context_;
  grpc::ByteBuffer incoming_;
  const grpc::ByteBuffer outgoing_ = Message();
  uint64_t bytes_ = 0;
  std::promise<Clock::time_point> done_;
};

int Main(int argc, char** argv) {
  const std::string word = argc > 1 ? argv[1] : "";
  if (word == "serve" && argc == 3) {
    Service service;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(argv[2], grpc::InsecureServerCredentials());
    builder.RegisterCallbackGenericService(&service);
    const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (server == nullptr) return 1;
    std::printf("listening on %s\n", argv[2]);
    (void)std::fflush(stdout);
    server->Wait();
    return 0;
  }
  if ((word != "up" && word != "down") || argc != 4) {
    (void)std::fputs("usage: bench_rpc_bulk serve ADDRESS | up|down ADDRESS SECONDS\n", stderr);
    return 2;
  }
  Caller caller(grpc::CreateChannel(argv[2], grpc::InsecureChannelCredentials()), word == "up",
                std::atof(argv[3]));
  std::printf("{\"rate\": %.1f}\n", caller.Rate());
  return 0;
}

}  // namespace
}  // namespace sockbroker::bench

int main(int argc, char** argv) { return sockbroker::bench::Main(argc, argv); }
