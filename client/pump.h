// Pump: the bytes between two descriptors of this process and one connection of the broker, both
// ways at once.
//
//   Pump pump(link, connection, STDIN_FILENO, STDOUT_FILENO, {}, &interrupt);
//   PumpResult result = pump.Run();          // until both directions have ended, or something ends
//   it result.sent, result.received, result.end
//
// Nothing is lost or doubled when calls fail on the way: writes carry their offset and a writer's
// id, reads their offset, and both are repeated until they are answered. A byte that came from the
// peer is acknowledged to the broker only by the read that follows, so after it was written out.
// What the output does not take stays in the broker and, by its limits, with the peer; what the
// peer does not take stays in the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "client/broker_link.h"
#include "client/crlf.h"
#include "client/interrupt.h"
#include "client/output.h"

namespace sockbroker::client {

struct PumpOptions {
  // End our direction when the input has ended (nc -N).
  bool half_close = true;
  // LF becomes CR LF on its way out (nc -C).
  bool crlf = false;
  // So long after the input's end it is over (nc -q).
  absl::optional<absl::Duration> quit_after_input;
  // So long without a byte either way it is over (nc -w).
  absl::optional<absl::Duration> idle;

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
  // Called in Run's thread when nothing more will be written to the output, which is no longer used
  // then: closing it tells its reader.
  std::function<void()> on_output_end;

  // How much one read asks for. Bytes, at most 1 MiB.
  std::size_t read_size = 1 << 20;
};

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
  grpc::Status status;
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
  // Borrows all but the connection; `interrupt` may be null.
  Pump(BrokerLink* link, const v1::Connection& connection, int input, int output,
       PumpOptions options, Interrupt* interrupt);
  ~Pump();
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  // Once. Leaves the connection open.
  PumpResult Run();

 private:
  // One thread each.
  void ReadInput();
  void SendToPeer();
  void ReceiveFromPeer();
  void WatchForClose();

  // What the threads have come to. True when it is over; fills in how.
  bool IsOver(PumpResult* result);
  // When the next timer is due.
  absl::Time NextTimer() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool InputHasSomething() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MaySend() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Tells Run to look again.
  void Notify();

  BrokerLink* const link_;
  const std::string handle_;
  const int input_;
  Output output_;
  const PumpOptions options_;
  Interrupt* const interrupt_;

  int event_fd_;
  int stop_fd_;
  Canceller canceller_;

  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Read from the input, not yet in a write.
  std::string pending_ ABSL_GUARDED_BY(mutex_);
  // A piece of the input, or a write, is under way.
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool input_ended_ ABSL_GUARDED_BY(mutex_) = false;
  // The input has ended and the broker has all of it.
  bool input_done_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time input_done_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  grpc::Status send_status_ ABSL_GUARDED_BY(mutex_);
  std::string send_failed_part_ ABSL_GUARDED_BY(mutex_);
  bool peer_eof_ ABSL_GUARDED_BY(mutex_) = false;
  bool output_closed_ ABSL_GUARDED_BY(mutex_) = false;
  // ReceiveFromPeer is through, however it ended.
  bool receiving_ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status receive_status_ ABSL_GUARDED_BY(mutex_);
  std::string receive_failed_part_ ABSL_GUARDED_BY(mutex_);
  // The peer has ended both directions in good order: TLS without half-close.
  bool ended_by_peer_ ABSL_GUARDED_BY(mutex_) = false;
  // The connection is gone: what WaitClosed said.
  absl::optional<grpc::Status> closed_ ABSL_GUARDED_BY(mutex_);
  uint64_t sent_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t received_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time last_activity_ ABSL_GUARDED_BY(mutex_);

  uint64_t write_offset_;
  uint64_t read_offset_;
};

}  // namespace sockbroker::client
