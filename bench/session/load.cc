// Echoes through a broker: one message under way on each of N connections.
//
//   bench_session_load session ADDRESS TARGET_PORT PID CONNECTIONS SIZE SECONDS
//       the channels of one session
//   bench_session_load stream ADDRESS TARGET_PORT PID CONNECTIONS SIZE SECONDS
//       a gRPC stream for each
//   bench_session_load idle ADDRESS TARGET_PORT PID CONNECTIONS
//       opens, says "ready", waits for the end of its standard input
//
// Prints one line of JSON.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bench/load/clocks.h"
#include "bench/load/latencies.h"
#include "client/cpp/broker.h"
#include "streams/event_loop.h"
#include "streams/sleep.h"
#include "streams/task.h"

namespace sockbroker::bench {
namespace {

using streams::Task;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "session_load: %s\n", what.c_str());
  std::exit(1);
}

// Counts what falls into the measured time: a tenth before it is for warming up.
class Meter {
 public:
  Meter(pid_t server, double seconds) : server_(server), seconds_(seconds) {}

  void Begin() {
    begin_ = NowNanos();
    end_ = begin_ + static_cast<int64_t>(seconds_ * 1e8);
  }
  // False once the time is over.
  bool Add(int64_t started) {
    const int64_t now = NowNanos();
    operations_++;
    latencies_.Add(now - started);
    if (now < end_) return true;
    if (warm_) {
      end_ = now;
      cpu_ = CpuNanosOf(server_) - cpu_;
      return false;
    }
    warm_ = true;
    operations_ = 0;
    latencies_.Clear();
    cpu_ = CpuNanosOf(server_);
    begin_ = now;
    end_ = now + static_cast<int64_t>(seconds_ * 9e8);
    return true;
  }
  void Print() const {
    const double taken = static_cast<double>(end_ - begin_) / 1e9;
    const auto count = static_cast<double>(operations_);
    std::printf(
        "{\"rate\": %.1f, \"cpu_us\": %.4f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"seconds\": "
        "%.3f}\n",
        count / taken, count > 0 ? static_cast<double>(cpu_) / 1e3 / count : 0.0,
        latencies_.Quantile(0.5), latencies_.Quantile(0.99), taken);
    std::fflush(stdout);
  }

 private:
  const pid_t server_;
  const double seconds_;
  int64_t begin_ = 0;
  int64_t end_ = 0;
  int64_t cpu_ = 0;
  bool warm_ = false;
  uint64_t operations_ = 0;
  Latencies latencies_;
};

// --- channels of one session

Task<std::vector<client::Connection>> OpenAll(client::Broker broker, uint16_t port,
                                              std::size_t count) {
  std::vector<client::Connection> connections;
  for (std::size_t i = 0; i < count; ++i) {
    auto connection = co_await broker.OpenConnection(std::string("127.0.0.1"), port);
    if (!connection.ok()) Die(connection.status().ToString());
    connections.push_back(*std::move(connection));
  }
  co_return connections;
}

Task<void> Ping(client::Connection* connection, std::size_t size, Meter* meter) {
  const std::string message(size, 'x');
  while (true) {
    const int64_t started = NowNanos();
    (void)connection->writer.Write(absl::Cord(message));
    const auto answer = co_await connection->reader.ReadExactly(size);
    if (!answer.ok()) Die(answer.status().ToString());
    if (!meter->Add(started)) {
      meter->Print();
      std::_Exit(0);
    }
  }
}

Task<void> RunSession(std::string address, uint16_t port, std::size_t count, std::size_t size,
                      Meter* meter) {
  auto broker = co_await client::Broker::Connect(std::move(address));
  if (!broker.ok()) Die(broker.status().ToString());
  std::vector<client::Connection> connections = co_await OpenAll(*broker, port, count);
  if (meter == nullptr) {
    std::printf("ready\n");
    std::fflush(stdout);
    char end;
    (void)!read(STDIN_FILENO, &end, 1);
    std::_Exit(0);
  }
  meter->Begin();
  for (client::Connection& connection : connections) {
    streams::GetRunningLoop()->Spawn(Ping(&connection, size, meter));
  }
  while (true) (void)co_await streams::Sleep(absl::Hours(1));
}

// --- a gRPC stream for each

class Stream final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Stream(grpc::GenericStub* stub, std::size_t size, Meter* meter, std::mutex* mutex)
      : size_(size), meter_(meter), mutex_(mutex) {
    stub->PrepareBidiStreamingCall(&context_, "/bench.Proxy/Stream", {}, this);
    const grpc::Slice slice(std::string(size, 'x'));
    message_ = grpc::ByteBuffer(&slice, 1);
    StartRead(&answer_);
    StartCall();
  }
  void Begin() {
    started_ = NowNanos();
    received_ = 0;
    StartWrite(&message_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) Die("a stream ended");
    received_ += answer_.Length();
    const bool whole = received_ >= size_;
    StartRead(&answer_);
    if (!whole) return;
    {
      const std::lock_guard lock(*mutex_);
      if (!meter_->Add(started_)) {
        meter_->Print();
        std::_Exit(0);
      }
    }
    // The answer may come before the write is told to be done.
    if (state_.fetch_add(1) == 1) Next();
  }
  void OnWriteDone(bool) override {
    if (state_.fetch_add(1) == 1) Next();
  }
  void OnDone(const grpc::Status& status) override { Die(status.error_message()); }

 private:
  void Next() {
    state_ = 0;
    Begin();
  }

  const std::size_t size_;
  Meter* const meter_;
  std::mutex* const mutex_;
  grpc::ClientContext context_;
  grpc::ByteBuffer message_;
  grpc::ByteBuffer answer_;
  std::size_t received_ = 0;
  int64_t started_ = 0;
  std::atomic<int> state_{0};
};

[[noreturn]] void RunStreams(const std::string& address, std::size_t count, std::size_t size,
                             Meter* meter) {
  std::mutex mutex;
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  grpc::GenericStub stub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  std::vector<std::unique_ptr<Stream>> streams;
  streams.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    streams.push_back(std::make_unique<Stream>(&stub, size, meter, &mutex));
  }
  meter->Begin();
  for (const auto& stream : streams) stream->Begin();
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

}  // namespace
}  // namespace sockbroker::bench

int main(int argc, char** argv) {
  using namespace sockbroker;  // NOLINT(google-build-using-namespace)
  const std::string mode = argc > 1 ? argv[1] : "";
  const bool idle = mode == "idle";
  if (argc != (idle ? 6 : 8) || (mode != "session" && mode != "stream" && !idle)) {
    std::fprintf(
        stderr,
        "usage: %s session|stream|idle ADDRESS TARGET_PORT PID CONNECTIONS [SIZE SECONDS]\n",
        argv[0]);
    return 2;
  }
  const std::string address = argv[2];
  const auto port = static_cast<uint16_t>(std::atoi(argv[3]));
  const std::size_t count = std::strtoul(argv[5], nullptr, 10);
  const std::size_t size = idle ? 0 : std::strtoul(argv[6], nullptr, 10);
  bench::Meter meter(std::atoi(argv[4]), idle ? 0 : std::atof(argv[7]));
  if (mode == "stream") bench::RunStreams(address, count, size, &meter);
  streams::EventLoop loop;
  loop.EnableDispatch();
  loop.RunUntilComplete(bench::RunSession(address, port, count, size, idle ? nullptr : &meter));
}
