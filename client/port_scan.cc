#include "client/port_scan.h"

#include <algorithm>
#include <cstddef>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/console.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/notes.h"

namespace sockbroker::client {
namespace {

struct Probe {
  bool done = false;
  grpc::Status status;
  v1::Connection connection;
};

class Scan {
 public:
  Scan(BrokerLink& link, const v1::OpenConnectionRequest& request, const std::vector<Port>& ports,
       Interrupt* interrupt)
      : link_(link),
        request_(request),
        ports_(ports),
        probes_(ports.size()),
        subscription_(interrupt, [this] { canceller_.Cancel(); }) {}

  // One of several threads that do the same.
  void Work() {
    while (!canceller_.cancelled()) {
      std::size_t index = 0;
      {
        absl::MutexLock lock(&mutex_);
        if (next_ == ports_.size()) return;
        index = next_++;
      }
      Probe probe = Try(ports_[index]);
      probe.done = true;
      absl::MutexLock lock(&mutex_);
      probes_[index] = std::move(probe);
    }
  }

  // Waits for that one; not done when the scan was interrupted.
  Probe Result(std::size_t index) {
    while (true) {
      absl::MutexLock lock(&mutex_);
      const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return probes_[index].done; };
      // In slices, so that an interruption is noticed.
      if (mutex_.AwaitWithTimeout(absl::Condition(&done), absl::Milliseconds(100)) ||
          canceller_.cancelled()) {
        return probes_[index];
      }
    }
  }

 private:
  Probe Try(const Port& port) {
    Probe probe;
    v1::OpenConnectionRequest request = request_;
    if (port.service.empty()) {
      request.set_port(port.number);
    } else {
      request.set_service(port.service);
    }
    // Nothing is to outlive us: no request_id, so that an attempt whose caller goes away ends.
    v1::OpenConnectionResponse response;
    probe.status = link_.Call(&BrokerLink::Stub::OpenConnection, request, &response,
                              {.canceller = &canceller_, .patience = absl::ZeroDuration()});
    if (!probe.status.ok()) return probe;
    probe.connection = response.connection();
    v1::CloseRequest close;
    close.set_handle(probe.connection.handle());
    v1::CloseResponse closed;
    (void)link_.Call(&BrokerLink::Stub::Close, close, &closed, {.timeout = absl::Seconds(5)});
    return probe;
  }

  BrokerLink& link_;
  const v1::OpenConnectionRequest& request_;
  const std::vector<Port>& ports_;
  Canceller canceller_;
  absl::Mutex mutex_;
  std::size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Probe> probes_ ABSL_GUARDED_BY(mutex_);
  Interrupt::Subscription subscription_;
};

int PrintJson(const std::string& host, const Port& port, const Probe& probe) {
  JsonLine line;
  line.Add("host", host);
  if (port.service.empty()) {
    line.Add("port", port.number);
  } else {
    line.Add("port", port.service);
  }
  AddProbe(probe.status, probe.connection, &line);
  return PrintLine(line.Text());
}

}  // namespace

void AddProbe(const grpc::Status& status, const v1::Connection& connection, JsonLine* line) {
  line->Add("open", status.ok());
  if (status.ok()) {
    line->AddJson("peer", EndpointJson(connection.peer()));
  } else {
    line->Add("reason", absl::AsciiStrToLower(v1::Reason_Name(ReasonOf(status))))
        .Add("error", CauseText(status));
  }
}

int ScanPorts(BrokerLink& link, const v1::OpenConnectionRequest& request,
              const std::vector<Port>& ports, const ScanOptions& options, Interrupt* interrupt) {
  Scan scan(link, request, ports, interrupt);
  std::vector<std::thread> threads(
      std::min(ports.size(), static_cast<std::size_t>(std::max(options.at_once, 1))));
  for (std::thread& thread : threads) thread = std::thread([&scan] { scan.Work(); });

  bool any = false;
  int printed = kExitOk;
  grpc::Status failure;
  for (std::size_t i = 0; i < ports.size() && printed == kExitOk; ++i) {
    const Probe probe = scan.Result(i);
    if (!probe.done) break;
    any = any || probe.status.ok();
    if (!probe.status.ok() && failure.ok()) failure = probe.status;
    if (options.json) printed = PrintJson(request.host(), ports[i], probe);
    if (!options.verbose) continue;
    if (probe.status.ok()) {
      PrintNote(
          Printable(ConnectedText(request.host(), PortText(ports[i]), probe.connection.peer())));
    } else {
      PrintError(ErrorLine(
          absl::StrCat("connect to ", request.host(), " port ", PortText(ports[i])), probe.status));
    }
  }
  if (printed != kExitOk) interrupt->Raise(SIGPIPE);
  for (std::thread& thread : threads) thread.join();
  if (printed != kExitOk) return printed;
  if (interrupt->raised()) return ExitBySignal(interrupt->signal_number());
  if (any) return kExitOk;
  // Said once if it was not said for each port: nc says nothing, but why it failed is worth a line
  // when it was one.
  if (!options.verbose && !options.json && ports.size() == 1) {
    PrintError(ErrorLine(absl::StrCat("connect to ", request.host(), " port ", PortText(ports[0])),
                         failure));
  }
  return ExitStatusOf(failure);
}

}  // namespace sockbroker::client
