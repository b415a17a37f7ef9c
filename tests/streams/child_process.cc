#include "tests/streams/child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

#include "streams/descriptor.h"
#include "streams/testing/socket_pair.h"

extern char** environ;

namespace sockbroker::streams {

bool Installed(const std::string& program) { return access(program.c_str(), X_OK) == 0; }

ChildProcess::ChildProcess(std::vector<std::string> argv, Options options) {
  auto [ours, theirs] = UnixSocketPair();
  std::vector<char*> arguments;
  arguments.reserve(argv.size() + 1);
  for (std::string& argument : argv) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  std::vector<char*> environment;
  environment.reserve(options.environment.size());
  for (std::string& variable : options.environment) environment.push_back(variable.data());
  for (char** variable = environ; *variable != nullptr; ++variable) {
    environment.push_back(*variable);
  }
  environment.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, theirs.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, theirs.get(), STDOUT_FILENO);
  // By way of high numbers, so that none is overwritten before it has its place.
  std::vector<Descriptor> high;
  high.reserve(options.inherited.size());
  for (const int fd : options.inherited) high.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 100));
  int number = STDERR_FILENO;
  for (const Descriptor& fd : high) posix_spawn_file_actions_adddup2(&actions, fd.get(), ++number);
  // A group of its own, so that the processes that it starts end with it.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  const int error =
      posix_spawn(&pid_, arguments[0], &actions, &attributes, arguments.data(), environment.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw std::system_error(error, std::generic_category(), arguments[0]);
  pipe_ = ConnectionOver(std::move(ours));
}

ChildProcess::~ChildProcess() {
  if (pid_ < 0) return;
  kill(-pid_, SIGKILL);
  Reap();
}

int ChildProcess::Reap() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Task<int> ChildProcess::Exit() {
  // The end of its output is the end of the program, but for a moment.
  (void)co_await pipe_.reader.ReadAll();
  // Still there only if it hangs: then the test's own limit has cancelled the read.
  if ((co_await GetCancelToken()).cancelled()) kill(-pid_, SIGKILL);
  co_return Reap();
}

}  // namespace sockbroker::streams
