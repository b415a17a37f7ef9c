// What the program says on the side, on stderr and stdout, so that it can be read by people and
// harms no terminal.
//
//   PrintError("connect to 127.0.0.1 port 9 failed");  // on stderr: "sockbroker: connect to ..."
//   return PrintLine(text);                            // on stdout, at once
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/interrupt.h"
#include "client/note_writer.h"
#include "client/output.h"

namespace sockbroker::client {

// Control characters (of a label, a path, a message from far away) made visible; line ends stay.
std::string Printable(absl::string_view text);

// From now on errors are {"event":"error","text":"connect to ..."}: for who reads notes in JSON.
void PrintErrorsAsJson();
void PrintError(absl::string_view text);
// Prints it and gives the exit status it stands for.
int FailWith(const absl::Status& status);

// The text and a line's end on stderr, as one write.
void PrintNote(absl::string_view text);
// As it is, on stderr.
void PrintOnStderr(absl::string_view text);
// A line on stdout. Gives the exit status it stands for: kExitOk, kExitBrokenPipe when nobody reads
// it any more, and kExitFailed, said on stderr, when it can't be written (a full disk).
int PrintLine(absl::string_view text);
// The same of what was written elsewhere, and was not Result::kOk.
int OutputFailed(const Output& output, Output::Result result);

// While it lives, and there is at most one: nobody who prints on stderr waits for who reads it, and
// who waits to print on stdout is not kept by it from ending, once interrupted. At the end it waits
// until stderr has everything, as NoteWriter::Flush does.
class InterruptibleConsole {
 public:
  explicit InterruptibleConsole(const Interrupt* interrupt);
  ~InterruptibleConsole();
  InterruptibleConsole(const InterruptibleConsole&) = delete;
  InterruptibleConsole& operator=(const InterruptibleConsole&) = delete;

 private:
  const Interrupt* const interrupt_;
  NoteWriter writer_;
};

}  // namespace sockbroker::client
