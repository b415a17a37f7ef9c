// ChildProcess: `sh -c COMMAND` with its standard input and output on pipes of ours.
//
//   auto child = ChildProcess::Spawn("cat", {{"SOCKBROKER_PEERADDR", "127.0.0.1"}});
//   write(child->input(), ...);
//   read(child->output(), ...);
//   child->CloseInput();
//   int status = child->Wait();
//
// It leads a process group of its own, so that a pipeline can be signalled as a whole. Its stderr
// is ours.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace sockbroker::client {

class ChildProcess {
 public:
  // The variables come on top of this process's environment. Signals have their default effect in
  // the child.
  static absl::StatusOr<ChildProcess> Spawn(
      const std::string& command,
      const std::vector<std::pair<std::string, std::string>>& variables);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  // Closes the pipes; does not wait.
  ~ChildProcess();

  // The child's stdin, for writing, and its stdout, for reading. -1 once closed.
  int input() const { return input_; }
  int output() const { return output_; }
  void CloseInput();
  void CloseOutput();
  // To the whole group; nothing once it was waited for.
  void Signal(int signal_number);
  // As waitpid's status. Once.
  int Wait();

 private:
  ChildProcess(pid_t pid, int input, int output) : pid_(pid), input_(input), output_(output) {}

  pid_t pid_;
  int input_;
  int output_;
};

}  // namespace sockbroker::client
