// InheritedDescriptors: the sockets that whoever started the broker opened for it, by name:
// systemd's socket activation, sd_listen_fds_with_names(3).
//
//   auto inherited = InheritedDescriptors::FromEnvironment();       // before any thread starts
//   absl::StatusOr<std::vector<streams::Descriptor>> web = (*inherited)->Take("web");
//   // [Socket] ListenStream=80  FileDescriptorName=web             // in the .socket unit
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "streams/descriptor.h"

namespace sockbroker::server {

// What the variables of the protocol say. LISTEN_PID: whom they are for; LISTEN_FDS: how many there
// are, numbered from 3; LISTEN_FDNAMES: their names, separated by colons.
struct ListenEnvironment {
  std::optional<std::string> listen_pid;
  std::optional<std::string> listen_fds;
  std::optional<std::string> listen_fdnames;
};

class InheritedDescriptors {
 public:
  enum class Kind {
    kAny,
    kListening,   // a stream socket on which listen() was called
    kConnection,  // any other stream socket
  };

  // Takes over what the environment names, sets close-on-exec on it and unsets the variables, so
  // that no child believes they are its own. Call it once, before other threads run (they might
  // read the environment) and before anything else is opened. No variables, or another process's:
  // empty. kInvalidArgument when they contradict themselves or the descriptors.
  static absl::StatusOr<std::unique_ptr<InheritedDescriptors>> FromEnvironment();

  // The same from given values: the descriptors are numbered from `first`, and `self` is compared
  // to LISTEN_PID.
  static absl::StatusOr<std::unique_ptr<InheritedDescriptors>> From(
      const ListenEnvironment& environment, pid_t self, int first = 3);

  // Every name there is, taken or not, sorted.
  std::vector<std::string> names() const;

  // All descriptors of that name (a unit may give several sockets one name), in their order; they
  // are the caller's from now on. Each name can be taken once. kNotFound: no such name;
  // kFailedPrecondition: taken already; kInvalidArgument: one of them is not of the wanted kind
  // (none is taken then).
  absl::StatusOr<std::vector<streams::Descriptor>> Take(absl::string_view name,
                                                        Kind kind = Kind::kAny)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  InheritedDescriptors() = default;

  mutable absl::Mutex mutex_;
  // An empty list: taken.
  std::map<std::string, std::vector<streams::Descriptor>, std::less<>> by_name_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace sockbroker::server
