#include "client/console.h"

#include <unistd.h>

#include "absl/base/attributes.h"
#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/json_output.h"

namespace sockbroker::client {
namespace {

bool errors_as_json = false;

ABSL_CONST_INIT absl::Mutex console_mutex(absl::kConstInit);
NoteWriter* note_writer ABSL_GUARDED_BY(console_mutex) = nullptr;
const Interrupt* console_interrupt ABSL_GUARDED_BY(console_mutex) = nullptr;

std::string ErrorText(absl::string_view text) {
  return errors_as_json
             ? absl::StrCat(JsonLine().Add("event", "error").Add("text", text).Text(), "\n")
             : absl::StrCat("sockbroker: ", Printable(text), "\n");
}

std::string MissingText(uint64_t notes) {
  return ErrorText(absl::StrCat(notes, " notes are missing here: nobody read what was before"));
}

}  // namespace

std::string Printable(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n') || byte == 0x7f) {
      out += absl::StrFormat("\\x%02x", byte);
    } else {
      out += c;
    }
  }
  return out;
}

void PrintErrorsAsJson() { errors_as_json = true; }

void PrintOnStderr(absl::string_view text) {
  const absl::ReaderMutexLock lock(&console_mutex);
  if (note_writer != nullptr) {
    note_writer->Write(text);
  } else {
    // Nothing helps when nobody reads stderr.
    (void)Output(STDERR_FILENO).Write(text, -1);
  }
}

void PrintNote(absl::string_view text) { PrintOnStderr(absl::StrCat(text, "\n")); }

void PrintError(absl::string_view text) { PrintOnStderr(ErrorText(text)); }

int FailWith(const absl::Status& status) {
  PrintError(status.message());
  return ExitStatusOf(status);
}

int PrintLine(absl::string_view text) {
  const Interrupt* const interrupt = [] {
    const absl::ReaderMutexLock lock(&console_mutex);
    return console_interrupt;
  }();
  Output output(STDOUT_FILENO);
  const Output::Result result =
      output.Write(absl::StrCat(text, "\n"), interrupt == nullptr ? -1 : interrupt->fd());
  if (result == Output::Result::kOk) return kExitOk;
  if (result == Output::Result::kStopped) return ExitBySignal(interrupt->signal_number());
  return OutputFailed(output, result);
}

int OutputFailed(const Output& output, Output::Result result) {
  if (result == Output::Result::kClosed) return kExitBrokenPipe;
  PrintError(absl::StrCat("writing the output failed: ", ErrnoText(output.error())));
  return kExitFailed;
}

InterruptibleConsole::InterruptibleConsole(const Interrupt* interrupt)
    : interrupt_(interrupt), writer_(STDERR_FILENO, MissingText) {
  const absl::WriterMutexLock lock(&console_mutex);
  note_writer = &writer_;
  console_interrupt = interrupt;
}

InterruptibleConsole::~InterruptibleConsole() {
  {
    const absl::WriterMutexLock lock(&console_mutex);
    note_writer = nullptr;
    console_interrupt = nullptr;
  }
  writer_.Flush(interrupt_->fd());
}

}  // namespace sockbroker::client
