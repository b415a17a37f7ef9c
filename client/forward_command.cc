#include "client/forward_command.h"

#include <netdb.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/broker_link.h"
#include "client/console.h"
#include "client/cpp/broker.h"
#include "client/cpp/status.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/forward_notes.h"
#include "client/forward_spec.h"
#include "client/labels.h"
#include "client/relay.h"
#include "client/socks5.h"
#include "client/stdio_bridge.h"
#include "streams/error.h"
#include "streams/event_loop.h"
#include "streams/open_connection.h"
#include "streams/server.h"
#include "streams/sleep.h"
#include "streams/wait_for.h"
#include "streams/wait_queue.h"
#include "streams/with_cancel.h"

namespace sockbroker::client {
namespace {

using streams::Task;

constexpr int kBacklog = 1024;
// What a Ctrl-C may still take.
constexpr absl::Duration kGoodbye = absl::Seconds(2);

absl::Status Misuse(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(text, "; see `sockbroker forward --help`"));
}

// Every connection needs one here.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

// The library's word for it, for error_text.h.
grpc::Status ToGrpc(const absl::Status& status) {
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::optional<v1::ErrorDetail> detail = GetErrorDetail(status);
  if (!detail.has_value()) return {code, std::string(status.message())};
  return MakeStatus(code, status.message(), *detail);
}

// What a system call of ours said.
std::string LocalCause(const absl::Status& status) {
  const int error = streams::GetErrno(status);
  if (error == 0) {
    return streams::GetResolverError(status).value_or(std::string(status.message()));
  }
  char buffer[128];
  return strerror_r(error, buffer, sizeof(buffer));
}

streams::Port ToStreamsPort(const Port& port) {
  if (port.service.empty()) return port.number;
  return port.service;
}

// Where a listener of either side listens.
struct Interfaces {
  std::vector<std::string> hosts;  // none: every interface
  int family = AF_UNSPEC;
  // Without the last of `hosts` it will do, if that is no address of this machine.
  bool last_may_lack = false;
};

// `any_port`: the kernel chooses it, or has.
Interfaces InterfacesOf(const ForwardPlace& place, bool any_port) {
  // With two families and a free port, "the port" would be two.
  if (place.host == "*") return {{}, any_port ? AF_INET : AF_UNSPEC};
  if (place.host.empty() || place.host == "localhost") {
    if (any_port) return {{"127.0.0.1"}};
    return {{"127.0.0.1", "::1"}, AF_UNSPEC, /*last_may_lack=*/true};
  }
  return {{place.host}};
}

// Whether `server` listens at `place`, which is not a name but localhost, and has a port.
bool IsAt(const v1::Server& server, const ForwardPlace& place) {
  if (place.is_unix()) {
    return server.sockets_size() == 1 &&
           server.sockets(0).unix() == UnixPathFromText(place.unix_path);
  }
  Interfaces interfaces = InterfacesOf(place, /*any_port=*/false);
  if (interfaces.hosts.empty()) interfaces.hosts = {"0.0.0.0", "::"};
  bool has_first = false;
  for (const v1::Endpoint& socket : server.sockets()) {
    const auto& hosts = interfaces.hosts;
    if (!socket.has_tcp() || socket.tcp().port() != place.port.number ||
        std::find(hosts.begin(), hosts.end(), socket.tcp().host()) == hosts.end()) {
      return false;
    }
    has_first = has_first || socket.tcp().host() == hosts.front();
  }
  return has_first;
}

bool LacksAddress(const absl::Status& status) {
  const int error = streams::GetErrno(status);
  return error == EADDRNOTAVAIL || error == EAFNOSUPPORT;
}

std::string PeerText(const streams::StreamWriter& writer) {
  return writer.peername().is_ip() ? writer.peername().ToString() : "a Unix client";
}

enum class Kind { kLocal, kRemote, kDynamic };

struct Forward {
  Kind kind;
  ForwardSpec spec;

  const char* name() const {
    return kind == Kind::kLocal ? "local" : kind == Kind::kRemote ? "remote" : "dynamic";
  }
  // How it is called in an error.
  std::string Text() const {
    const char* option = kind == Kind::kLocal ? "-L " : kind == Kind::kRemote ? "-R " : "-D ";
    return absl::StrCat(option, spec.listen.Text());
  }
  bool wants_free_port() const { return !spec.listen.is_unix() && spec.listen.port == Port{}; }
};

class ForwardRun {
 public:
  ForwardRun(const BrokerAddress& address, const ForwardOptions& options, Interrupt* interrupt)
      : address_(address),
        options_(options),
        interrupt_(interrupt),
        notes_(options.verbose, options.json) {}

  int Run() {
    if (absl::Status status = Parse(); !status.ok()) return FailWith(status);
    RaiseDescriptorLimit();
    const Interrupt::Subscription subscription(interrupt_,
                                               [this] { loop_.Post([this] { stop_.Cancel(); }); });
    loop_.EnableDispatch();
    const int status = loop_.RunUntilComplete(Main());
    if (bridge_ == nullptr) return status;
    const int delivered = bridge_->Finish(interrupt_->raised());
    return status != kExitOk ? status : delivered;
  }

 private:
  // --- what is asked for

  absl::Status Parse() {
    for (const std::string& text : options_.local) {
      if (absl::Status s = Add(Kind::kLocal, ForwardSpec::ParseListenAndTarget('L', text)); !s.ok())
        return s;
    }
    for (const std::string& text : options_.remote) {
      if (absl::Status s = Add(Kind::kRemote, ForwardSpec::ParseListenAndTarget('R', text));
          !s.ok())
        return s;
    }
    for (const std::string& text : options_.dynamic) {
      if (absl::Status s = Add(Kind::kDynamic, ForwardSpec::ParseDynamic(text)); !s.ok()) return s;
    }
    if (!options_.stdio.empty()) {
      absl::StatusOr<ForwardSpec> spec = ForwardSpec::ParseStdio(options_.stdio);
      if (!spec.ok()) return spec.status();
      stdio_ = std::move(spec->target);
    }
    if (forwards_.empty() && !stdio_.has_value()) {
      return Misuse("forward needs at least one of -L, -R, -D and -W");
    }
    return ParseLabels(options_.labels, connection_options_.mutable_labels());
  }

  absl::Status Add(Kind kind, absl::StatusOr<ForwardSpec> spec) {
    if (!spec.ok()) return spec.status();
    forwards_.push_back({kind, *std::move(spec)});
    return absl::OkStatus();
  }

  // --- the whole

  Task<int> Main() {
    int status = co_await Begin();
    if (status == kExitOk) {
      if (options_.verbose > 0) loop_.Spawn(TellStatus(), stop_.token().state());
      status = co_await WaitForTheEnd();
    }
    co_await End();
    co_return interrupt_->raised() ? ExitBySignal(interrupt_->signal_number()) : status;
  }

  // What was asked for is there, or its failure was told.
  Task<int> Begin() {
    absl::StatusOr<Broker> broker =
        co_await WithCancel(Broker::Connect(address_.text(), MakeBrokerOptions()), stop_.token());
    if (!broker.ok()) {
      if (interrupt_->raised()) co_return kExitFailed;
      co_return FailWith(ToAbslStatus(address_, "connect", ToGrpc(broker.status())));
    }
    broker_ = *std::move(broker);
    connected_ = true;
    incarnation_ = broker_.incarnation();
    for (const Forward& forward : forwards_) {
      const int status = co_await WithCancel(
          forward.kind == Kind::kRemote ? BeginRemote(&forward) : BeginLocal(&forward),
          stop_.token());
      if (status != kExitOk) co_return status;
    }
    if (!stdio_.has_value()) co_return kExitOk;
    absl::StatusOr<std::unique_ptr<StdioBridge>> bridge = StdioBridge::Start();
    if (!bridge.ok()) co_return FailWith(bridge.status());
    bridge_ = *std::move(bridge);
    loop_.Spawn(ServeStdio());
    co_return kExitOk;
  }

  Task<int> WaitForTheEnd() {
    while (!stop_.cancelled() && !exit_status_.has_value()) {
      (void)co_await WithCancel(WaitChanged(), stop_.token());
    }
    co_return exit_status_.value_or(kExitOk);
  }

  Task<absl::Status> WaitChanged() { co_return co_await changed_.Wait(); }

  Task<void> End() {
    ending_ = true;
    stop_.Cancel();
    servers_.clear();
    (void)co_await streams::WaitFor(WaitUntilAllEnded(), kGoodbye);
    // What was aborted must be so at the peers: to them a connection that waits for its lease to
    // end is a silence.
    if (connected_) {
      (void)co_await streams::WaitFor(broker_.WaitEnded(), kGoodbye);
      broker_.Close();
    }
    // They hear of it in later turns.
    (void)co_await streams::WaitFor(WaitUntilAllEnded(), kGoodbye);
    if (connected_ && options_.verbose > 0) TellStatusNow();
  }

  Task<absl::Status> WaitUntilAllEnded() {
    while (open_ > 0 || remotes_ > 0) {
      if (absl::Status status = co_await changed_.Wait(); !status.ok()) co_return status;
    }
    co_return absl::OkStatus();
  }

  Task<void> TellStatus() {
    while (true) {
      TellStatusNow();
      if (!(co_await streams::Sleep(notes_.interval())).ok()) co_return;
    }
  }

  void TellStatusNow() { notes_.Status({open_, total_, traffic_, link_up_}, loop_.Now()); }

  // --- the link

  BrokerOptions MakeBrokerOptions() {
    BrokerOptions options;
    if (const BrokerTls& tls = address_.tls(); tls.enabled()) {
      options.credentials = MutualTls(tls.ca(), tls.certificate(), tls.key());
    }
    options.on_state = [this](const LinkEvent& event) { OnLink(event); };
    return options;
  }

  void OnLink(const LinkEvent& event) {
    if (!connected_ || ending_) return;
    if (event.state == LinkState::kClosed) {
      exit_status_ = FailWith(ToAbslStatus(address_, "session", ToGrpc(event.reason)));
      changed_.WakeAll();
    } else if (event.state == LinkState::kReconnecting && link_up_) {
      link_up_ = false;
      const std::string cause = CauseText(ToGrpc(event.reason));
      notes_.Link(false, absl::StrCat("the link to the broker at ", address_.text(), " broke (",
                                      cause, "); connections wait for it to come back"));
    } else if (event.state == LinkState::kUp && !link_up_) {
      link_up_ = true;
      const bool same = std::exchange(incarnation_, event.incarnation) == event.incarnation;
      notes_.Link(true, same ? "the broker is back; connections go on where they were"
                             : "the broker is back, but was restarted: the connections it had are "
                               "lost, new ones will do");
    }
  }

  // --- the broker's side of a connection

  Task<absl::StatusOr<Connection>> Open(ForwardPlace target) {
    ConnectionOptions options;
    if (target.is_unix()) {
      v1::OpenUnixConnectionRequest request;
      request.set_path(UnixPathFromText(target.unix_path));
      *request.mutable_options() = connection_options_;
      return broker_.Open(std::move(request), std::move(options));
    }
    v1::OpenConnectionRequest request;
    request.set_host(target.host);
    if (target.port.service.empty()) {
      request.set_port(target.port.number);
    } else {
      request.set_service(target.port.service);
    }
    // RFC 8305's advice: a family that leads nowhere costs a quarter of a second.
    request.mutable_happy_eyeballs_delay()->set_nanos(250'000'000);
    *request.mutable_options() = connection_options_;
    return broker_.Open(std::move(request), std::move(options));
  }

  // --- listening here: -L, -D

  Task<int> BeginLocal(const Forward* forward) {
    const ForwardPlace& listen = forward->spec.listen;
    const auto serve = [this, forward](streams::StreamReader reader,
                                       streams::StreamWriter writer) -> Task<void> {
      return Serve(forward, {std::move(reader), std::move(writer)});
    };
    absl::StatusOr<streams::Server> server;
    if (listen.is_unix()) {
      streams::StartUnixServerOptions options;
      options.backlog = kBacklog;
      // As ssh's StreamLocalBindMask: its owner's alone.
      options.mode = 0600;
      server =
          co_await streams::StartUnixServer(serve, UnixPathFromText(listen.unix_path), options);
    } else {
      Interfaces interfaces = InterfacesOf(listen, forward->wants_free_port());
      streams::StartServerOptions options;
      options.backlog = kBacklog;
      options.family = interfaces.family;
      const streams::Port port = ToStreamsPort(listen.port);
      server = co_await streams::StartServer(serve, interfaces.hosts, port, options);
      if (!server.ok() && interfaces.last_may_lack && LacksAddress(server.status())) {
        interfaces.hosts.pop_back();
        server = co_await streams::StartServer(serve, interfaces.hosts, port, options);
      }
    }
    if (!server.ok()) {
      if (interrupt_->raised()) co_return kExitFailed;
      std::string text = absl::StrCat(forward->Text(), ": ", LocalCause(server.status()));
      const int error = streams::GetErrno(server.status());
      if (error == EADDRINUSE && !listen.is_unix()) text += "; port 0 takes a free one";
      if (error == EACCES && !listen.is_unix()) text += "; take a port above 1023";
      co_return FailWith(absl::FailedPreconditionError(text));
    }
    notes_.Listening(forward->name(), server->sockets(), TargetText(*forward),
                     forward->wants_free_port());
    servers_.push_back(*std::move(server));
    co_return kExitOk;
  }

  static std::string TargetText(const Forward& forward) {
    return forward.kind == Kind::kDynamic ? "" : forward.spec.target.Text();
  }

  Task<void> Serve(const Forward* forward, streams::Connection local) {
    const Counted counted(this);
    co_await WithCancel(forward->kind == Kind::kDynamic ? ServeDynamic(forward, std::move(local))
                                                        : ServeLocal(forward, std::move(local)),
                        stop_.token());
  }

  Task<void> ServeLocal(const Forward* forward, streams::Connection local) {
    const std::string who = PeerText(local.writer);
    absl::StatusOr<Connection> remote = co_await Open(forward->spec.target);
    if (!remote.ok()) {
      ConnectFailed(*forward, forward->spec.target, remote.status());
      local.writer.Abort();
      co_return;
    }
    co_await RunRelay(forward->Text(), who, forward->spec.target.Text(), std::move(local),
                      *std::move(remote));
  }

  void ConnectFailed(const Forward& forward, const ForwardPlace& target,
                     const absl::Status& status) {
    if (stop_.cancelled()) return;
    notes_.Problem(absl::StrCat(
        forward.Text(), ": connect to ", target.Text(), " failed: ",
        forward.kind == Kind::kRemote ? LocalCause(status) : CauseText(ToGrpc(status))));
  }

  Task<RelayEnd> RunRelay(std::string forward, std::string from, std::string to,
                          streams::Connection local, Connection remote) {
    if (options_.verbose >= 2) {
      notes_.Connection(absl::StrCat(forward, ": ", from, " is connected to ", to));
    }
    RelayEnd end = co_await Relay::Run(std::move(local), std::move(remote), &traffic_);
    if (options_.verbose >= 2) {
      const std::string why = !end.remote.ok()  ? CauseText(ToGrpc(end.remote))
                              : !end.local.ok() ? LocalCause(end.local)
                                                : "both ends are done";
      notes_.Connection(absl::StrCat(forward, ": ", from, " to ", to, " has ended: ", why));
    }
    co_return end;
  }

  Task<void> ServeDynamic(const Forward* forward, streams::Connection local) {
    const std::string who = PeerText(local.writer);
    Socks5Handshake handshake;
    while (handshake.wanted() > 0) {
      absl::StatusOr<absl::Cord> bytes = co_await local.reader.ReadExactly(handshake.wanted());
      if (!bytes.ok()) {
        local.writer.Close();
        co_return;
      }
      const std::string reply = handshake.Feed(std::string(*bytes));
      if (!reply.empty()) (void)local.writer.Write(reply);
    }
    if (handshake.failed()) {
      notes_.Problem(absl::StrCat(forward->Text(), ": ", who, ": ", handshake.error()));
      local.writer.Close();
      co_return;
    }
    ForwardPlace target;
    target.host = handshake.host();
    target.port.number = handshake.port();
    absl::StatusOr<Connection> remote = co_await Open(target);
    if (!remote.ok()) {
      ConnectFailed(*forward, target, remote.status());
      (void)local.writer.Write(Socks5Reply(Socks5CodeFor(remote.status())));
      local.writer.Close();
      co_return;
    }
    (void)local.writer.Write(Socks5Reply(Socks5Code::kSucceeded, remote->writer.sockname()));
    co_await RunRelay(forward->Text(), who, target.Text(), std::move(local), *std::move(remote));
  }

  // --- listening at the broker: -R

  Task<int> BeginRemote(const Forward* forward) {
    absl::StatusOr<Server> server = co_await StartRemote(forward, forward->spec.listen);
    bool taken_up = false;
    if (streams::GetErrno(server.status()) == EADDRINUSE) {
      if (absl::StatusOr<Server> left = co_await TakeUp(forward); left.ok()) {
        server = *std::move(left);
        taken_up = true;
      }
    }
    if (!server.ok()) {
      if (interrupt_->raised()) co_return kExitFailed;
      const grpc::Status failed = ToGrpc(server.status());
      co_return FailWith(ToAbslStatus(
          address_, absl::StrCat(forward->Text(), ": listening at the broker"), failed,
          BindAdvice(failed, forward->spec.listen.is_unix() ? Bound::kPath : Bound::kPort)));
    }
    notes_.Listening(forward->name(), server->sockets(), TargetText(*forward),
                     forward->wants_free_port());
    if (taken_up) {
      notes_.Problem(
          absl::StrCat(forward->Text(),
                       ": taken up from a forward of yours that has gone; who waited is served"));
    }
    loop_.Spawn(KeepRemote(forward, *std::move(server)));
    co_return kExitOk;
  }

  ClientConnected ServeFor(const Forward* forward) {
    return [this, forward](StreamReader reader, StreamWriter writer) -> Task<void> {
      return ServeRemote(forward, {std::move(reader), std::move(writer)});
    };
  }

  void Fill(ServerOptions* options) const {
    options->backlog = kBacklog;
    options->accepted.broker = connection_options_;
    *options->broker.mutable_labels() = connection_options_.labels();
  }

  // A forward that was killed leaves its listener to the lease, and whoever connects meanwhile
  // waits in it: the one that is started again in its place goes on with it. Not found: the address
  // is another's, or somebody serves it.
  Task<absl::StatusOr<Server>> TakeUp(const Forward* forward) {
    // The broker may not have heard yet that the other has gone.
    const absl::Time deadline = loop_.Now() + absl::Seconds(2);
    Backoff backoff;
    while (true) {
      absl::StatusOr<v1::Server> left = co_await FindOwn(forward->spec.listen);
      if (!left.ok()) co_return left.status();
      absl::StatusOr<bool> attended = co_await IsAttended(*left);
      if (!attended.ok()) co_return attended.status();
      if (!*attended) {
        ServerOptions options;
        Fill(&options);
        co_return co_await broker_.AttachServer(ServeFor(forward), left->handle(),
                                                std::move(options));
      }
      if (loop_.Now() >= deadline) co_return absl::NotFoundError("somebody serves it");
      if (absl::Status s = co_await streams::Sleep(backoff.Next()); !s.ok()) co_return s;
    }
  }

  // A server of ours as StartRemote makes them.
  Task<absl::StatusOr<v1::Server>> FindOwn(ForwardPlace listen) {
    v1::ListServersRequest request;
    while (true) {
      absl::StatusOr<v1::ListServersResponse> page =
          co_await broker_.Call(&Broker::Rpcs::ListServers, request, /*repeat=*/true);
      if (!page.ok()) co_return page.status();
      for (const v1::Server& server : page->servers()) {
        if (server.is_serving() && server.name().empty() &&
            server.options().backlog() == kBacklog &&
            LabelsText(server.options().labels()) == LabelsText(connection_options_.labels()) &&
            IsAt(server, listen)) {
          co_return server;
        }
      }
      if (page->next_page_token().empty()) co_return absl::NotFoundError("none is there");
      request.set_page_token(page->next_page_token());
    }
  }

  Task<absl::StatusOr<bool>> IsAttended(v1::Server server) {
    if (server.waiting_accepts() > 0) co_return true;
    v1::ListConnectionsRequest request;
    request.set_server(server.handle());
    while (true) {
      absl::StatusOr<v1::ListConnectionsResponse> page =
          co_await broker_.Call(&Broker::Rpcs::ListConnections, request, /*repeat=*/true);
      if (!page.ok()) co_return page.status();
      for (const v1::Connection& connection : page->connections()) {
        if (connection.bound()) co_return true;
      }
      if (page->next_page_token().empty()) co_return false;
      request.set_page_token(page->next_page_token());
    }
  }

  Task<absl::StatusOr<Server>> StartRemote(const Forward* forward, ForwardPlace listen) {
    const ClientConnected serve = ServeFor(forward);
    if (listen.is_unix()) {
      StartUnixServerOptions options;
      Fill(&options);
      options.mode = 0600;
      co_return co_await broker_.StartUnixServer(serve, UnixPathFromText(listen.unix_path),
                                                 std::move(options));
    }
    Interfaces interfaces = InterfacesOf(listen, forward->wants_free_port());
    StartServerOptions options;
    Fill(&options);
    options.family = interfaces.family;
    const streams::Port port = ToStreamsPort(listen.port);
    absl::StatusOr<Server> server =
        co_await broker_.StartServer(serve, interfaces.hosts, port, options);
    if (server.ok() || !interfaces.last_may_lack || !LacksAddress(server.status())) {
      co_return server;
    }
    interfaces.hosts.pop_back();
    co_return co_await broker_.StartServer(serve, interfaces.hosts, port, options);
  }

  // Until the end: a broker that was restarted, or let the lease run out, is asked again.
  Task<void> KeepRemote(const Forward* forward, Server server) {
    ++remotes_;
    // What the kernel chose first stays.
    ForwardPlace listen = forward->spec.listen;
    if (forward->wants_free_port() && !server.sockets().empty()) {
      listen.port.number = server.sockets()[0].port();
    }
    while (true) {
      absl::Status status = co_await WithCancel(server.ServeForever(), stop_.token());
      if (stop_.cancelled()) break;
      notes_.Problem(absl::StrCat(forward->Text(), ": the broker listens no more (",
                                  CauseText(ToGrpc(status)), "); listening again"));
      if (!co_await WithCancel(RestartRemote(forward, listen, &server), stop_.token())) break;
    }
    co_await CloseRemote(std::move(server));
    --remotes_;
    changed_.WakeAll();
  }

  Task<bool> RestartRemote(const Forward* forward, ForwardPlace listen, Server* server) {
    std::string told;
    Backoff backoff;
    while (true) {
      absl::StatusOr<Server> again = co_await StartRemote(forward, listen);
      if (again.ok()) {
        *server = *std::move(again);
        notes_.Listening(forward->name(), server->sockets(), TargetText(*forward), true);
        co_return true;
      }
      if (stop_.cancelled()) co_return false;
      const std::string text = ErrorLine(absl::StrCat(forward->Text(), ": listening at the broker"),
                                         ToGrpc(again.status()));
      if (std::exchange(told, text) != text) {
        notes_.Problem(absl::StrCat(text, "; trying again"));
      }
      if (!(co_await streams::Sleep(backoff.Next())).ok()) co_return false;
    }
  }

  // So that it is closed before we go.
  Task<void> CloseRemote(Server server) {
    v1::CloseServerRequest request;
    request.set_handle(server.handle());
    (void)co_await streams::WaitFor(broker_.Call(&Broker::Rpcs::CloseServer, std::move(request)),
                                    kGoodbye);
  }

  Task<void> ServeRemote(const Forward* forward, Connection remote) {
    const Counted counted(this);
    co_await WithCancel(ServeAccepted(forward, std::move(remote)), stop_.token());
  }

  Task<void> ServeAccepted(const Forward* forward, Connection remote) {
    const std::string who = PeerText(remote.writer);
    const ForwardPlace& target = forward->spec.target;
    absl::StatusOr<streams::Connection> local;
    if (target.is_unix()) {
      local = co_await streams::OpenUnixConnection(UnixPathFromText(target.unix_path));
    } else {
      streams::OpenConnectionOptions options;
      options.happy_eyeballs_delay = absl::Milliseconds(250);
      local = co_await streams::OpenConnection(target.host, ToStreamsPort(target.port), options);
    }
    if (!local.ok()) {
      ConnectFailed(*forward, target, local.status());
      remote.writer.Abort();
      co_return;
    }
    co_await RunRelay(forward->Text(), who, target.Text(), *std::move(local), std::move(remote));
  }

  // --- stdin and stdout: -W

  Task<void> ServeStdio() {
    const Counted counted(this);
    exit_status_ = co_await WithCancel(RunStdio(), stop_.token());
    changed_.WakeAll();
  }

  Task<int> RunStdio() {
    absl::StatusOr<Connection> remote = co_await Open(*stdio_);
    if (!remote.ok()) {
      if (stop_.cancelled()) co_return kExitFailed;
      const std::string action = absl::StrCat("connect to ", stdio_->Text());
      co_return FailWith(ToAbslStatus(address_, action, ToGrpc(remote.status())));
    }
    absl::StatusOr<streams::Connection> local =
        co_await streams::OpenConnection(bridge_->TakeSocket());
    if (!local.ok()) co_return FailWith(local.status());
    const RelayEnd end =
        co_await RunRelay("-W", "stdin", stdio_->Text(), *std::move(local), *std::move(remote));
    if (stop_.cancelled() || (end.remote.ok() && end.local.ok())) co_return kExitOk;
    // Without a word when it was stdout that nobody reads: Run sees that.
    if (end.remote.ok() || GetReason(end.remote) == v1::ABORTED_BY_CLIENT) co_return kExitOk;
    co_return FailWith(absl::FailedPreconditionError(
        absl::StrCat(stdio_->Text(), ": ", CauseText(ToGrpc(end.remote)))));
  }

  // A connection while it is served.
  class Counted {
   public:
    explicit Counted(ForwardRun* run) : run_(run) {
      ++run_->open_;
      ++run_->total_;
    }
    ~Counted() {
      --run_->open_;
      run_->changed_.WakeAll();
    }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;

   private:
    ForwardRun* const run_;
  };

  const BrokerAddress& address_;
  const ForwardOptions& options_;
  Interrupt* const interrupt_;
  ForwardNotes notes_;
  std::vector<Forward> forwards_;
  std::optional<ForwardPlace> stdio_;
  v1::ConnectionOptions connection_options_;

  streams::CancelSource stop_;
  streams::WaitQueue changed_;
  Broker broker_;
  bool connected_ = false;
  bool ending_ = false;
  bool link_up_ = true;
  uint64_t incarnation_ = 0;
  std::optional<int> exit_status_;
  int open_ = 0;
  int remotes_ = 0;
  uint64_t total_ = 0;
  RelayTraffic traffic_;
  std::unique_ptr<StdioBridge> bridge_;
  std::vector<streams::Server> servers_;
  // The first to go: what still runs on it refers to the rest.
  streams::EventLoop loop_;
};

}  // namespace

int RunForward(const BrokerAddress& address, const ForwardOptions& options, Interrupt* interrupt) {
  return ForwardRun(address, options, interrupt).Run();
}

}  // namespace sockbroker::client
