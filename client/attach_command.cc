#include "client/attach_command.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/broker_link.h"
#include "client/console.h"
#include "client/conversation.h"
#include "client/cpp/broker.h"
#include "client/cpp/status.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/handle_text.h"
#include "client/notes.h"
#include "client/session_link.h"
#include "streams/event_loop.h"
#include "streams/sleep.h"
#include "streams/task.h"

namespace sockbroker::client {
namespace {

using streams::Task;

absl::Status Misuse(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(text, "; see `sockbroker attach --help`"));
}

absl::Status CheckFlags(const AttachFlags& flags) {
  if (flags.go_on && flags.output.empty() && flags.input.empty()) {
    return Misuse("--continue needs -o FILE or -i FILE to go on with");
  }
  if (flags.from.has_value() && flags.go_on && !flags.output.empty()) {
    return Misuse("--from and -o FILE --continue exclude each other: the file's size says where");
  }
  if (flags.base > 0 && (!flags.go_on || flags.output.empty())) {
    return Misuse("--base needs -o FILE --continue");
  }
  if (flags.input_base > 0 && (!flags.go_on || flags.input.empty())) {
    return Misuse("--input-base needs -i FILE --continue");
  }
  if (flags.crlf && flags.go_on && !flags.input.empty()) {
    return Misuse(
        "-C and -i FILE --continue exclude each other: what was sent is not what is there");
  }
  return absl::OkStatus();
}

// A descriptor that may be somebody else's.
class File {
 public:
  File() = default;
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  absl::Status Open(const std::string& name, int flags, bool must_be_regular) {
    name_ = name;
    struct stat information{};
    // Before it is opened, too: that of a FIFO would wait for its other end.
    if (must_be_regular && stat(name.c_str(), &information) == 0 && !S_ISREG(information.st_mode)) {
      return NotRegular();
    }
    fd_ = open(name.c_str(), flags | O_CLOEXEC | O_NOCTTY, 0666);
    if (fd_ < 0 || fstat(fd_, &information) != 0) return Failed("opening");
    if (must_be_regular && !S_ISREG(information.st_mode)) return NotRegular();
    size_ = static_cast<uint64_t>(std::max<off_t>(information.st_size, 0));
    is_regular_ = S_ISREG(information.st_mode);
    return absl::OkStatus();
  }
  absl::Status Seek(uint64_t offset) {
    return lseek(fd_, static_cast<off_t>(offset), SEEK_SET) < 0 ? Failed("seeking in")
                                                                : absl::OkStatus();
  }
  absl::Status Truncate() {
    return is_regular_ && ftruncate(fd_, 0) != 0 ? Failed("truncating") : absl::OkStatus();
  }

  int fd() const { return fd_; }
  const std::string& name() const { return name_; }
  uint64_t size() const { return size_; }

 private:
  absl::Status NotRegular() const {
    return absl::FailedPreconditionError(
        absl::StrCat(name_, " is no regular file: --continue can't know where it stands"));
  }
  absl::Status Failed(const char* what) const {
    return absl::FailedPreconditionError(
        absl::StrCat(what, " ", name_, " failed: ", ErrnoText(errno)));
  }

  std::string name_;
  int fd_ = -1;
  uint64_t size_ = 0;
  bool is_regular_ = false;
};

class AttachRun {
 public:
  AttachRun(const BrokerAddress& address, const AttachFlags& flags, Interrupt* interrupt)
      : address_(address),
        flags_(flags),
        interrupt_(interrupt),
        notes_(flags.verbose, flags.json) {}

  int Run() {
    if (absl::Status status = CheckFlags(flags_); !status.ok()) return FailWith(status);
    if (absl::Status status = OpenFiles(); !status.ok()) return FailWith(status);
    // Not before: open(2) waits for the other end of a FIFO, and there is nothing to leave yet.
    interrupt_->CatchSignals();
    {
      Canceller canceller;
      const Interrupt::Subscription subscription(interrupt_, [&] { canceller.Cancel(); });
      const auto link = BrokerLink::Connect(address_, &canceller);
      if (interrupt_->raised()) return ExitBySignal(interrupt_->signal_number());
      if (!link.ok()) return FailWith(link.status());
      absl::StatusOr<NamedHandle> named =
          ResolveHandle(**link, flags_.handle, HandleKind::kConnection);
      if (!named.ok()) return FailWith(named.status());
      handle_ = std::move(named->handle);
    }
    streams::EventLoop loop;
    loop.EnableDispatch();
    return loop.RunUntilComplete(Main());
  }

 private:
  absl::Status OpenFiles() {
    if (!flags_.input.empty()) {
      absl::Status status = input_.Open(flags_.input, O_RDONLY, flags_.go_on);
      if (!status.ok()) return status;
    }
    if (flags_.output.empty()) return absl::OkStatus();
    // Not truncated before there is something to put into it; and not O_APPEND: who was fenced
    // writes what it still has to where it belongs.
    return output_.Open(flags_.output, O_WRONLY | O_CREAT, flags_.go_on);
  }

  bool ContinuesOutput() const { return flags_.go_on && !flags_.output.empty(); }
  bool ContinuesInput() const { return flags_.go_on && !flags_.input.empty(); }

  Task<int> Main() {
    auto link = co_await SessionLink::Connect(address_, notes_, interrupt_);
    if (interrupt_->raised()) co_return ExitBySignal(interrupt_->signal_number());
    if (!link.ok()) co_return FailWith(link.status());
    absl::StatusOr<Connection> connection = co_await Bind((*link)->broker());
    if (interrupt_->raised()) co_return ExitBySignal(interrupt_->signal_number());
    if (!connection.ok()) co_return Explain(connection.status());
    StreamWriter writer = connection->writer;
    const v1::Connection info = writer.info();
    if (absl::Status status = PlaceFiles(writer); !status.ok()) {
      // It was somebody's before, and is again.
      (void)co_await writer.Detach();
      co_return FailWith(status);
    }
    notes_.Attached(info, writer.read_offset(), writer.write_offset());
    WidenPipe(STDIN_FILENO);
    WidenPipe(STDOUT_FILENO);
    Conversation conversation;
    conversation.peer = EndpointText(info.peer());
    conversation.after =
        flags_.detach ? Conversation::After::kLeave : Conversation::After::kCloseAfterGoodEnd;
    if (input_.fd() >= 0) conversation.input = input_.fd();
    if (output_.fd() >= 0) conversation.output = output_.fd();
    // Our direction has ended before: there is nothing to send, and no end to tell.
    if (info.write_eof()) conversation.input = -1;
    co_return co_await Converse(link->get(), *std::move(connection), std::move(conversation),
                                MakePumpOptions(info), notes_, interrupt_);
  }

  // A client that died a moment ago may seem to have it still.
  Task<absl::StatusOr<Connection>> Bind(Broker broker) {
    const absl::Time give_up =
        streams::GetRunningLoop()->Now() + absl::Seconds(std::max(0.0, flags_.wait));
    Backoff backoff;
    while (true) {
      AttachOptions how;
      TuneForPump(&how);
      how.steal = flags_.steal;
      how.read_offset = flags_.from;
      if (ContinuesOutput()) how.read_offset = flags_.base + output_.size();
      absl::StatusOr<Connection> connection =
          co_await UntilInterrupted(interrupt_, broker.Attach(handle_, how));
      if (connection.ok() || GetReason(connection.status()) != v1::BOUND ||
          streams::GetRunningLoop()->Now() >= give_up) {
        co_return connection;
      }
      const absl::Status slept = co_await UntilInterrupted(interrupt_, Sleep(backoff.Next()));
      if (!slept.ok()) co_return slept;
    }
  }

  static Task<absl::Status> Sleep(absl::Duration duration) {
    co_return co_await streams::Sleep(duration);
  }

  absl::Status PlaceFiles(const StreamWriter& writer) {
    if (ContinuesInput()) {
      const uint64_t sent = writer.write_offset();
      if (sent < flags_.input_base || sent - flags_.input_base > input_.size()) {
        return absl::FailedPreconditionError(absl::StrCat(
            input_.name(), " has ", input_.size(), " bytes, from byte ", flags_.input_base,
            " of the connection on, but ", sent,
            " were sent: it is not what was being sent, or begins elsewhere (--input-base)"));
      }
      const uint64_t skip = sent - flags_.input_base;
      if (writer.info().write_eof() && skip < input_.size()) {
        return absl::FailedPreconditionError(absl::StrCat("our direction was ended at byte ", sent,
                                                          ", and ", input_.name(), " has ",
                                                          input_.size() - skip, " bytes more"));
      }
      if (absl::Status status = input_.Seek(skip); !status.ok()) return status;
    }
    if (output_.fd() < 0) return absl::OkStatus();
    return ContinuesOutput() ? output_.Seek(output_.size()) : output_.Truncate();
  }

  PumpOptions MakePumpOptions(const v1::Connection& info) const {
    PumpOptions pump;
    pump.half_close = flags_.half_close.value_or(!flags_.input.empty() && !info.has_tls());
    pump.crlf = flags_.crlf;
    if (flags_.quit_after_input.has_value() && *flags_.quit_after_input >= 0) {
      pump.quit_after_input = absl::Seconds(*flags_.quit_after_input);
    }
    if (flags_.timeout.has_value() && *flags_.timeout > 0) {
      pump.idle = absl::Seconds(*flags_.timeout);
    }
    if (flags_.input.empty() && isatty(STDIN_FILENO) == 1) {
      pump.at_peer_eof = PumpOptions::PeerEof::kEnd;
    }
    return pump;
  }

  // Why it could not be bound.
  int Explain(const absl::Status& status) const {
    const grpc::Status cause = ToGrpcStatus(status);
    const std::string handle = HandleText(handle_).substr(0, 12);
    switch (GetReason(status)) {
      case v1::BOUND:
        PrintError(absl::StrCat("attach ", handle,
                                " failed: another client has it; --steal takes it over"));
        return kExitFailed;
      case v1::OFFSET_OUT_OF_RANGE:
        PrintError(RangeText(GetOffsets(status).value_or(v1::Offsets())));
        return kExitFailed;
      case v1::CLOSED:
        if (IsComplete(*GetErrorDetail(status))) {
          if (flags_.verbose) PrintNote("Closed before in good order, and nothing is missing");
          return kExitOk;
        }
        PrintError(absl::StrCat("attach ", handle, " failed: ", CauseText(cause),
                                ClosedOffsets(GetOffsets(status).value_or(v1::Offsets()))));
        return kExitFailed;
      case v1::LOST:
        PrintError(absl::StrCat("attach ", handle,
                                " failed: LOST: the broker was restarted, and its sockets are gone",
                                KnownOffsets()));
        return kExitFailed;
      default:
        return FailWith(ToAbslStatus(address_, absl::StrCat("attach ", handle), cause));
    }
  }

  // A client that died when it had just closed the connection has nothing left to do.
  bool IsComplete(const v1::ErrorDetail& detail) const {
    const v1::Offsets& last = detail.offsets();
    const bool well =
        detail.close_reason() == v1::CLOSED_BY_CLIENT || detail.close_reason() == v1::ENDED_BY_PEER;
    const bool has_output = !ContinuesOutput() || flags_.base + output_.size() == last.received();
    const bool has_input =
        !ContinuesInput() || (flags_.input_base + input_.size() == last.write_offset() &&
                              last.flushed() == last.write_offset());
    return well && flags_.go_on && has_output && has_input;
  }

  static std::string ClosedOffsets(const v1::Offsets& last) {
    return absl::StrCat("; ", last.received(), " bytes were received, ", last.write_offset(),
                        " were sent, ", last.flushed(), " of them handed to the kernel");
  }

  // What is known here of a connection that nobody knows any more.
  std::string KnownOffsets() const {
    if (!ContinuesOutput()) return "";
    return absl::StrCat("; ", output_.name(), " has it up to byte ", flags_.base + output_.size());
  }

  std::string RangeText(const v1::Offsets& held) const {
    const std::string range =
        absl::StrCat("the broker holds bytes ", held.read_kept(), " to ", held.received());
    if (!ContinuesOutput()) {
      return absl::StrCat("byte ", flags_.from.value_or(0), " can't be read from: ", range);
    }
    const uint64_t end = flags_.base + output_.size();
    const std::string file =
        absl::StrCat(output_.name(), " has ", output_.size(), " bytes, up to byte ", end);
    if (end > held.received()) {
      return absl::StrCat(file, " of the connection, but only ", held.received(),
                          " were received: it is not this connection's, or begins elsewhere "
                          "(--base)");
    }
    return absl::StrCat(file, " of the connection: ", held.read_kept() - end,
                        " bytes are missing, for ", range,
                        ", and what lies before was taken; if the file begins later, --base says "
                        "where");
  }

  const BrokerAddress& address_;
  const AttachFlags& flags_;
  Interrupt* const interrupt_;
  const Notes notes_;
  File input_;
  File output_;
  std::string handle_;
};

}  // namespace

int RunAttach(const BrokerAddress& address, const AttachFlags& flags, Interrupt* interrupt) {
  return AttachRun(address, flags, interrupt).Run();
}

}  // namespace sockbroker::client
