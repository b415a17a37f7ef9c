#include "client/stdio_bridge.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/console.h"
#include "client/conversation.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/input_reader.h"
#include "client/output.h"
#include "streams/error.h"

namespace sockbroker::client {
namespace {

constexpr std::size_t kBlock = 128 * 1024;

bool SendAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StdioBridge>> StdioBridge::Start() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return streams::ErrnoToStatus(errno, "socketpair");
  }
  std::unique_ptr<StdioBridge> bridge(new StdioBridge);
  bridge->theirs_.Reset(ends[0]);
  bridge->ours_.Reset(ends[1]);
  bridge->stop_input_.Reset(eventfd(0, EFD_CLOEXEC));
  bridge->stop_output_.Reset(eventfd(0, EFD_CLOEXEC));
  WidenPipe(STDIN_FILENO);
  WidenPipe(STDOUT_FILENO);
  bridge->input_ = std::thread([b = bridge.get()] { b->ReadInput(); });
  bridge->output_ = std::thread([b = bridge.get()] { b->WriteOutput(); });
  return bridge;
}

StdioBridge::~StdioBridge() { Finish(/*interrupted=*/true); }

int StdioBridge::Finish(bool interrupted) {
  eventfd_write(stop_input_.get(), 1);
  theirs_.Reset();  // in case that nobody took it
  if (interrupted) {
    eventfd_write(stop_output_.get(), 1);
    // A thread that waits for bytes, or for room, in the socket.
    shutdown(ours_.get(), SHUT_RDWR);
  }
  if (output_.joinable()) output_.join();
  // What is sent now has nobody to take it.
  shutdown(ours_.get(), SHUT_RDWR);
  if (input_.joinable()) input_.join();
  return exit_status_;
}

void StdioBridge::InputFailed(absl::string_view reason) {
  PrintError(absl::StrCat("reading the input failed: ", reason));
  exit_status_ = kExitFailed;
  // Not as if what was read were all there is: the relay breaks off.
  shutdown(ours_.get(), SHUT_RDWR);
}

void StdioBridge::ReadInput() {
  if (absl::Status status = CheckReadable(STDIN_FILENO); !status.ok()) {
    return InputFailed(status.message());
  }
  std::vector<char> block(kBlock);
  while (true) {
    pollfd ready[] = {{STDIN_FILENO, POLLIN, 0}, {stop_input_.get(), POLLIN, 0}};
    if (poll(ready, 2, -1) < 0) {
      if (errno == EINTR) continue;
      break;
    }
    if (ready[1].revents != 0) break;
    const ssize_t got = read(STDIN_FILENO, block.data(), block.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    // A terminal that was hung up has ended.
    if (got < 0 && errno != EIO) return InputFailed(ErrnoText(errno));
    if (got <= 0 ||
        !SendAll(ours_.get(), absl::string_view(block.data(), static_cast<std::size_t>(got)))) {
      break;
    }
  }
  shutdown(ours_.get(), SHUT_WR);
}

void StdioBridge::WriteOutput() {
  std::vector<char> block(kBlock);
  Output output(STDOUT_FILENO);
  while (true) {
    const ssize_t got = recv(ours_.get(), block.data(), block.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    const Output::Result result = output.Write(
        absl::string_view(block.data(), static_cast<std::size_t>(got)), stop_output_.get());
    if (result == Output::Result::kStopped) return;
    if (result != Output::Result::kOk) {
      exit_status_ = OutputFailed(output, result);
      // The relay's next write fails, and that ends it.
      shutdown(ours_.get(), SHUT_RDWR);
      return;
    }
  }
  // Whoever reads it shall see the end, though our input may go on.
  output.Release();
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (null >= 0) {
    dup2(null, STDOUT_FILENO);
    close(null);
  }
  if (isatty(STDIN_FILENO) == 1) eventfd_write(stop_input_.get(), 1);
}

}  // namespace sockbroker::client
