#include "client/console.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/error_text.h"
#include "client/output.h"

namespace sockbroker::client {

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

void PrintNote(absl::string_view text) {
  // Nothing helps when nobody reads stderr.
  (void)Output(STDERR_FILENO).Write(absl::StrCat(text, "\n"), -1);
}

void PrintError(absl::string_view text) {
  PrintNote(absl::StrCat("sockbroker: ", Printable(text)));
}

int FailWith(const absl::Status& status) {
  PrintError(status.message());
  return ExitStatusOf(status);
}

bool PrintLine(absl::string_view text) {
  return Output(STDOUT_FILENO).Write(absl::StrCat(text, "\n"), -1) == Output::Result::kOk;
}

}  // namespace sockbroker::client
