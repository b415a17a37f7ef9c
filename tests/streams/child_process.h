// ChildProcess: another program as a test's peer. The test's loop talks to it over its standard
// input and output, so that readiness is something the program says, and nothing is slept for.
//
//   ChildProcess server({kPython, "-c", kScript});
//   absl::StatusOr<absl::Cord> port = co_await server.output().ReadLine();
//   ...
//   EXPECT_EQ(co_await server.Exit(), 0);
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "streams/connection.h"
#include "streams/task.h"

namespace sockbroker::streams {

inline constexpr char kPython[] = "/usr/bin/python3";

// Whether there is such a program here; the tests of a peer that isn't installed are skipped.
bool Installed(const std::string& program);

class ChildProcess {
 public:
  // What else than its arguments a program is started with.
  struct Options {
    std::vector<std::string> environment;  // "NAME=value", in front of the test's own
    std::vector<int> inherited;            // descriptors that it has as 3, 4, ...
  };
  // Starts `argv` (the program by its path) with one socket as its standard input and output, on
  // the running loop. What it prints on stderr goes to the test's. Throws std::system_error.
  explicit ChildProcess(std::vector<std::string> argv) : ChildProcess(std::move(argv), Options()) {}
  ChildProcess(std::vector<std::string> argv, Options options);
  // Kills it, if it still runs, and what it has started.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  StreamReader& output() { return pipe_.reader; }
  StreamWriter& input() { return pipe_.writer; }
  pid_t pid() const { return pid_; }

  // Waits until the program has closed its output, and ended: its exit status, or 128 and the
  // signal's number, as a shell says it.
  Task<int> Exit();

 private:
  int Reap();

  Connection pipe_;
  pid_t pid_ = -1;
};

}  // namespace sockbroker::streams
