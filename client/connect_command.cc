#include "client/connect_command.h"

#include <netdb.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/broker_link.h"
#include "client/console.h"
#include "client/conversation.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/labels.h"
#include "client/notes.h"
#include "client/port_range.h"
#include "client/port_scan.h"
#include "client/seconds.h"

namespace sockbroker::client {
namespace {

absl::Status Misuse(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(text, "; see `sockbroker connect --help`"));
}

absl::StatusOr<v1::ConnectionOptions> MakeConnectionOptions(const ConnectOptions& options) {
  v1::ConnectionOptions made;
  if (options.timeout.has_value() && *options.timeout > 0) {
    SetDuration(*options.timeout, made.mutable_timeouts()->mutable_connect());
  }
  absl::Status status = ParseLabels(options.labels, made.mutable_labels());
  if (!status.ok()) return status;
  return made;
}

// All but the port and what the transfer itself needs.
absl::StatusOr<v1::OpenConnectionRequest> MakeTcpRequest(const ConnectOptions& options) {
  v1::OpenConnectionRequest request;
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

PumpOptions MakePumpOptions(const ConnectOptions& options) {
  PumpOptions pump;
  pump.half_close = options.half_close;
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
    if (options_.unix_socket) return RunUnix();
    if (options_.target.size() < 2) return FailWith(Misuse("connect needs a HOST and a PORT"));
    absl::StatusOr<v1::OpenConnectionRequest> request = MakeTcpRequest(options_);
    if (!request.ok()) return FailWith(request.status());
    const absl::StatusOr<std::vector<Port>> ports =
        ParsePorts({options_.target.begin() + 1, options_.target.end()});
    if (!ports.ok()) return FailWith(ports.status());
    if (!options_.scan && ports->size() > 1) return FailWith(Misuse("several ports need -z"));
    if (const int status = Link(); status != kExitOk) return status;
    if (options_.scan) {
      return ScanPorts(*link_, *request, *ports,
                       {.verbose = options_.verbose, .json = options_.json}, interrupt_);
    }
    return RunTcp(*std::move(request), ports->front());
  }

 private:
  int Link() {
    absl::StatusOr<std::unique_ptr<BrokerLink>> link = BrokerLink::Connect(address_, &canceller_);
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
    TuneForPump(request.mutable_options());
    const std::string& host = options_.target[0];
    const std::string peer = absl::StrCat(host, " port ", PortText(port));
    v1::OpenConnectionResponse opened;
    const grpc::Status status = link_->Call(&BrokerLink::Stub::OpenConnection, request, &opened,
                                            {.canceller = &canceller_});
    return Converse(status, opened.connection(), peer, host, PortText(port));
  }

  int RunUnix() {
    if (options_.target.size() != 1) return FailWith(Misuse("connect -U needs one PATH"));
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
    TuneForPump(request.mutable_options());
    if (const int status = Link(); status != kExitOk) return status;
    const std::string& path = options_.target[0];
    v1::OpenConnectionResponse opened;
    const grpc::Status status = link_->Call(&BrokerLink::Stub::OpenUnixConnection, request, &opened,
                                            {.canceller = &canceller_});
    if (status.ok() && options_.scan) {
      if (options_.verbose || options_.json) notes_.Connected(path, "", opened.connection());
      v1::CloseRequest close;
      close.set_handle(opened.connection().handle());
      v1::CloseResponse closed;
      (void)link_->Call(&BrokerLink::Stub::Close, close, &closed, {.timeout = absl::Seconds(5)});
      return kExitOk;
    }
    return Converse(status, opened.connection(), path, path, "");
  }

  int Converse(const grpc::Status& opened, const v1::Connection& connection,
               const std::string& peer, const std::string& host, const std::string& port) {
    if (!opened.ok()) {
      if (interrupt_->raised()) return ExitBySignal(interrupt_->signal_number());
      return FailWith(ToAbslStatus(address_, absl::StrCat("connect to ", peer), opened));
    }
    notes_.Connected(host, port, connection);
    WidenPipe(STDIN_FILENO);
    WidenPipe(STDOUT_FILENO);
    return client::Converse(*link_, connection, peer, STDIN_FILENO, STDOUT_FILENO,
                            MakePumpOptions(options_), notes_, interrupt_);
  }

  const BrokerAddress& address_;
  const ConnectOptions& options_;
  Interrupt* const interrupt_;
  Canceller canceller_;
  Interrupt::Subscription subscription_;
  const Notes notes_;
  std::unique_ptr<BrokerLink> link_;
};

}  // namespace

int RunConnect(const BrokerAddress& address, const ConnectOptions& options, Interrupt* interrupt) {
  return ConnectRun(address, options, interrupt).Run();
}

}  // namespace sockbroker::client
