#include "client/listen_command.h"

#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/broker_link.h"
#include "client/child_process.h"
#include "client/console.h"
#include "client/conversation.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/handle_text.h"
#include "client/labels.h"
#include "client/notes.h"
#include "client/port_range.h"
#include "client/seconds.h"

namespace sockbroker::client {
namespace {

// An Accept waits so long before it is asked again.
constexpr absl::Duration kLongPoll = absl::Seconds(20);
// The server's lease is touched so often while its connections are served.
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
  TuneForPump(made.mutable_accepted());
  return made;
}

absl::StatusOr<v1::StartServerRequest> MakeTcpRequest(const ListenOptions& options) {
  if (options.target.empty() || options.target.size() > 2)
    return Misuse("listen needs [HOST] PORT");
  if (options.ipv4 && options.ipv6) return Misuse("-4 and -6 exclude each other");
  const absl::StatusOr<Port> port = ParsePort(options.target.back());
  if (!port.ok()) return port.status();
  v1::StartServerRequest request;
  if (options.target.size() == 2) request.add_hosts(options.target[0]);
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

class ListenRun {
 public:
  ListenRun(const BrokerAddress& address, const ListenOptions& options, Interrupt* interrupt)
      : address_(address),
        options_(options),
        interrupt_(interrupt),
        subscription_(interrupt, [this] { canceller_.Cancel(); }),
        notes_(options.verbose, options.json) {}

  int Run() {
    if (options_.max_connections < 1) return FailWith(Misuse("--max-conns must be at least 1"));
    absl::StatusOr<absl::optional<v1::TlsOptions>> tls = MakeTls(options_);
    if (!tls.ok()) return FailWith(tls.status());
    tls_ = *std::move(tls);
    int status = options_.unix_socket ? StartUnix() : StartTcp();
    if (status != kExitOk) return status;
    std::thread keeper([this] { KeepServer(); });
    status = Serve();
    CloseServer();
    keeper_canceller_.Cancel();
    keeper.join();
    return status;
  }

 private:
  int Link() {
    absl::StatusOr<std::unique_ptr<BrokerLink>> link = BrokerLink::Connect(address_, &canceller_);
    if (interrupt_->raised()) return ExitBySignal(interrupt_->signal_number());
    if (!link.ok()) return FailWith(link.status());
    link_ = *std::move(link);
    return kExitOk;
  }

  int StartTcp() {
    absl::StatusOr<v1::StartServerRequest> request = MakeTcpRequest(options_);
    if (!request.ok()) return FailWith(request.status());
    request->set_request_id(RandomBytes(16));
    if (tls_.has_value()) *request->mutable_tls() = *tls_;
    if (const int status = Link(); status != kExitOk) return status;
    v1::StartServerResponse started;
    const grpc::Status status =
        link_->Call(&BrokerLink::Stub::StartServer, *request, &started, {.canceller = &canceller_});
    return Started(status, started.server(), options_.target.back() == "0");
  }

  int StartUnix() {
    if (options_.target.size() != 1) return FailWith(Misuse("listen -U needs one PATH"));
    v1::StartUnixServerRequest request;
    request.set_request_id(RandomBytes(16));
    request.set_path(UnixPathFromText(options_.target[0]));
    if (tls_.has_value()) *request.mutable_tls() = *tls_;
    absl::StatusOr<v1::ServerOptions> server = MakeServerOptions(options_);
    if (!server.ok()) return FailWith(server.status());
    *request.mutable_options() = *std::move(server);
    if (const int status = Link(); status != kExitOk) return status;
    v1::StartServerResponse started;
    const grpc::Status status = link_->Call(&BrokerLink::Stub::StartUnixServer, request, &started,
                                            {.canceller = &canceller_});
    return Started(status, started.server(), false);
  }

  int Started(const grpc::Status& status, const v1::Server& server, bool port_is_news) {
    if (interrupt_->raised()) return ExitBySignal(interrupt_->signal_number());
    if (!status.ok()) {
      const std::string where =
          options_.unix_socket || options_.target.size() == 1
              ? absl::StrCat(options_.unix_socket ? "" : "port ", options_.target[0])
              : absl::StrCat(options_.target[0], " port ", options_.target[1]);
      return FailWith(ToAbslStatus(address_, absl::StrCat("listen on ", where), status));
    }
    server_ = server.handle();
    notes_.Listening(server, port_is_news);
    return kExitOk;
  }

  int Serve() {
    int status = kExitOk;
    do {
      WaitForRoom();
      v1::Connection connection;
      status = Accept(&connection);
      if (status != kExitOk) break;
      notes_.Received(connection);
      if (connection.has_tls()) notes_.Tls(connection);
      if (!options_.keep) CloseServer();
      if (options_.exec.empty()) {
        status = ServeWithStdio(connection);
        // With -k the end of one conversation, however it came, is not the end of all; a stdout
        // that nobody reads is.
        if (status == kExitFailed && options_.keep) status = kExitOk;
      } else if (options_.keep) {
        StartService(connection);
      } else {
        status = ServeWithCommand(connection);
      }
    } while (options_.keep && status == kExitOk);
    WaitForServices();
    return status;
  }

  int Accept(v1::Connection* connection) {
    v1::AcceptRequest request;
    request.set_server(server_);
    // One id until it is answered: a connection whose reply was lost is had by asking again.
    request.set_request_id(RandomBytes(16));
    while (true) {
      v1::AcceptResponse response;
      const grpc::Status status = link_->Call(&BrokerLink::Stub::Accept, request, &response,
                                              {.canceller = &canceller_, .timeout = kLongPoll});
      if (status.ok()) {
        *connection = response.connection();
        return kExitOk;
      }
      if (interrupt_->raised()) return ExitBySignal(interrupt_->signal_number());
      if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) continue;
      if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
        // The connection waits in the kernel until the broker has room for it.
        const auto detail = DetailOf(status);
        const absl::Duration pause = detail.has_value() && detail->has_retry_after()
                                         ? ToDuration(detail->retry_after())
                                         : absl::Seconds(1);
        canceller_.SleepUnlessCancelled(
            std::clamp(pause, absl::Milliseconds(100), absl::Seconds(10)));
        continue;
      }
      return FailWith(ToAbslStatus(address_, "accept", status));
    }
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

  int ServeWithStdio(const v1::Connection& connection) {
    PumpOptions pump = MakePumpOptions();
    WidenPipe(STDIN_FILENO);
    WidenPipe(STDOUT_FILENO);
    if (isatty(STDIN_FILENO) == 1) {
      pump.at_peer_eof = PumpOptions::PeerEof::kEnd;
    } else if (options_.keep) {
      // A standard input that stays silent does not keep the next one waiting.
      pump.at_peer_eof = PumpOptions::PeerEof::kSendWhatIsThere;
    }
    return Converse(*link_, connection, PeerName(connection), STDIN_FILENO, STDOUT_FILENO, pump,
                    notes_, interrupt_);
  }

  int ServeWithCommand(const v1::Connection& connection) {
    std::vector<std::pair<std::string, std::string>> variables = {
        {"SOCKBROKER_ADDRESS", address_.text()},
        {"SOCKBROKER_HANDLE", HandleText(connection.handle())}};
    AddEndpoint("PEER", connection.peer(), &variables);
    AddEndpoint("SOCK", connection.local(), &variables);
    if (connection.has_tls()) AddTls(connection.tls(), &variables);
    absl::StatusOr<ChildProcess> child = ChildProcess::Spawn(options_.exec, variables);
    if (!child.ok()) {
      PrintError(child.status().message());
      v1::CloseRequest close;
      close.set_handle(connection.handle());
      v1::CloseResponse closed;
      (void)link_->Call(&BrokerLink::Stub::Close, close, &closed, {.timeout = absl::Seconds(2)});
      return kExitFailed;
    }
    PumpOptions pump = MakePumpOptions();
    // A command that reads no more may still have something to say.
    pump.end_when_output_closes = false;
    pump.on_output_end = [&child] { child->CloseInput(); };
    PumpResult result;
    const int status = Converse(*link_, connection, PeerName(connection), child->output(),
                                child->input(), pump, notes_, interrupt_, &result);
    child->CloseInput();
    child->CloseOutput();
    // As a terminal's end would; one that was told by its streams has mostly gone already.
    if (result.end != PumpResult::End::kDone) {
      child->Signal(result.end == PumpResult::End::kInterrupted ? SIGTERM : SIGHUP);
    }
    child->Wait();
    return status;
  }

  void StartService(v1::Connection connection) {
    {
      absl::MutexLock lock(&mutex_);
      ++services_;
    }
    std::thread([this, connection = std::move(connection)] {
      ServeWithCommand(connection);
      absl::MutexLock lock(&mutex_);
      --services_;
    }).detach();
  }

  // Room for one more: nobody is accepted before.
  void WaitForRoom() {
    while (!canceller_.cancelled()) {
      const auto room = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return services_ < options_.max_connections;
      };
      absl::MutexLock lock(&mutex_);
      // In slices, so that an interruption is noticed.
      if (mutex_.AwaitWithTimeout(absl::Condition(&room), absl::Milliseconds(100))) return;
    }
  }

  // This object must outlive the threads; each ends by itself once interrupted.
  void WaitForServices() {
    const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return services_ == 0; };
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&none));
  }

  void KeepServer() {
    v1::GetServerRequest request;
    request.set_handle(server_);
    while (!keeper_canceller_.SleepUnlessCancelled(kTouchEvery)) {
      v1::Server server;
      (void)link_->Call(&BrokerLink::Stub::GetServer, request, &server,
                        {.canceller = &keeper_canceller_, .timeout = kTouchEvery});
    }
  }

  void CloseServer() {
    if (server_closed_) return;
    server_closed_ = true;
    v1::CloseServerRequest request;
    request.set_handle(server_);
    v1::CloseServerResponse response;
    (void)link_->Call(&BrokerLink::Stub::CloseServer, request, &response,
                      {.timeout = absl::Seconds(2), .patience = absl::ZeroDuration()});
  }

  const BrokerAddress& address_;
  const ListenOptions& options_;
  Interrupt* const interrupt_;
  Canceller canceller_;
  Canceller keeper_canceller_;
  Interrupt::Subscription subscription_;
  const Notes notes_;
  std::unique_ptr<BrokerLink> link_;
  absl::optional<v1::TlsOptions> tls_;
  std::string server_;
  bool server_closed_ = false;
  absl::Mutex mutex_;
  // Commands that run now.
  int services_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

int RunListen(const BrokerAddress& address, const ListenOptions& options, Interrupt* interrupt) {
  return ListenRun(address, options, interrupt).Run();
}

}  // namespace sockbroker::client
