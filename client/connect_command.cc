#include "client/connect_command.h"

#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/broker_link.h"
#include "client/console.h"
#include "client/conversation.h"
#include "client/cpp/broker.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/handle_text.h"
#include "client/json_output.h"
#include "client/labels.h"
#include "client/notes.h"
#include "client/port_range.h"
#include "client/port_scan.h"
#include "client/seconds.h"
#include "client/session_link.h"
#include "client/starttls.h"
#include "client/starttls_upgrade.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/wait_for.h"
#include "transport/utf8.h"

namespace sockbroker::client {
namespace {

// The broker has the same limit, and knows what it was waiting for: it is heard out.
constexpr absl::Duration kGrace = absl::Milliseconds(250);

absl::Status Misuse(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(text, "; see `sockbroker connect --help`"));
}

absl::StatusOr<v1::ConnectionOptions> MakeConnectionOptions(const ConnectOptions& options) {
  v1::ConnectionOptions made;
  if (options.timeout.has_value() && *options.timeout > 0) {
    SetDuration(*options.timeout, made.mutable_timeouts()->mutable_connect());
  }
  if (options.lease.has_value()) SetDuration(*options.lease, made.mutable_lease());
  absl::Status status = ParseLabels(options.labels, made.mutable_labels());
  if (!status.ok()) return status;
  return made;
}

// All but the port and what the transfer itself needs.
absl::StatusOr<v1::OpenConnectionRequest> MakeTcpRequest(const ConnectOptions& options) {
  v1::OpenConnectionRequest request;
  if (!IsUtf8(options.target[0])) return Misuse("HOST must be text in UTF-8");
  request.set_host(options.target[0]);
  if (options.ipv4 && options.ipv6) return Misuse("-4 and -6 exclude each other");
  request.set_family(options.ipv4   ? v1::FAMILY_INET
                     : options.ipv6 ? v1::FAMILY_INET6
                                    : v1::FAMILY_UNSPECIFIED);
  if (options.numeric) request.set_flags(AI_NUMERICHOST | AI_NUMERICSERV);
  if (!options.source_address.empty()) request.set_local_host(options.source_address);
  if (!options.source_port.empty()) {
    const absl::StatusOr<Port> port = ParsePort(options.source_port);
    if (!port.ok()) return port.status();
    if (!port->service.empty()) return Misuse("-p takes a number");
    request.set_local_port(port->number);
  }
  // RFC 8305's advice: a family that leads nowhere costs a quarter of a second.
  if (!options.ipv4 && !options.ipv6)
    request.mutable_happy_eyeballs_delay()->set_nanos(250'000'000);
  absl::StatusOr<v1::ConnectionOptions> connection = MakeConnectionOptions(options);
  if (!connection.ok()) return connection.status();
  *request.mutable_options() = *std::move(connection);
  return request;
}

// None without TLS.
absl::StatusOr<absl::optional<v1::TlsOptions>> MakeTls(const ConnectOptions& options) {
  if (!options.tls.enabled()) {
    absl::Status status = CheckWithoutTls(options.tls);
    if (!status.ok()) return status;
    return absl::nullopt;
  }
  absl::StatusOr<v1::TlsOptions> tls =
      MakeClientTls(options.tls, options.unix_socket ? "" : options.target[0]);
  if (!tls.ok()) return tls.status();
  if (options.timeout.has_value() && *options.timeout > 0) {
    SetDuration(*options.timeout, tls->mutable_handshake_timeout());
  }
  return *std::move(tls);
}

// RFC 5321, 4.1.4: who has no name of its own gives its address.
std::string SmtpName(const v1::Endpoint& local) {
  if (!local.has_tcp()) return "localhost";
  const std::string& host = local.tcp().host();
  return absl::StrCat("[", host.find(':') == std::string::npos ? "" : "IPv6:", host, "]");
}

PumpOptions MakePumpOptions(const ConnectOptions& options) {
  PumpOptions pump;
  pump.half_close = options.half_close.value_or(!options.tls.enabled());
  pump.crlf = options.crlf;
  if (options.quit_after_input.has_value() && *options.quit_after_input >= 0) {
    pump.quit_after_input = absl::Seconds(*options.quit_after_input);
  }
  if (options.timeout.has_value() && *options.timeout > 0)
    pump.idle = absl::Seconds(*options.timeout);
  // Nobody at a terminal wants to type on to a peer that has gone.
  if (isatty(STDIN_FILENO) == 1) pump.at_peer_eof = PumpOptions::PeerEof::kEnd;
  return pump;
}

class ConnectRun {
 public:
  ConnectRun(const BrokerAddress& address, const ConnectOptions& options, Interrupt* interrupt)
      : address_(address),
        options_(options),
        interrupt_(interrupt),
        subscription_(interrupt, [this] { canceller_.Cancel(); }),
        notes_(options.verbose, options.json) {}

  int Run() {
    if (options_.unix_socket && options_.target.size() != 1) {
      return FailWith(Misuse("connect -U needs one PATH"));
    }
    if (!options_.unix_socket && options_.target.size() < 2) {
      return FailWith(Misuse("connect needs a HOST and a PORT"));
    }
    if (options_.scan && !options_.tls.starttls.empty()) {
      return FailWith(Misuse("-z and --starttls exclude each other"));
    }
    if (options_.scan && options_.detach) {
      return FailWith(Misuse("-z and --detach exclude each other"));
    }
    absl::StatusOr<absl::optional<v1::TlsOptions>> tls = MakeTls(options_);
    if (!tls.ok()) return FailWith(tls.status());
    tls_ = *std::move(tls);
    if (options_.unix_socket) return RunUnix();
    absl::StatusOr<v1::OpenConnectionRequest> request = MakeTcpRequest(options_);
    if (!request.ok()) return FailWith(request.status());
    if (TlsFromTheStart()) *request->mutable_tls() = *tls_;
    const absl::StatusOr<std::vector<Port>> ports =
        ParsePorts({options_.target.begin() + 1, options_.target.end()});
    if (!ports.ok()) return FailWith(ports.status());
    if (!options_.scan && ports->size() > 1) return FailWith(Misuse("several ports need -z"));
    if (options_.scan) {
      if (const int status = Link(); status != kExitOk) return status;
      return ScanPorts(*link_, *request, *ports,
                       {.verbose = options_.verbose && !options_.json, .json = options_.json},
                       interrupt_);
    }
    return RunTcp(*std::move(request), ports->front());
  }

 private:
  int Link() {
    absl::StatusOr<std::unique_ptr<BrokerLink>> link =
        BrokerLink::Connect(address_, &canceller_, std::min(Left(), absl::Seconds(10)));
    if (interrupt_->raised()) return ExitBySignal(interrupt_->signal_number());
    if (!link.ok()) return FailWith(link.status());
    link_ = *std::move(link);
    return kExitOk;
  }

  int RunTcp(v1::OpenConnectionRequest request, const Port& port) {
    request.set_request_id(RandomBytes(16));
    if (port.service.empty()) {
      request.set_port(port.number);
    } else {
      request.set_service(port.service);
    }
    TuneForConversation(request.mutable_options());
    const std::string& host = options_.target[0];
    target_ = {absl::StrCat(host, " port ", PortText(port)), host, PortText(port)};
    return Go(std::move(request), &BrokerLink::Stub::OpenConnection);
  }

  int RunUnix() {
    if (options_.ipv4 || options_.ipv6 || !options_.source_address.empty() ||
        !options_.source_port.empty()) {
      return FailWith(Misuse("-4, -6, -s and -p have no meaning with -U"));
    }
    v1::OpenUnixConnectionRequest request;
    request.set_request_id(RandomBytes(16));
    request.set_path(UnixPathFromText(options_.target[0]));
    absl::StatusOr<v1::ConnectionOptions> connection = MakeConnectionOptions(options_);
    if (!connection.ok()) return FailWith(connection.status());
    *request.mutable_options() = *std::move(connection);
    TuneForConversation(request.mutable_options());
    if (TlsFromTheStart()) *request.mutable_tls() = *tls_;
    const std::string& path = options_.target[0];
    target_ = {path, path, ""};
    if (options_.scan) return ScanUnix(request);
    return Go(std::move(request), &BrokerLink::Stub::OpenUnixConnection);
  }

  int ScanUnix(const v1::OpenUnixConnectionRequest& request) {
    if (const int status = Link(); status != kExitOk) return status;
    v1::Connection connection;
    const grpc::Status status = Call(request, &BrokerLink::Stub::OpenUnixConnection, &connection);
    if (status.ok()) CloseByCall(connection.handle());
    if (interrupt_->raised()) return ExitBySignal(interrupt_->signal_number());
    if (options_.json) {
      JsonLine line;
      line.Add("unix", target_.host);
      AddProbe(status, connection, &line);
      const int printed = PrintLine(line.Text());
      return printed == kExitOk ? ExitStatusOf(status) : printed;
    }
    if (!status.ok()) return OpenFailed(status);
    notes_.Connected(target_.host, "", connection);
    return kExitOk;
  }

  bool TlsFromTheStart() const { return tls_.has_value() && options_.tls.starttls.empty(); }

  template <typename Request>
  using OpenMethod = BrokerLink::Method<Request, v1::OpenConnectionResponse>;

  template <typename Request>
  int Go(Request request, OpenMethod<Request> method) {
    const bool starttls = !options_.tls.starttls.empty();
    v1::Connection connection;
    // What needs no session, or comes before it.
    if (options_.detach || starttls) {
      if (const int status = OpenByCall(request, method, &connection); status != kExitOk) {
        return status;
      }
      notes_.Connected(target_.host, target_.port, connection);
    }
    if (starttls) {
      if (const absl::Status upgraded = Upgrade(&connection); !upgraded.ok()) {
        CloseByCall(connection.handle());
        return interrupt_->raised() ? ExitBySignal(interrupt_->signal_number())
                                    : FailWith(upgraded);
      }
    }
    if (options_.detach) {
      if (tls_.has_value()) notes_.Tls(connection);
      return PrintDetached(connection);
    }
    streams::EventLoop loop;
    loop.EnableDispatch();
    return loop.RunUntilComplete(Talk(std::move(request), std::move(connection)));
  }

  int PrintDetached(const v1::Connection& connection) {
    const std::string text =
        options_.json ? MessageJson(connection) : HandleText(connection.handle());
    const int status = PrintLine(text);
    // Whose handle nobody has got nobody could use, or close.
    if (status != kExitOk) CloseByCall(connection.handle());
    return status;
  }

  template <typename Request>
  int OpenByCall(const Request& request, OpenMethod<Request> method, v1::Connection* connection) {
    if (const int status = Link(); status != kExitOk) return status;
    const grpc::Status status = Call(request, method, connection);
    return status.ok() ? kExitOk : OpenFailed(status);
  }

  template <typename Request>
  grpc::Status Call(const Request& request, OpenMethod<Request> method,
                    v1::Connection* connection) {
    v1::OpenConnectionResponse opened;
    grpc::Status status = link_->Call(method, request, &opened,
                                      {.canceller = &canceller_, .timeout = Left() + kGrace});
    *connection = std::move(*opened.mutable_connection());
    return status;
  }

  void CloseByCall(const std::string& handle) {
    v1::CloseRequest close;
    close.set_handle(handle);
    v1::CloseResponse closed;
    (void)link_->Call(&BrokerLink::Stub::Close, close, &closed,
                      {.timeout = absl::Seconds(2), .patience = absl::ZeroDuration()});
  }

  int OpenFailed(const grpc::Status& status) {
    if (interrupt_->raised()) return ExitBySignal(interrupt_->signal_number());
    return FailWith(ToAbslStatus(address_, absl::StrCat("connect to ", target_.peer), status,
                                 BindAdvice(status, Bound::kSource)));
  }

  // Opens the connection, or takes up the one that was opened by a call.
  template <typename Request>
  streams::Task<int> Talk(Request request, v1::Connection opened) {
    auto link = co_await SessionLink::Connect(address_, notes_, interrupt_, Patience(),
                                              std::min(Left(), absl::Seconds(10)));
    if (interrupt_->raised()) co_return ExitBySignal(interrupt_->signal_number());
    if (!link.ok()) co_return FailWith(link.status());
    Broker& broker = (*link)->broker();
    absl::StatusOr<Connection> connection;
    if (opened.handle().empty()) {
      ConnectionOptions how;
      TuneForPump(&how);
      connection = co_await UntilInterrupted(
          interrupt_,
          streams::WaitFor(broker.Open(std::move(request), std::move(how)), Left() + kGrace));
    } else {
      AttachOptions how;
      TuneForPump(&how);
      how.read_offset = opened.offsets().read_offset();
      connection = co_await UntilInterrupted(
          interrupt_,
          streams::WaitFor(broker.Attach(opened.handle(), std::move(how)), Left() + kGrace));
    }
    if (!connection.ok()) co_return OpenFailed(ToGrpcStatus(connection.status()));
    const v1::Connection& info = connection->writer.info();
    if (opened.handle().empty()) notes_.Connected(target_.host, target_.port, info);
    if (tls_.has_value()) notes_.Tls(info);
    WidenPipe(STDIN_FILENO);
    WidenPipe(STDOUT_FILENO);
    co_return co_await Converse(link->get(), *std::move(connection), {.peer = target_.peer},
                                MakePumpOptions(options_), notes_, interrupt_);
  }

  // Of -w, which bounds the whole way: to the broker, and from there.
  absl::Duration Left() const {
    if (!options_.timeout.has_value() || *options_.timeout <= 0) return absl::InfiniteDuration();
    return std::max(started_ + absl::Seconds(*options_.timeout) - absl::Now(),
                    absl::ZeroDuration());
  }

  absl::Duration Patience() const {
    return std::max(absl::Seconds(60), absl::Seconds(options_.lease.value_or(0)));
  }

  absl::Status Upgrade(v1::Connection* connection) {
    StartTlsNames names;
    names.server = tls_->server_hostname();
    if (names.server.empty()) names.server = options_.unix_socket ? "localhost" : target_.host;
    names.client = SmtpName(connection->local());
    const std::unique_ptr<StartTlsDialogue> dialogue =
        MakeStartTlsDialogue(options_.tls.starttls, names);
    UpgradeOptions upgrade;
    upgrade.canceller = &canceller_;
    if (options_.timeout.has_value() && *options_.timeout > 0) {
      upgrade.timeout = absl::Seconds(*options_.timeout);
    }
    return UpgradeToTls(*link_, *dialogue, *tls_, target_.peer, upgrade, connection);
  }

  const absl::Time started_ = absl::Now();
  const BrokerAddress& address_;
  const ConnectOptions& options_;
  Interrupt* const interrupt_;
  Canceller canceller_;
  Interrupt::Subscription subscription_;
  const Notes notes_;
  struct Target {
    std::string peer;  // what errors call it
    std::string host;
    std::string port;
  };

  std::unique_ptr<BrokerLink> link_;
  absl::optional<v1::TlsOptions> tls_;
  Target target_;
};

}  // namespace

int RunConnect(const BrokerAddress& address, const ConnectOptions& options, Interrupt* interrupt) {
  return ConnectRun(address, options, interrupt).Run();
}

}  // namespace sockbroker::client
