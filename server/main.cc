// sockbrokerd: the process around the Broker: flags, signals, listeners, and an orderly end.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "server/audit_log.h"
#include "server/broker.h"
#include "server/control_plane.h"
#include "server/default_broker_id.h"
#include "server/descriptor_budget.h"
#include "server/flags.h"
#include "server/inherited_descriptors.h"
#include "server/key_log.h"
#include "server/listen_address.h"
#include "server/listening_socket.h"
#include "server/logging.h"
#include "server/service_manager.h"
#include "server/termination_signals.h"

namespace sockbroker::server {
namespace {

// What the main thread and the one for signals share.
class Termination {
 public:
  // The first signal begins the drain; another one, or a drain that got stuck, ends the process at
  // once.
  void OnSignal(int signal, int count) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (count > 1) LeaveAtOnce(128 + signal);
    requested_ = true;
  }

  // While it is set, its sockets' files are removed by whoever leaves at once.
  void set_control_plane(const ControlPlane* plane) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    plane_ = plane;
  }

  void WaitForFirst() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&requested_));
  }

  void GiveUp() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    LeaveAtOnce(kExitFailure);
  }

 private:
  [[noreturn]] void LeaveAtOnce(int status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (plane_ != nullptr) plane_->RemoveFiles();
    // Not exit(): other threads still use what destructors would take from them.
    _exit(status);
  }

  absl::Mutex mutex_;
  bool requested_ ABSL_GUARDED_BY(mutex_) = false;
  const ControlPlane* plane_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// Ends the process with kExitFailure if it is not destroyed within `timeout`.
class Watchdog {
 public:
  Watchdog(absl::Duration timeout, Termination* termination)
      : thread_([this, timeout, termination] {
          if (done_.WaitForNotificationWithTimeout(timeout)) return;
          spdlog::error("the end took longer than --drain-timeout; leaving at once");
          termination->GiveUp();
        }) {}
  ~Watchdog() {
    done_.Notify();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  absl::Notification done_;
  std::thread thread_;
};

int Fail(const absl::Status& status) {
  std::cerr << "sockbrokerd: " << status.message() << "\n" << std::flush;
  return kExitFailure;
}

// A manager that can't be told is its own trouble: clients are served.
void TellManager(const ServiceManager& manager, absl::string_view state) {
  if (absl::Status told = manager.Tell(state); !told.ok()) {
    spdlog::warn("{}", std::string(told.message()));
  }
}

absl::StatusOr<std::vector<ListeningSocket>> OpenListeners(const Flags& flags,
                                                           InheritedDescriptors* inherited) {
  std::vector<ListeningSocket> all;
  for (const ListenAddress& address : flags.listen) {
    absl::StatusOr<std::vector<ListeningSocket>> sockets =
        ListeningSocket::Open(address, flags.listen_policy(), inherited);
    if (!sockets.ok()) return sockets.status();
    for (ListeningSocket& socket : *sockets) all.push_back(std::move(socket));
  }
  return all;
}

int Run(const Flags& flags) {
  // Before any thread: it changes the environment.
  absl::StatusOr<std::unique_ptr<InheritedDescriptors>> inherited =
      InheritedDescriptors::FromEnvironment();
  if (!inherited.ok()) return Fail(inherited.status());
  const ServiceManager manager = ServiceManager::FromEnvironment();

  // Before any other thread: they inherit the blocked signals.
  Termination termination;
  const TerminationSignals signals(
      [&](int signal, int count) { termination.OnSignal(signal, count); });

  absl::StatusOr<uint64_t> descriptor_limit = RaiseDescriptorLimit();
  if (!descriptor_limit.ok()) return Fail(descriptor_limit.status());
  DescriptorBudget descriptors(*descriptor_limit);
  if (descriptors.capacity() == 0) {
    return Fail(absl::FailedPreconditionError(
        absl::StrCat("the limit of open files (ulimit -Hn) is ", *descriptor_limit, ", and ",
                     descriptors.reserve(), " stay reserved: nothing could be opened")));
  }
  std::optional<ControlTlsFiles> tls;
  if (!flags.tls_cert.empty()) {
    tls = ControlTlsFiles{flags.tls_cert, flags.tls_key, flags.tls_client_ca};
    // Before a socket is made: nobody is to find one that is not served.
    if (absl::Status status = CheckControlTls(*tls); !status.ok()) return Fail(status);
  }
  absl::StatusOr<std::vector<ListeningSocket>> listeners = OpenListeners(flags, inherited->get());
  if (!listeners.ok()) return Fail(listeners.status());

  const Logging logging({.level = flags.log_level, .format = flags.log_format});
  const AuditLog audit(logging.audit_sink());
  std::optional<Watchdog> watchdog;  // until everything below is gone

  BrokerOptions options;
  options.loops = flags.loops;
  options.broker_id_seed = flags.broker_id;
  if (flags.broker_id.empty()) {
    // The sockets' own addresses: a port that was 0 in the flag tells two brokers apart.
    std::vector<std::string> addresses;
    for (const ListeningSocket& listener : *listeners) addresses.push_back(listener.ToString());
    options.broker_id_seed = DefaultBrokerSeed(ThisHost(), addresses);
  }
  options.descriptors = &descriptors;
  options.inherited = inherited->get();
  options.audit = &audit;
  options.limits.default_lease = flags.lease;
  options.limits.connections = flags.max_connections;
  options.tls_store = flags.tls_store;
  options.allow_all = flags.allow_all;
  if (!flags.tls_key_log.empty()) {
    absl::StatusOr<std::shared_ptr<KeyLog>> key_log = KeyLog::Open(flags.tls_key_log);
    if (!key_log.ok()) return Fail(key_log.status());
    spdlog::warn("the secrets of all TLS connections go to {}", flags.tls_key_log);
    options.tls_key_log = [key_log = *key_log](absl::string_view line) { key_log->Write(line); };
  }
  options.limits.servers = flags.max_servers;
  options.limits.buffer_memory = flags.buffer_memory;
  options.limits.buffer_memory_per_principal = flags.buffer_memory_per_principal;
  if (flags.buffer_memory_per_connection != 0) {
    options.limits.buffer_memory_per_connection = flags.buffer_memory_per_connection;
  }
  Broker broker(std::move(options));

  // Before the first caller is let in: none may dial the broker itself.
  for (const ListeningSocket& listener : *listeners) broker.AddOwnListener(listener.address());
  absl::StatusOr<std::unique_ptr<ControlPlane>> plane =
      ControlPlane::Start(*std::move(listeners), {broker.service()},
                          {.tls = tls, .on_trouble = [](absl::string_view sentence) {
                             spdlog::warn("{}", std::string(sentence));
                           }});
  if (!plane.ok()) return Fail(plane.status());
  termination.set_control_plane(plane->get());

  spdlog::info("broker {} with {} loops; {} of {} descriptors for clients' sockets", broker.id(),
               broker.loops().size(), descriptors.capacity(), descriptors.limit());
  for (const std::string& address : (*plane)->addresses()) {
    std::cout << "sockbrokerd listening on " << address << "\n";
  }
  std::cout << std::flush;
  TellManager(manager, absl::StrCat("READY=1\nSTATUS=listening on ",
                                    absl::StrJoin((*plane)->addresses(), ", ")));

  termination.WaitForFirst();
  const absl::Time deadline = absl::Now() + flags.drain_timeout;
  // Only for a drain that is stuck: an orderly one ends before its time.
  const absl::Duration at_most = flags.drain_timeout + absl::Seconds(1);
  watchdog.emplace(at_most, &termination);
  const std::string draining =
      absl::StrCat("draining ", broker.open_connections(), " connections, at most ",
                   absl::FormatDuration(flags.drain_timeout));
  spdlog::info("{}", draining);
  (*plane)->SetServing(false);
  // The manager would kill what takes longer than its own time-out.
  TellManager(manager, absl::StrCat("STOPPING=1\nEXTEND_TIMEOUT_USEC=",
                                    absl::ToInt64Microseconds(at_most + absl::Seconds(1)),
                                    "\nSTATUS=", draining));
  // A part is kept back for what comes after: calls under way, threads.
  const absl::Duration ending = std::min(absl::Seconds(1), flags.drain_timeout / 4);
  const bool flushed = broker.Drain(deadline - ending - absl::Now());
  if (!flushed) spdlog::warn("some connections could not be flushed in time and were reset");
  (*plane)->Shutdown(ending / 2);
  termination.set_control_plane(nullptr);
  plane->reset();
  spdlog::info("drained");
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace sockbroker::server

int main(int argc, char** argv) {
  using sockbroker::server::Flags;
  const std::variant<Flags, int> parsed = sockbroker::server::ParseFlags(argc, argv);
  if (const int* status = std::get_if<int>(&parsed)) return *status;
  return sockbroker::server::Run(std::get<Flags>(parsed));
}
