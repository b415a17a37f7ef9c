#include "client/cpp/blocking.h"

#include <type_traits>
#include <utility>

#include "streams/event_loop.h"
#include "streams/loop_thread.h"
#include "streams/run_coroutine_threadsafe.h"
#include "streams/wait_for.h"

namespace sockbroker::client::blocking {

using streams::Task;

namespace internal {

// The thread behind a blocking::Broker and all that came of it.
class Runtime {
 public:
  // Whoever calls, and gRPC's threads, run the loop themselves while it has nothing else to do.
  Runtime() { thread_.loop()->EnableDispatch(); }

  streams::EventLoop* loop() const { return thread_.loop(); }

  // Runs what `make` gives, on the loop. `make` itself is called there.
  template <typename Make>
  auto Run(Make make, absl::Duration timeout = kForever) {
    using Result = typename std::invoke_result_t<Make>::value_type;
    auto future =
        streams::RunCoroutineThreadsafe(Awaited<Result>(std::move(make), timeout), thread_.loop());
    std::optional<Result> result = future.Result();
    return *std::move(result);
  }

  // Runs a function on the loop, and gives its result.
  template <typename Function>
  auto Do(Function function) {
    using Result = std::invoke_result_t<Function>;
    auto future =
        streams::RunCoroutineThreadsafe(Once<Result>(std::move(function)), thread_.loop());
    return *future.Result();
  }

 private:
  template <typename Result, typename Make>
  static Task<Result> Awaited(Make make, absl::Duration timeout) {
    co_return co_await streams::WaitFor(make(), timeout);
  }
  template <typename Result, typename Function>
  static Task<Result> Once(Function function) {
    co_return function();
  }

  streams::LoopThread thread_{"sockbroker"};
};

namespace {

// Destroyed on the loop, wherever the last copy goes.
template <typename T>
Held<T> Hold(const std::shared_ptr<Runtime>& runtime, T value) {
  streams::EventLoop* loop = runtime->loop();
  std::shared_ptr<T> held(new T(std::move(value)), [loop](T* last) {
    std::unique_ptr<T> gone(last);
    if (!loop->IsRunningHere()) loop->Post([gone = std::move(gone)] {});
  });
  return {runtime, std::move(held)};
}

absl::StatusOr<std::string> ToText(absl::StatusOr<absl::Cord> data) {
  if (!data.ok()) return data.status();
  return std::string(*data);
}

}  // namespace
}  // namespace internal

using internal::Hold;
using internal::ToText;

// --- StreamReader

absl::StatusOr<std::string> StreamReader::Read(std::size_t n, absl::Duration timeout) {
  return ToText(held_.runtime->Run([c = held_.value, n] { return c->reader.Read(n); }, timeout));
}
absl::StatusOr<std::string> StreamReader::ReadAll(absl::Duration timeout) {
  return ToText(held_.runtime->Run([c = held_.value] { return c->reader.ReadAll(); }, timeout));
}
absl::StatusOr<std::string> StreamReader::ReadLine(absl::Duration timeout) {
  return ToText(held_.runtime->Run([c = held_.value] { return c->reader.ReadLine(); }, timeout));
}
absl::StatusOr<std::string> StreamReader::ReadUntil(absl::string_view separator,
                                                    absl::Duration timeout) {
  return ToText(held_.runtime->Run(
      [c = held_.value, s = std::string(separator)] { return c->reader.ReadUntil(s); }, timeout));
}
absl::StatusOr<std::string> StreamReader::ReadExactly(std::size_t n, absl::Duration timeout) {
  return ToText(
      held_.runtime->Run([c = held_.value, n] { return c->reader.ReadExactly(n); }, timeout));
}
bool StreamReader::AtEof() const {
  return held_.runtime->Do([c = held_.value] { return c->reader.AtEof(); });
}

// --- StreamWriter

absl::Status StreamWriter::Write(absl::string_view data) {
  return held_.runtime->Do(
      [c = held_.value, bytes = absl::Cord(data)] { return c->writer.Write(bytes); });
}
absl::Status StreamWriter::Drain(absl::Duration timeout) {
  return held_.runtime->Run([c = held_.value] { return c->writer.Drain(); }, timeout);
}
absl::Status StreamWriter::Flush(absl::Duration timeout) {
  return held_.runtime->Run([c = held_.value] { return c->writer.Flush(); }, timeout);
}
absl::Status StreamWriter::WriteEof() {
  return held_.runtime->Do([c = held_.value] { return c->writer.WriteEof(); });
}
void StreamWriter::Close() {
  held_.runtime->loop()->Post([c = held_.value] { c->writer.Close(); });
}
void StreamWriter::Abort() {
  held_.runtime->loop()->Post([c = held_.value] { c->writer.Abort(); });
}
absl::Status StreamWriter::WaitClosed(absl::Duration timeout) {
  return held_.runtime->Run([c = held_.value] { return c->writer.WaitClosed(); }, timeout);
}
absl::Status StreamWriter::StartTls(v1::TlsOptions options, StartTlsOptions how,
                                    absl::Duration timeout) {
  return held_.runtime->Run([c = held_.value, options = std::move(options),
                             how] { return c->writer.StartTls(options, how); },
                            timeout);
}
absl::StatusOr<Detached> StreamWriter::Detach(absl::Duration timeout) {
  return held_.runtime->Run([c = held_.value] { return c->writer.Detach(); }, timeout);
}
void StreamWriter::Acknowledge(uint64_t offset) {
  held_.runtime->loop()->Post([c = held_.value, offset] { c->writer.Acknowledge(offset); });
}
std::string StreamWriter::handle() const {
  return held_.runtime->Do([c = held_.value] { return c->writer.handle(); });
}
uint64_t StreamWriter::epoch() const {
  return held_.runtime->Do([c = held_.value] { return c->writer.epoch(); });
}
v1::Connection StreamWriter::info() const {
  return held_.runtime->Do([c = held_.value] { return c->writer.info(); });
}
uint64_t StreamWriter::read_offset() const {
  return held_.runtime->Do([c = held_.value] { return c->writer.read_offset(); });
}
uint64_t StreamWriter::write_offset() const {
  return held_.runtime->Do([c = held_.value] { return c->writer.write_offset(); });
}
uint64_t StreamWriter::flushed_offset() const {
  return held_.runtime->Do([c = held_.value] { return c->writer.flushed_offset(); });
}
streams::SocketAddress StreamWriter::peername() const {
  return held_.runtime->Do([c = held_.value] { return c->writer.peername(); });
}
streams::SocketAddress StreamWriter::sockname() const {
  return held_.runtime->Do([c = held_.value] { return c->writer.sockname(); });
}

// --- Server

absl::StatusOr<Connection> Server::Accept(absl::Duration timeout) {
  auto accepted = held_.runtime->Run([s = held_.value] { return s->Accept(); }, timeout);
  if (!accepted.ok()) return accepted.status();
  auto held = Hold(held_.runtime, *std::move(accepted));
  return Connection{StreamReader(held), StreamWriter(held)};
}
std::vector<streams::SocketAddress> Server::sockets() const {
  return held_.runtime->Do([s = held_.value] { return s->sockets(); });
}
std::string Server::handle() const {
  return held_.runtime->Do([s = held_.value] { return s->handle(); });
}
absl::Status Server::StartServing(absl::Duration timeout) {
  return held_.runtime->Run([s = held_.value] { return s->StartServing(); }, timeout);
}
void Server::Close() {
  held_.runtime->loop()->Post([s = held_.value] { s->Close(); });
}
absl::Status Server::WaitClosed(absl::Duration timeout) {
  return held_.runtime->Run([s = held_.value] { return s->WaitClosed(); }, timeout);
}
std::string Server::Detach() {
  return held_.runtime->Do([s = held_.value] { return s->Detach(); });
}

// --- Broker

absl::StatusOr<Broker> Broker::Connect(std::string address, BrokerOptions options,
                                       absl::Duration timeout) {
  auto runtime = std::make_shared<internal::Runtime>();
  auto broker = runtime->Run(
      [&] { return client::Broker::Connect(std::move(address), std::move(options)); }, timeout);
  if (!broker.ok()) return broker.status();
  return Broker(Hold(runtime, *std::move(broker)));
}

namespace {

template <typename Opened, typename Make>
absl::StatusOr<internal::Held<Opened>> Get(const std::shared_ptr<internal::Runtime>& runtime,
                                           Make make, absl::Duration timeout) {
  absl::StatusOr<Opened> opened = runtime->Run(std::move(make), timeout);
  if (!opened.ok()) return opened.status();
  return Hold(runtime, *std::move(opened));
}

}  // namespace

absl::StatusOr<Connection> Broker::OpenConnection(std::optional<std::string> host,
                                                  streams::Port port, OpenConnectionOptions options,
                                                  absl::Duration timeout) {
  auto held = Get<client::Connection>(
      held_.runtime,
      [b = held_.value, host = std::move(host), port = std::move(port),
       options = std::move(options)] { return b->OpenConnection(host, port, options); },
      timeout);
  if (!held.ok()) return held.status();
  return Connection{StreamReader(*held), StreamWriter(*held)};
}

absl::StatusOr<Connection> Broker::OpenUnixConnection(std::string path,
                                                      OpenUnixConnectionOptions options,
                                                      absl::Duration timeout) {
  auto held = Get<client::Connection>(
      held_.runtime,
      [b = held_.value, path = std::move(path), options = std::move(options)] {
        return b->OpenUnixConnection(path, options);
      },
      timeout);
  if (!held.ok()) return held.status();
  return Connection{StreamReader(*held), StreamWriter(*held)};
}

absl::StatusOr<Connection> Broker::Attach(std::string handle, AttachOptions options,
                                          absl::Duration timeout) {
  auto held = Get<client::Connection>(
      held_.runtime,
      [b = held_.value, handle = std::move(handle), options = std::move(options)] {
        return b->Attach(handle, options);
      },
      timeout);
  if (!held.ok()) return held.status();
  return Connection{StreamReader(*held), StreamWriter(*held)};
}

absl::StatusOr<Server> Broker::StartServer(std::vector<std::string> hosts, streams::Port port,
                                           StartServerOptions options, absl::Duration timeout) {
  auto held = Get<client::Server>(
      held_.runtime,
      [b = held_.value, hosts = std::move(hosts), port = std::move(port),
       options = std::move(options)] { return b->StartServer(nullptr, hosts, port, options); },
      timeout);
  if (!held.ok()) return held.status();
  return Server(*std::move(held));
}

absl::StatusOr<Server> Broker::StartUnixServer(std::string path, StartUnixServerOptions options,
                                               absl::Duration timeout) {
  auto held = Get<client::Server>(
      held_.runtime,
      [b = held_.value, path = std::move(path), options = std::move(options)] {
        return b->StartUnixServer(nullptr, path, options);
      },
      timeout);
  if (!held.ok()) return held.status();
  return Server(*std::move(held));
}

absl::StatusOr<Server> Broker::AttachServer(std::string handle, ServerOptions options,
                                            absl::Duration timeout) {
  auto held = Get<client::Server>(
      held_.runtime,
      [b = held_.value, handle = std::move(handle), options = std::move(options)] {
        return b->AttachServer(nullptr, handle, options);
      },
      timeout);
  if (!held.ok()) return held.status();
  return Server(*std::move(held));
}

LinkState Broker::state() const {
  return held_.runtime->Do([b = held_.value] { return b->state(); });
}
uint64_t Broker::incarnation() const {
  return held_.runtime->Do([b = held_.value] { return b->incarnation(); });
}
void Broker::Close() {
  held_.runtime->loop()->Post([b = held_.value] { b->Close(); });
}
streams::EventLoop* Broker::loop() const { return held_.runtime->loop(); }

}  // namespace sockbroker::client::blocking
