// StdioBridge: stdin and stdout as a socket that an event loop can have: whatever they are (pipes,
// files, a terminal), two threads carry their bytes.
//
//   absl::StatusOr<std::unique_ptr<StdioBridge>> bridge = StdioBridge::Start();
//   ... OpenConnection((*bridge)->TakeSocket()) ...      // until that has ended
//   const int status = (*bridge)->Finish(false);         // kExitOk: all of it is on stdout now
//
// The end of stdin is the end of what the socket gives; the end of what is written to it closes
// stdout, and ends the reading of a terminal: nobody there wants to type on.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "streams/descriptor.h"

namespace sockbroker::client {

class StdioBridge {
 public:
  static absl::StatusOr<std::unique_ptr<StdioBridge>> Start();
  ~StdioBridge();
  StdioBridge(const StdioBridge&) = delete;
  StdioBridge& operator=(const StdioBridge&) = delete;

  // Once.
  streams::Descriptor TakeSocket() { return std::move(theirs_); }
  // Waits until stdout has everything, when the socket's other end is closed. Gives the exit status
  // that stdin and stdout stand for: kExitBrokenPipe when nobody reads stdout any more,
  // kExitFailed, which was said, when one of them failed. `interrupted`: does not wait for a stdout
  // that stalls.
  int Finish(bool interrupted);

 private:
  StdioBridge() = default;
  void ReadInput();
  void InputFailed(absl::string_view reason);
  void WriteOutput();

  streams::Descriptor theirs_;
  streams::Descriptor ours_;
  streams::Descriptor stop_input_;  // eventfds
  streams::Descriptor stop_output_;
  std::atomic<int> exit_status_{0};
  std::thread input_;
  std::thread output_;
};

}  // namespace sockbroker::client
