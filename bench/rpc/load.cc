// One caller, one call after another: an empty RPC, a Write with drain, a Read; and the system
// calls that a program without a broker would make in their place. Usage: bench_rpc_load
// empty|write|read|send|recv ADDRESS SERVER_PID SIZE SECONDS Prints one line of JSON.
//
// This process is the broker's peer too. Its own part (taking what a Write sent, sending what a
// Read will find) lies between two calls and is not timed.
#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/load/clocks.h"
#include "bench/load/connect.h"
#include "bench/load/latencies.h"
#include "bench/rpc/empty.grpc.pb.h"
#include "sockbroker/v1/sockbroker.grpc.pb.h"

namespace sockbroker::bench {
namespace {

[[noreturn]] void Die(const std::string& what) {
  std::cerr << "rpc_load: " << what << "\n";
  std::exit(1);
}

void Require(const grpc::Status& status) {
  if (!status.ok()) Die(status.error_message());
}

// A listening TCP socket on loopback.
class Listener {
 public:
  Listener() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in local{};
    local.sin_family = AF_INET;
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(local);
    if (bind(fd_, reinterpret_cast<sockaddr*>(&local), size) != 0 || listen(fd_, 1) != 0 ||
        getsockname(fd_, reinterpret_cast<sockaddr*>(&local), &size) != 0) {
      Die("cannot listen");
    }
    port_ = ntohs(local.sin_port);
  }
  ~Listener() { close(fd_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int port() const { return port_; }
  int Accept() const {
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) Die("cannot accept");
    return fd;
  }

 private:
  int fd_;
  int port_;
};

void SendAll(int fd, const std::string& data) {
  if (send(fd, data.data(), data.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(data.size())) {
    Die("send");
  }
}

void ReceiveAll(int fd, std::vector<char>* buffer, std::size_t size) {
  if (recv(fd, buffer->data(), size, MSG_WAITALL) != static_cast<ssize_t>(size)) Die("recv");
}

// What is timed, and what this process does as the peer before and after it.
struct Operation {
  std::function<void()> before = [] {};
  std::function<void()> timed;
  std::function<void()> after = [] {};
};

class Bench {
 public:
  Bench(const std::string& address, std::size_t size)
      : channel_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())),
        data_(size, 'x'),
        buffer_(size) {}

  Operation EmptyRpc() {
    std::shared_ptr<Empty::Stub> stub = Empty::NewStub(channel_);
    return {.timed = [stub] {
      grpc::ClientContext context;
      Nothing response;
      Require(stub->DoNothing(&context, Nothing(), &response));
    }};
  }

  Operation Write() {
    Connect();
    return {.timed =
                [this] {
                  grpc::ClientContext context;
                  v1::WriteRequest request;
                  v1::WriteResponse response;
                  request.set_handle(handle_);
                  request.set_data(data_);
                  request.set_drain(true);
                  Require(broker_->Write(&context, request, &response));
                },
            .after = [this] { ReceiveAll(peer_, &buffer_, data_.size()); }};
  }

  Operation Read() {
    Connect();
    return {.before = [this] { SendAll(peer_, data_); },
            .timed =
                [this] {
                  for (std::size_t got = 0; got < data_.size();) {
                    grpc::ClientContext context;
                    v1::ReadRequest request;
                    v1::ReadResponse response;
                    request.set_handle(handle_);
                    request.set_n(static_cast<int64_t>(data_.size()));
                    Require(broker_->Read(&context, request, &response));
                    got += response.data().size();
                  }
                }};
  }

  Operation Send() {
    ConnectDirectly();
    return {.timed = [this] { SendAll(direct_, data_); },
            .after = [this] { ReceiveAll(peer_, &buffer_, data_.size()); }};
  }

  Operation Receive() {
    ConnectDirectly();
    return {.before = [this] { SendAll(peer_, data_); },
            .timed = [this] { ReceiveAll(direct_, &buffer_, data_.size()); }};
  }

 private:
  // The broker's connection to this process.
  void Connect() {
    broker_ = v1::SocketBroker::NewStub(channel_);
    const Listener listener;
    grpc::ClientContext context;
    v1::OpenConnectionRequest request;
    v1::OpenConnectionResponse response;
    request.set_host("127.0.0.1");
    request.set_port(static_cast<uint32_t>(listener.port()));
    Require(broker_->OpenConnection(&context, request, &response));
    handle_ = response.connection().handle();
    peer_ = listener.Accept();
  }

  void ConnectDirectly() {
    const Listener listener;
    direct_ = ConnectOrDie("127.0.0.1:" + std::to_string(listener.port()));
    peer_ = listener.Accept();
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::SocketBroker::Stub> broker_;
  std::string handle_;
  const std::string data_;
  std::vector<char> buffer_;
  int peer_ = -1;
  int direct_ = -1;
};

int Main(const std::string& what, const std::string& address, pid_t server, std::size_t size,
         double seconds) {
  Bench bench(address, size);
  const std::map<std::string, std::function<Operation()>> operations = {
      {"empty", [&] { return bench.EmptyRpc(); }}, {"write", [&] { return bench.Write(); }},
      {"read", [&] { return bench.Read(); }},      {"send", [&] { return bench.Send(); }},
      {"recv", [&] { return bench.Receive(); }},
  };
  const auto found = operations.find(what);
  if (found == operations.end()) Die("no such operation: " + what);
  const Operation operation = found->second();

  Latencies latencies;
  uint64_t calls = 0;
  int64_t spent = 0;
  const auto run = [&](double share) {
    const int64_t end = NowNanos() + static_cast<int64_t>(seconds * share * 1e9);
    while (NowNanos() < end) {
      operation.before();
      const int64_t begin = NowNanos();
      operation.timed();
      const int64_t taken = NowNanos() - begin;
      operation.after();
      latencies.Add(taken);
      spent += taken;
      calls++;
    }
  };
  run(0.2);  // warms up
  latencies.Clear();
  calls = 0;
  spent = 0;
  int64_t cpu = CpuNanosOf(server);
  run(0.8);
  cpu = CpuNanosOf(server) - cpu;
  const auto count = static_cast<double>(calls);
  std::printf("{\"mean_us\": %.3f, \"p50_us\": %.3f, \"p99_us\": %.3f, \"cpu_us\": %.3f}\n",
              static_cast<double>(spent) / 1e3 / count, latencies.Quantile(0.5),
              latencies.Quantile(0.99), static_cast<double>(cpu) / 1e3 / count);
  return 0;
}

}  // namespace
}  // namespace sockbroker::bench

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: %s empty|write|read|send|recv ADDRESS SERVER_PID SIZE SECONDS\n",
                 argv[0]);
    return 2;
  }
  return sockbroker::bench::Main(argv[1], argv[2], std::atoi(argv[3]),
                                 std::strtoul(argv[4], nullptr, 10), std::atof(argv[5]));
}
