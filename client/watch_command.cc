#include "client/watch_command.h"

#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/console.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/handle_text.h"
#include "client/json_output.h"
#include "client/labels.h"
#include "client/seconds.h"

namespace sockbroker::client {
namespace {

// How many digits of a handle a line shows: what comes later can't be known, so it is more than a
// table's.
constexpr std::size_t kShownDigits = 12;

std::string KindWord(const v1::ConnectionEvent& event) {
  if (event.existing()) return "existing";
  return absl::AsciiStrToLower(v1::ConnectionEvent::Kind_Name(event.kind()));
}

}  // namespace

std::string EventText(const v1::ConnectionEvent& event) {
  const std::string at = absl::FormatTime("%H:%M:%E3S", ToTime(event.at()), absl::LocalTimeZone());
  if (event.kind() == v1::ConnectionEvent::GAP) {
    return absl::StrCat(at,
                        "  gap       events were missed; `sockbroker ls` shows how things stand");
  }
  const v1::Connection& connection = event.connection();
  std::string text =
      absl::StrFormat("%s  %-8s  %s  %s - %s", at, KindWord(event),
                      HandleText(connection.handle()).substr(0, kShownDigits),
                      EndpointText(connection.local()), EndpointText(connection.peer()));
  if (event.kind() == v1::ConnectionEvent::CLOSED) {
    absl::StrAppend(&text, "  ", CloseReasonText(connection.close_reason()), ", ",
                    connection.offsets().received(), " bytes received, ",
                    connection.offsets().write_offset(), " sent");
  }
  return Printable(text);
}

int RunWatch(BrokerLink& link, const WatchOptions& options, Interrupt* interrupt) {
  v1::WatchConnectionsRequest request;
  if (absl::Status status = ParseLabels(options.labels, request.mutable_labels()); !status.ok()) {
    return FailWith(status);
  }
  if (!options.server.empty()) {
    const absl::StatusOr<NamedHandle> server =
        ResolveHandle(link, options.server, HandleKind::kServer);
    if (!server.ok()) return FailWith(server.status());
    request.set_server(server->handle);
  }
  Canceller canceller;
  Interrupt::Subscription subscription(interrupt, [&] { canceller.Cancel(); });
  int printed = kExitOk;
  bool lost = false;
  Backoff backoff;
  while (true) {
    bool any = false;
    const grpc::Status status = link.Repeat(
        [&](grpc::ClientContext* context) {
          std::unique_ptr<grpc::ClientReaderInterface<v1::ConnectionEvent>> reader =
              link.stub().WatchConnections(context, request);
          v1::ConnectionEvent event;
          while (printed == kExitOk && reader->Read(&event)) {
            if (lost) PrintError("the broker is back");
            lost = false;
            any = true;
            // SYNCED is for programs: people see that "existing" stops.
            if (options.json || event.kind() != v1::ConnectionEvent::SYNCED) {
              printed = PrintLine(options.json ? MessageJson(event) : EventText(event));
            }
            // What was not printed is asked for again; a break before SYNCED begins anew.
            if (printed == kExitOk && !event.existing()) {
              request.set_after_sequence(event.sequence());
              request.set_incarnation(event.incarnation());
            }
          }
          if (printed != kExitOk) context->TryCancel();
          grpc::Status finished = reader->Finish();
          // A watch ends only when its broker does.
          if (finished.ok())
            finished = {grpc::StatusCode::UNAVAILABLE, "the broker ended the watch"};
          return printed == kExitOk ? finished : grpc::Status::OK;
        },
        {.canceller = &canceller, .patience = absl::ZeroDuration()});
    if (printed != kExitOk) return printed;
    if (interrupt->raised()) return ExitBySignal(interrupt->signal_number());
    if (!IsBrokenLink(status) && ReasonOf(status) != v1::DRAINING) {
      return FailWith(ToAbslStatus(link.address(), "watch", status));
    }
    // A watch is left alone for days: it waits for its broker as long as it takes.
    if (!lost)
      PrintError(absl::StrCat("lost the broker at ", link.address().text(), "; waiting for it"));
    lost = true;
    if (any) backoff = Backoff();
    if (canceller.SleepUnlessCancelled(backoff.Next()) ||
        (!link.AwaitConnected(absl::InfiniteFuture(), &canceller) && canceller.cancelled())) {
      return ExitBySignal(interrupt->signal_number());
    }
  }
}

}  // namespace sockbroker::client
