// The program `sockbroker`: reads the command line and hands over to the command.
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/attach_command.h"
#include "client/broker_address.h"
#include "client/broker_link.h"
#include "client/broker_tls.h"
#include "client/close_command.h"
#include "client/command_line.h"
#include "client/completion.h"
#include "client/connect_command.h"
#include "client/console.h"
#include "client/exit_status.h"
#include "client/forward_command.h"
#include "client/info_command.h"
#include "client/interrupt.h"
#include "client/list_commands.h"
#include "client/listen_command.h"
#include "client/ping_command.h"
#include "client/watch_command.h"

namespace sockbroker::client {
namespace {

void Export(const char* variable, const std::string& value) {
  if (!value.empty()) (void)setenv(variable, value.c_str(), /*overwrite=*/1);
}

int Run(CommandLine& line) {
  if (line.word == "completion") {
    std::string script = CompletionScript(line.app(), line.completion_shell);
    script.pop_back();
    return PrintLine(script);
  }
  absl::StatusOr<BrokerAddress> address = BrokerAddress::Choose(line.broker);
  if (!address.ok()) return FailWith(address.status());
  absl::StatusOr<BrokerTls> tls = BrokerTls::Choose(&line.broker_tls);
  if (!tls.ok()) return FailWith(tls.status());
  // What --exec runs reaches the broker as this program does.
  Export("SOCKBROKER_CACERT", line.broker_tls.ca);
  Export("SOCKBROKER_CERT", line.broker_tls.certificate);
  Export("SOCKBROKER_KEY", line.broker_tls.key);
  address->set_tls(*std::move(tls));
  if (line.word == "ping") return RunPing(*address, line.ping);
  if (line.word == "attach" || line.word == "connect" || line.word == "listen" ||
      line.word == "forward" || line.word == "watch") {
    Interrupt interrupt;
    // attach does it itself, once its files are open.
    if (line.word != "attach") interrupt.CatchSignals();
    const InterruptibleConsole console(&interrupt);
    if (line.word == "attach") return RunAttach(*address, line.attach, &interrupt);
    if (line.word == "connect") return RunConnect(*address, line.connect, &interrupt);
    if (line.word == "listen") return RunListen(*address, line.listen, &interrupt);
    if (line.word == "forward") return RunForward(*address, line.forward, &interrupt);
    absl::StatusOr<std::unique_ptr<BrokerLink>> link = BrokerLink::Connect(*address);
    return link.ok() ? RunWatch(**link, line.watch, &interrupt) : FailWith(link.status());
  }
  absl::StatusOr<std::unique_ptr<BrokerLink>> link = BrokerLink::Connect(*address);
  if (!link.ok()) return FailWith(link.status());
  if (line.word == "ls") return RunListConnections(**link, line.list);
  if (line.word == "servers") return RunListServers(**link, line.list);
  if (line.word == "info") return RunInfo(**link, line.info_handle, line.info_json);
  return RunClose(**link, line.close);
}

int Main(int argc, char** argv) {
  // Whoever stops reading is noticed where it is written to.
  (void)std::signal(SIGPIPE, SIG_IGN);
  // What gRPC thinks of a broker that is not there is said by us.
  (void)setenv("GRPC_VERBOSITY", "NONE", /*replace=*/0);
  CommandLine line;
  const CommandLine::Outcome outcome = line.Parse(std::vector<std::string>(argv + 1, argv + argc));
  if (outcome.run) {
    if (line.has_json_notes()) PrintErrorsAsJson();
    return Run(line);
  }
  if (!outcome.error.empty()) PrintError(outcome.error);
  if (!outcome.out.empty()) {
    std::string out = outcome.out;
    if (out.back() == '\n') out.pop_back();
    if (const int status = PrintLine(out); status != kExitOk) return status;
  }
  return outcome.exit_status;
}

}  // namespace
}  // namespace sockbroker::client

int main(int argc, char** argv) { return sockbroker::client::Main(argc, argv); }
