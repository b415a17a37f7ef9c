#include "client/listen_command.h"

#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/child_process.h"
#include "client/console.h"
#include "client/conversation.h"
#include "client/cpp/broker.h"
#include "client/cpp/server.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/handle_text.h"
#include "client/labels.h"
#include "client/notes.h"
#include "client/port_range.h"
#include "client/seconds.h"
#include "client/session_link.h"
#include "streams/event_loop.h"
#include "streams/sleep.h"
#include "streams/task.h"
#include "streams/task_group.h"
#include "streams/wait_for.h"
#include "streams/wait_queue.h"
#include "transport/utf8.h"

namespace sockbroker::client {
namespace {

// The server's lease is touched so often.
constexpr absl::Duration kTouchEvery = absl::Seconds(15);

absl::Status Misuse(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(text, "; see `sockbroker listen --help`"));
}

absl::StatusOr<v1::ServerOptions> MakeServerOptions(const ListenOptions& options) {
  v1::ServerOptions made;
  made.set_name(options.name);
  absl::Status status = ParseLabels(options.labels, made.mutable_labels());
  if (!status.ok()) return status;
  // A list that filters by the label finds the connections too.
  *made.mutable_accepted()->mutable_labels() = made.labels();
  TuneForConversation(made.mutable_accepted());
  if (options.lease.has_value())
    SetDuration(*options.lease, made.mutable_accepted()->mutable_lease());
  return made;
}

absl::StatusOr<v1::StartServerRequest> MakeTcpRequest(const ListenOptions& options) {
  if (options.target.empty() || options.target.size() > 2)
    return Misuse("listen needs [HOST] PORT");
  if (options.ipv4 && options.ipv6) return Misuse("-4 and -6 exclude each other");
  const absl::StatusOr<Port> port = ParsePort(options.target.back());
  if (!port.ok()) return port.status();
  v1::StartServerRequest request;
  if (options.target.size() == 2) {
    if (!IsUtf8(options.target[0])) return Misuse("HOST must be text in UTF-8");
    request.add_hosts(options.target[0]);
  }
  if (port->service.empty()) {
    request.set_port(port->number);
  } else {
    request.set_service(port->service);
  }
  request.set_family(options.ipv4   ? v1::FAMILY_INET
                     : options.ipv6 ? v1::FAMILY_INET6
                                    : v1::FAMILY_UNSPECIFIED);
  // Every interface and a free port: each family would get a port of its own, and "the port" would
  // be two.
  const bool any_port = port->service.empty() && port->number == 0;
  if (options.target.size() == 1 && any_port && !options.ipv6) request.set_family(v1::FAMILY_INET);
  if (options.numeric) request.set_flags(AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV);
  absl::StatusOr<v1::ServerOptions> server = MakeServerOptions(options);
  if (!server.ok()) return server.status();
  *request.mutable_options() = *std::move(server);
  return request;
}

void AddEndpoint(const char* what, const v1::Endpoint& endpoint,
                 std::vector<std::pair<std::string, std::string>>* variables) {
  if (endpoint.has_tcp()) {
    variables->emplace_back(absl::StrCat("SOCKBROKER_", what, "ADDR"), endpoint.tcp().host());
    variables->emplace_back(absl::StrCat("SOCKBROKER_", what, "PORT"),
                            absl::StrCat(endpoint.tcp().port()));
  } else {
    variables->emplace_back(absl::StrCat("SOCKBROKER_", what, "ADDR"),
                            UnixPathText(endpoint.unix()));
    variables->emplace_back(absl::StrCat("SOCKBROKER_", what, "PORT"), "");
  }
}

void AddTls(const v1::TlsInfo& tls, std::vector<std::pair<std::string, std::string>>* variables) {
  variables->emplace_back("SOCKBROKER_TLS_VERSION", tls.version());
  variables->emplace_back("SOCKBROKER_TLS_SERVERNAME", tls.server_name());
  variables->emplace_back("SOCKBROKER_TLS_ALPN", tls.alpn());
  variables->emplace_back("SOCKBROKER_TLS_PEER", tls.peer_certificates().empty()
                                                     ? ""
                                                     : tls.peer_certificates(0).subject());
}

// None without TLS.
absl::StatusOr<absl::optional<v1::TlsOptions>> MakeTls(const ListenOptions& options) {
  if (!options.tls.enabled()) {
    absl::Status status = CheckWithoutTls(options.tls);
    if (!status.ok()) return status;
    return absl::nullopt;
  }
  absl::StatusOr<v1::TlsOptions> tls = MakeServerTls(options.tls);
  if (!tls.ok()) return tls.status();
  return *std::move(tls);
}

// Runs `function` beside the loop, which goes on meanwhile.
streams::Task<void> RunInThread(std::function<void()> function) {
  streams::EventLoop* const loop = streams::GetRunningLoop();
  auto ended = std::make_shared<std::pair<bool, streams::WaitQueue>>();
  std::thread thread([loop, ended, &function] {
    function();
    loop->Post([ended] {
      ended->first = true;
      ended->second.WakeAll();
    });
  });
  while (!ended->first) (void)co_await ended->second.Wait();
  thread.join();
}

class ListenRun {
 public:
  ListenRun(const BrokerAddress& address, const ListenOptions& options, Interrupt* interrupt)
      : address_(address),
        options_(options),
        interrupt_(interrupt),
        notes_(options.verbose, options.json) {}

  int Run() {
    if (options_.max_connections < 1) return FailWith(Misuse("--max-conns must be at least 1"));
    absl::StatusOr<absl::optional<v1::TlsOptions>> tls = MakeTls(options_);
    if (!tls.ok()) return FailWith(tls.status());
    tls_ = *std::move(tls);
    streams::EventLoop loop;
    loop.EnableDispatch();
    return loop.RunUntilComplete(Main());
  }

 private:
  using ServerRequest = std::variant<v1::StartServerRequest, v1::StartUnixServerRequest>;

  absl::StatusOr<ServerRequest> MakeRequest() const {
    if (!options_.unix_socket) {
      absl::StatusOr<v1::StartServerRequest> request = MakeTcpRequest(options_);
      if (!request.ok()) return request.status();
      if (tls_.has_value()) *request->mutable_tls() = *tls_;
      return *std::move(request);
    }
    if (options_.target.size() != 1) return Misuse("listen -U needs one PATH");
    v1::StartUnixServerRequest request;
    request.set_path(UnixPathFromText(options_.target[0]));
    if (tls_.has_value()) *request.mutable_tls() = *tls_;
    absl::StatusOr<v1::ServerOptions> server = MakeServerOptions(options_);
    if (!server.ok()) return server.status();
    *request.mutable_options() = *std::move(server);
    return request;
  }

  streams::Task<int> Main() {
    absl::StatusOr<ServerRequest> request = MakeRequest();
    if (!request.ok()) co_return FailWith(request.status());
    auto link = co_await SessionLink::Connect(address_, notes_, interrupt_);
    if (interrupt_->raised()) co_return ExitBySignal(interrupt_->signal_number());
    if (!link.ok()) co_return FailWith(link.status());
    link_ = *std::move(link);
    int status = co_await Start(*std::move(request));
    if (status == kExitOk) {
      streams::TaskGroup keeper;
      keeper.Spawn(KeepServer());
      status = co_await Serve();
      co_await CloseServer();
      keeper.Cancel();
      (void)co_await keeper.Join();
    }
    link_.reset();
    co_return status;
  }

  streams::Task<int> Start(ServerRequest request) {
    ServerOptions how;
    TuneForPump(&how.accepted);
    if (tls_.has_value()) how.tls = *tls_;
    absl::StatusOr<Server> server;
    if (auto* tcp = std::get_if<v1::StartServerRequest>(&request)) {
      server = co_await UntilInterrupted(interrupt_,
                                         link_->broker().Start(nullptr, std::move(*tcp), how));
    } else {
      server = co_await UntilInterrupted(
          interrupt_, link_->broker().Start(
                          nullptr, std::move(std::get<v1::StartUnixServerRequest>(request)), how));
    }
    if (interrupt_->raised()) co_return ExitBySignal(interrupt_->signal_number());
    absl::Status status = server.status();
    if (status.ok()) {
      server_ = *std::move(server);
      v1::GetServerRequest get;
      get.set_handle(server_.handle());
      const auto got = co_await link_->broker().Call(&Broker::Rpcs::GetServer, std::move(get),
                                                     /*repeat=*/true);
      status = got.status();
      const bool port_is_news = !options_.unix_socket && options_.target.back() == "0";
      if (got.ok()) notes_.Listening(*got, port_is_news);
    }
    if (status.ok()) co_return kExitOk;
    const std::string where =
        options_.unix_socket || options_.target.size() == 1
            ? absl::StrCat(options_.unix_socket ? "" : "port ", options_.target[0])
            : absl::StrCat(options_.target[0], " port ", options_.target[1]);
    const grpc::Status failed = ToGrpcStatus(status);
    co_return FailWith(
        ToAbslStatus(address_, absl::StrCat("listen on ", where), failed,
                     BindAdvice(failed, options_.unix_socket ? Bound::kPath : Bound::kPort)));
  }

  streams::Task<int> Serve() {
    int status = kExitOk;
    do {
      // Room for one more: nobody is accepted before.
      while (services_ >= options_.max_connections) {
        if (!(co_await UntilInterrupted(interrupt_, WaitForService())).ok()) break;
      }
      absl::StatusOr<Connection> connection =
          co_await UntilInterrupted(interrupt_, server_.Accept());
      if (interrupt_->raised()) {
        status = ExitBySignal(interrupt_->signal_number());
        break;
      }
      if (!connection.ok()) {
        status = FailWith(ToAbslStatus(address_, "accept", ToGrpcStatus(connection.status())));
        break;
      }
      notes_.Received(connection->writer.info());
      if (connection->writer.info().has_tls()) notes_.Tls(connection->writer.info());
      if (!options_.keep) co_await CloseServer();
      if (options_.exec.empty()) {
        status = co_await ServeWithStdio(*std::move(connection));
        // With -k the end of one conversation, however it came, is not the end of all; a stdout
        // that nobody reads is.
        if ((status == kExitFailed || status == kExitFenced) && options_.keep) status = kExitOk;
      } else if (options_.keep) {
        ++services_;
        streams::GetRunningLoop()->Spawn(Service(*std::move(connection)));
      } else {
        status = co_await ServeWithCommand(*std::move(connection));
      }
    } while (options_.keep && status == kExitOk);
    // Each ends by itself once interrupted.
    while (services_ > 0) {
      if (!(co_await WaitForService()).ok()) break;
    }
    co_return status;
  }

  PumpOptions MakePumpOptions() const {
    PumpOptions pump;
    pump.half_close = options_.half_close.value_or(!options_.tls.enabled());
    pump.crlf = options_.crlf;
    if (options_.quit_after_input.has_value() && *options_.quit_after_input >= 0) {
      pump.quit_after_input = absl::Seconds(*options_.quit_after_input);
    }
    if (options_.timeout.has_value() && *options_.timeout > 0)
      pump.idle = absl::Seconds(*options_.timeout);
    return pump;
  }

  static std::string PeerName(const v1::Connection& connection) {
    const v1::Endpoint& peer = connection.peer();
    if (peer.has_tcp()) return absl::StrCat(peer.tcp().host(), " port ", peer.tcp().port());
    return peer.unix().empty() ? "the Unix client" : EndpointText(peer);
  }

  streams::Task<int> ServeWithStdio(Connection connection) {
    PumpOptions pump = MakePumpOptions();
    WidenPipe(STDIN_FILENO);
    WidenPipe(STDOUT_FILENO);
    if (isatty(STDIN_FILENO) == 1) {
      pump.at_peer_eof = PumpOptions::PeerEof::kEnd;
    } else if (options_.keep) {
      // A standard input that stays silent does not keep the next one waiting.
      pump.at_peer_eof = PumpOptions::PeerEof::kSendWhatIsThere;
    }
    Conversation conversation{.peer = PeerName(connection.writer.info())};
    co_return co_await Converse(link_.get(), std::move(connection), std::move(conversation), pump,
                                notes_, interrupt_);
  }

  streams::Task<int> ServeWithCommand(Connection connection) {
    const v1::Connection info = connection.writer.info();
    std::vector<std::pair<std::string, std::string>> variables = {
        {"SOCKBROKER_ADDRESS", address_.text()}, {"SOCKBROKER_HANDLE", HandleText(info.handle())}};
    AddEndpoint("PEER", info.peer(), &variables);
    AddEndpoint("SOCK", info.local(), &variables);
    if (info.has_tls()) AddTls(info.tls(), &variables);
    absl::StatusOr<ChildProcess> child = ChildProcess::Spawn(options_.exec, variables);
    if (!child.ok()) {
      PrintError(child.status().message());
      connection.writer.Close();
      (void)co_await streams::WaitFor(connection.writer.WaitTaken(), absl::Seconds(2));
      co_return kExitFailed;
    }
    PumpOptions pump = MakePumpOptions();
    // A command that reads no more may still have something to say.
    pump.end_when_output_closes = false;
    pump.on_output_end = [&child] { child->CloseInput(); };
    PumpResult result;
    Conversation conversation{
        .peer = PeerName(info), .input = child->output(), .output = child->input()};
    const int status =
        co_await Converse(link_.get(), std::move(connection), std::move(conversation), pump, notes_,
                          interrupt_, &result);
    child->CloseInput();
    child->CloseOutput();
    // As a terminal's end would; one that was told by its streams has mostly gone already.
    if (result.end != PumpResult::End::kDone) {
      child->Signal(result.end == PumpResult::End::kInterrupted ? SIGTERM : SIGHUP);
    }
    co_await RunInThread([&child] { child->Wait(); });
    co_return status;
  }

  streams::Task<void> Service(Connection connection) {
    (void)co_await ServeWithCommand(std::move(connection));
    --services_;
    service_ended_.WakeAll();
  }

  streams::Task<absl::Status> WaitForService() { co_return co_await service_ended_.Wait(); }

  // The server's lease is touched while nothing is accepted.
  streams::Task<void> KeepServer() {
    while ((co_await streams::Sleep(kTouchEvery)).ok()) {
      v1::GetServerRequest request;
      request.set_handle(server_.handle());
      (void)co_await streams::WaitFor(
          link_->broker().Call(&Broker::Rpcs::GetServer, std::move(request)), kTouchEvery);
    }
  }

  streams::Task<void> CloseServer() {
    if (std::exchange(server_closed_, true)) co_return;
    // Nothing is accepted any more; what was is not touched.
    v1::CloseServerRequest request;
    request.set_handle(server_.Detach());
    (void)co_await streams::WaitFor(
        link_->broker().Call(&Broker::Rpcs::CloseServer, std::move(request)), absl::Seconds(2));
  }

  const BrokerAddress& address_;
  const ListenOptions& options_;
  Interrupt* const interrupt_;
  const Notes notes_;
  std::unique_ptr<SessionLink> link_;
  absl::optional<v1::TlsOptions> tls_;
  Server server_;
  bool server_closed_ = false;
  // Commands that run now, with -k.
  int services_ = 0;
  streams::WaitQueue service_ended_;
};

}  // namespace

int RunListen(const BrokerAddress& address, const ListenOptions& options, Interrupt* interrupt) {
  return ListenRun(address, options, interrupt).Run();
}

}  // namespace sockbroker::client
