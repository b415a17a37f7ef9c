// The client library for plain threads: the same names, and calls that wait.
//
//   absl::StatusOr<blocking::Broker> broker = blocking::Broker::Connect("");
//   absl::StatusOr<blocking::Connection> connection = broker->OpenConnection("127.0.0.1", 6379);
//   connection->writer.Write("PING\r\n");
//   absl::StatusOr<std::string> pong = connection->reader.ReadLine(absl::Seconds(5));
//
// The loop runs on a thread of the library's, on gRPC's, or inside a call: one at a time. So
// callbacks in options may run on any of these threads; they must not wait, nor call what is
// declared here. Where there is a timeout, kDeadlineExceeded says that it has passed; nothing is
// lost then: a later call gets the bytes. Meanings and errors are those of broker.h,
// connection.h and server.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/cpp/broker.h"
#include "client/cpp/connection.h"
#include "client/cpp/options.h"
#include "client/cpp/server.h"
#include "streams/address.h"
#include "streams/resolver.h"

namespace sockbroker::client::blocking {

namespace internal {
class Runtime;
// Something of the loop's, from another thread: it is used and destroyed on the loop.
template <typename T>
struct Held {
  std::shared_ptr<Runtime> runtime;
  std::shared_ptr<T> value;
};
}  // namespace internal

inline constexpr absl::Duration kForever = absl::InfiniteDuration();

class StreamReader {
 public:
  StreamReader() = default;
  absl::StatusOr<std::string> Read(std::size_t n, absl::Duration timeout = kForever);
  absl::StatusOr<std::string> ReadAll(absl::Duration timeout = kForever);
  absl::StatusOr<std::string> ReadLine(absl::Duration timeout = kForever);
  absl::StatusOr<std::string> ReadUntil(absl::string_view separator,
                                        absl::Duration timeout = kForever);
  absl::StatusOr<std::string> ReadExactly(std::size_t n, absl::Duration timeout = kForever);
  bool AtEof() const;

 private:
  friend class Broker;
  friend class Server;
  explicit StreamReader(internal::Held<client::Connection> held) : held_(std::move(held)) {}
  internal::Held<client::Connection> held_;
};

class StreamWriter {
 public:
  StreamWriter() = default;
  // Never waits; Drain does.
  absl::Status Write(absl::string_view data);
  absl::Status Drain(absl::Duration timeout = kForever);
  absl::Status Flush(absl::Duration timeout = kForever);
  absl::Status WriteEof();
  void Close();
  void Abort();
  absl::Status WaitClosed(absl::Duration timeout = kForever);
  // A time-out closes the connection, as in asyncio.
  absl::Status StartTls(v1::TlsOptions options, StartTlsOptions how = {},
                        absl::Duration timeout = kForever);
  absl::StatusOr<Detached> Detach(absl::Duration timeout = kForever);
  void Acknowledge(uint64_t offset);

  std::string handle() const;
  uint64_t epoch() const;
  v1::Connection info() const;
  uint64_t read_offset() const;
  uint64_t write_offset() const;
  uint64_t flushed_offset() const;
  streams::SocketAddress peername() const;
  streams::SocketAddress sockname() const;
  // The coroutines' own, for use on its loop.
  const std::shared_ptr<client::Connection>& connection() const { return held_.value; }

 private:
  friend class Broker;
  friend class Server;
  explicit StreamWriter(internal::Held<client::Connection> held) : held_(std::move(held)) {}
  internal::Held<client::Connection> held_;
};

// When the last copy of both goes, the connection is closed, if it was not. A program that ends
// must wait for it (WaitClosed, or Flush), as in asyncio.
struct Connection {
  StreamReader reader;
  StreamWriter writer;
};

class Server {
 public:
  Server() = default;
  absl::StatusOr<Connection> Accept(absl::Duration timeout = kForever);
  std::vector<streams::SocketAddress> sockets() const;
  std::string handle() const;
  absl::Status StartServing(absl::Duration timeout = kForever);
  void Close();
  absl::Status WaitClosed(absl::Duration timeout = kForever);
  std::string Detach();

 private:
  friend class Broker;
  explicit Server(internal::Held<client::Server> held) : held_(std::move(held)) {}
  internal::Held<client::Server> held_;
};

class Broker {
 public:
  Broker() = default;
  static absl::StatusOr<Broker> Connect(std::string address, BrokerOptions options = {},
                                        absl::Duration timeout = kForever);

  absl::StatusOr<Connection> OpenConnection(std::optional<std::string> host, streams::Port port,
                                            OpenConnectionOptions options = {},
                                            absl::Duration timeout = kForever);
  absl::StatusOr<Connection> OpenUnixConnection(std::string path,
                                                OpenUnixConnectionOptions options = {},
                                                absl::Duration timeout = kForever);
  absl::StatusOr<Connection> Attach(std::string handle, AttachOptions options = {},
                                    absl::Duration timeout = kForever);
  // Accept gives the connections.
  absl::StatusOr<Server> StartServer(std::vector<std::string> hosts, streams::Port port,
                                     StartServerOptions options = {},
                                     absl::Duration timeout = kForever);
  absl::StatusOr<Server> StartServer(std::string host, streams::Port port,
                                     StartServerOptions options = {},
                                     absl::Duration timeout = kForever) {
    return StartServer(std::vector<std::string>{std::move(host)}, std::move(port),
                       std::move(options), timeout);
  }
  absl::StatusOr<Server> StartUnixServer(std::string path, StartUnixServerOptions options = {},
                                         absl::Duration timeout = kForever);
  absl::StatusOr<Server> AttachServer(std::string handle, ServerOptions options = {},
                                      absl::Duration timeout = kForever);

  LinkState state() const;
  uint64_t incarnation() const;
  void Close();
  // The coroutines' own, for use on its loop.
  const std::shared_ptr<client::Broker>& broker() const { return held_.value; }
  streams::EventLoop* loop() const;

 private:
  explicit Broker(internal::Held<client::Broker> held) : held_(std::move(held)) {}
  internal::Held<client::Broker> held_;
};

}  // namespace sockbroker::client::blocking
