#include "client/child_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

extern char** environ;

namespace sockbroker::client {
namespace {

void CloseFd(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

// This process's environment with `variables` in place of what it has of these names.
std::vector<std::string> MakeEnvironment(
    const std::vector<std::pair<std::string, std::string>>& variables) {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    bool replaced = false;
    for (const auto& [name, value] : variables) {
      replaced = replaced ||
                 (text.starts_with(name) && text.size() > name.size() && text[name.size()] == '=');
    }
    if (!replaced) entries.emplace_back(text);
  }
  for (const auto& [name, value] : variables) entries.push_back(absl::StrCat(name, "=", value));
  return entries;
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Spawn(
    const std::string& command, const std::vector<std::pair<std::string, std::string>>& variables) {
  // to_child[0] is its stdin, from_child[1] its stdout.
  int to_child[2] = {-1, -1};
  int from_child[2] = {-1, -1};
  const auto close_all = [&] {
    for (int* fd : {&to_child[0], &to_child[1], &from_child[0], &from_child[1]}) CloseFd(fd);
  };
  if (pipe2(to_child, O_CLOEXEC) != 0 || pipe2(from_child, O_CLOEXEC) != 0) {
    const int error = errno;
    close_all();
    return absl::ErrnoToStatus(error, "pipe");
  }

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to_child[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, from_child[1], STDOUT_FILENO);

  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  sigset_t reset;
  sigemptyset(&reset);
  for (const int number : {SIGPIPE, SIGINT, SIGTERM}) sigaddset(&reset, number);
  posix_spawnattr_setsigdefault(&attributes, &reset);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);

  std::vector<std::string> environment = MakeEnvironment(variables);
  std::vector<char*> environment_pointers;
  environment_pointers.reserve(environment.size() + 1);
  for (std::string& entry : environment) environment_pointers.push_back(entry.data());
  environment_pointers.push_back(nullptr);
  std::string words[] = {"sh", "-c", command};
  char* arguments[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};

  pid_t pid = -1;
  const int error =
      posix_spawn(&pid, "/bin/sh", &actions, &attributes, arguments, environment_pointers.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    close_all();
    return absl::ErrnoToStatus(error, "starting /bin/sh");
  }
  CloseFd(&to_child[0]);
  CloseFd(&from_child[1]);
  return ChildProcess(pid, to_child[1], from_child[0]);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      input_(std::exchange(other.input_, -1)),
      output_(std::exchange(other.output_, -1)) {}

ChildProcess::~ChildProcess() {
  CloseInput();
  CloseOutput();
}

void ChildProcess::CloseInput() { CloseFd(&input_); }
void ChildProcess::CloseOutput() { CloseFd(&output_); }

void ChildProcess::Signal(int signal_number) {
  if (pid_ > 0) kill(-pid_, signal_number);
}

int ChildProcess::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

}  // namespace sockbroker::client
