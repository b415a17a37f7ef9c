// Pump: the bytes between two descriptors of this process and one connection of the broker, both
// ways at once.
//
//   Pump pump(connection, STDIN_FILENO, STDOUT_FILENO, {}, &interrupt);
//   PumpResult result = co_await pump.Run();  // until both directions have ended, or it is ended
//   Report(result.sent, result.received, result.end);
//
// Broken links to the broker are not seen here. A byte that came from the peer is acknowledged to
// the broker once it was written out, and not before: when this process dies, the broker still has
// what the output has not. What the output does not take fills the connection's window, stays in
// the broker and, by its limits, with the peer; what the peer does not take stays in the input.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/connection.h"
#include "client/cpp/options.h"
#include "client/input_reader.h"
#include "client/interrupt.h"
#include "client/output_writer.h"
#include "streams/task.h"
#include "streams/wait_queue.h"

namespace sockbroker::client {

struct PumpOptions {
  // End our direction when the input has ended (nc -N).
  bool half_close = true;
  // LF becomes CR LF on its way out (nc -C).
  bool crlf = false;
  // So long after the input's end it is over (nc -q).
  std::optional<absl::Duration> quit_after_input;
  // So long without a byte either way it is over (nc -w).
  std::optional<absl::Duration> idle;

  // What the peer's end means while the input has not ended.
  enum class PeerEof {
    // The rest of the input is still sent.
    kSendTheRest,
    // So, but only while there is something to send at once: for a server that goes on to its next
    // connection.
    kSendWhatIsThere,
    // It is over.
    kEnd,
  };
  PeerEof at_peer_eof = PeerEof::kSendTheRest;

  // Whether it is over when nobody reads the output any more; else the input is still sent.
  bool end_when_output_closes = true;
  // Called when nothing more will be written to the output, which is no longer used then: closing
  // it tells its reader.
  std::function<void()> on_output_end;
};

// What a connection must be opened with so that a pump can drive it.
void TuneForPump(ConnectionOptions* options);

struct PumpResult {
  enum class End {
    // Both directions have ended.
    kDone,
    // Nobody reads the output any more.
    kOutputClosed,
    // PumpOptions::quit_after_input, ::idle.
    kQuitTimer,
    kIdle,
    kInterrupted,
    // `status` says how: the connection was lost, the broker was, or input or output failed here.
    kFailed,
  };
  End end = End::kDone;
  absl::Status status;
  // What failed, for "ACTION failed: ..."; empty: the connection.
  std::string failed_part;
  // Bytes taken by the broker for the peer; bytes written to the output.
  uint64_t sent = 0;
  uint64_t received = 0;
  // The peer's direction has ended, and all of it was written out.
  bool peer_eof = false;
};

class Pump {
 public:
  // On the running loop. `input` -1: there is nothing to send, and no end to tell. Borrows the
  // descriptors and `interrupt`, which may be null.
  Pump(Connection connection, int input, int output, PumpOptions options, Interrupt* interrupt);
  ~Pump();
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  // Once. Leaves the connection open; what was written out is acknowledged.
  streams::Task<PumpResult> Run();

 private:
  streams::Task<void> Send();
  streams::Task<void> Receive();
  streams::Task<void> WatchForClose();
  streams::Task<void> WatchProgress();

  // What they have come to. True when it is over; fills in how.
  bool IsOver(PumpResult* result);
  // When the next timer is due.
  absl::Time NextTimer() const;
  absl::Time Now() const;
  // Something is to be sent, or on its way.
  bool HasSomethingToSend() const;
  void Acknowledge();
  // Why nothing more can be sent on a connection that has ended.
  absl::Status ClosedStatus() const;

  StreamReader reader_;
  StreamWriter writer_;
  const PumpOptions options_;
  Interrupt* const interrupt_;
  // Something has changed: look again.
  const std::shared_ptr<streams::WaitQueue> news_;
  std::optional<InputReader> input_;
  OutputWriter output_;
  const uint64_t read_start_;
  const uint64_t write_start_;

  // The input has ended and the broker has all of it.
  bool input_done_ = false;
  absl::Time input_done_at_ = absl::InfiniteFuture();
  absl::Status send_status_;
  std::string send_failed_part_;
  bool peer_eof_ = false;
  // Receive is through, however it ended.
  bool receiving_ended_ = false;
  absl::Status receive_status_;
  std::string receive_failed_part_;
  // The connection is gone: what WaitClosed said.
  std::optional<absl::Status> closed_;
  absl::Time last_activity_;
};

}  // namespace sockbroker::client
