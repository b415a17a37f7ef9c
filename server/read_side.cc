#include "server/read_side.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/error.h"
#include "streams/event_loop.h"
#include "streams/with_cancel.h"

namespace sockbroker::server {

using streams::CancelSource;
using streams::CancelToken;
using streams::Task;

struct ReadSide::Turn {
  Turn(ReadSide* s, CancelToken parent, const ReadSpec& spec)
      : side(s), request_id(spec.request_id), kept(spec.offset.has_value()), cancel(parent) {
    side->turns_.push_back(this);
  }
  ~Turn() {
    side->turns_.erase(std::find(side->turns_.begin(), side->turns_.end(), this));
    side->turn_ended_.WakeAll();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  ReadSide* const side;
  const std::string& request_id;
  const bool kept;
  CancelSource cancel;
  bool superseded = false;
  std::optional<uint64_t> bound;  // a session has the connection: its epoch
};

namespace {

Task<absl::StatusOr<absl::Cord>> ReadEngine(streams::StreamReader reader, const ReadSpec& spec) {
  switch (spec.kind) {
    case ReadSpec::Kind::kLine:
      return reader.ReadLine();
    case ReadSpec::Kind::kExactly:
      return reader.ReadExactly(spec.n);
    case ReadSpec::Kind::kUntil:
      return spec.separators.empty() ? reader.ReadUntil() : reader.ReadUntil(spec.separators);
    case ReadSpec::Kind::kSome:
      break;
  }
  return reader.Read(spec.n);
}

bool EndsWithNewline(const absl::Cord& data) {
  return !data.empty() && data[data.size() - 1] == '\n';
}

}  // namespace

ReadSide::ReadSide(streams::StreamReader reader, uint64_t skip)
    : reader_(std::move(reader)), skip_(skip) {}

bool ReadSide::HasEarlierWithSameId(const Turn& turn) const {
  for (const Turn* other : turns_) {
    if (other == &turn) return false;
    if (other->request_id == turn.request_id) return true;
  }
  return false;
}

// Puts the reading position to `offset`: what lies below has arrived, what lies above is read
// again. Without an offset the reader does not care about what was kept.
RpcStatus ReadSide::MoveTo(const std::optional<uint64_t>& offset) {
  if (offset.has_value()) {
    if (*offset < kept_start() || *offset > next()) {
      return RpcStatus(grpc::StatusCode::OUT_OF_RANGE, v1::OFFSET_OUT_OF_RANGE,
                       absl::StrCat("offset ", *offset, " is outside of ", kept_start(), " to ",
                                    next(), ", which is what can be read"));
    }
    kept_.RemovePrefix(static_cast<std::size_t>(*offset - kept_start()));
    reader_.Unread(std::move(kept_));
  }
  kept_.Clear();
  return RpcStatus();
}

RpcStatus ReadSide::BeginTls(const std::optional<uint64_t>& offset) {
  if (!offset.has_value() && reader_.buffered() > 0) {
    return WrongState(
        v1::UNREAD_PLAINTEXT,
        absl::StrCat(reader_.buffered(), " unread bytes of plaintext stand before StartTls"));
  }
  const uint64_t end = received();
  if (offset.has_value()) {
    if (RpcStatus status = MoveTo(offset); !status.ok()) return status;
  }
  // The engine takes what is buffered out of its count.
  const uint64_t bytes = reader_.bytes_received() - reader_.buffered();
  skip_before_tls_ = skip_;
  skip_ = bytes - end;
  return RpcStatus();
}

void ReadSide::EndReads(uint64_t epoch) {
  for (Turn* turn : turns_) {
    turn->bound = epoch;
    turn->cancel.Cancel();
  }
}

Task<absl::Status> ReadSide::WaitIdle() {
  while (!idle()) {
    if (absl::Status status = co_await turn_ended_.Wait(); !status.ok()) co_return status;
  }
  co_return absl::OkStatus();
}

RpcStatus ReadSide::BeginPull(const std::optional<uint64_t>& offset,
                              streams::PullListener* listener) {
  const uint64_t from = offset.value_or(kept_start());
  if (from < kept_start() || from > received()) {
    return RpcStatus(grpc::StatusCode::OUT_OF_RANGE, v1::OFFSET_OUT_OF_RANGE,
                     absl::StrCat("offset ", from, " is outside of ", kept_start(), " to ",
                                  received(), ", which is what can be read"));
  }
  // It can't fail: what lies beyond next() is skipped below.
  (void)MoveTo(std::min(from, next()));
  reader_.BeginPull(listener);
  if (from > next()) (void)reader_.Pull(static_cast<std::size_t>(from - next()));
  return RpcStatus();
}

void ReadSide::EndPull(absl::Cord unread) {
  reader_.EndPull();
  reader_.Unread(std::move(unread));
}

void ReadSide::BeginTlsAt(uint64_t begin, absl::Cord taken_back) {
  reader_.Unread(std::move(taken_back));
  skip_before_tls_ = skip_;
  skip_ = reader_.bytes_received() - reader_.buffered() - begin;
}

Task<RpcStatus> ReadSide::Read(ReadSpec spec, const std::atomic<bool>* gone, ReadResult* result) {
  const CancelToken token = co_await streams::GetCancelToken();
  // Read(0) answers at once, whoever waits.
  const bool may_wait = spec.kind != ReadSpec::Kind::kSome || spec.n > 0;
  bool supersedes = false;
  for (Turn* other : turns_) {
    if (!spec.request_id.empty() && other->request_id == spec.request_id) {
      other->superseded = true;
      other->cancel.Cancel();
      supersedes = true;
    } else if ((spec.offset.has_value() || other->kept) && may_wait) {
      // Two plain reads may overlap as in asyncio, when the second need not wait. A kept one names
      // its bytes, so nobody may move the position under it.
      co_return WrongState(v1::READ_PENDING,
                           "read() called while another read is already waiting for incoming data");
    }
  }
  Turn turn(this, token, spec);
  while (supersedes && HasEarlierWithSameId(turn)) {
    // It ends in its next turn, and gives back what it may have got.
    const absl::Status woken = co_await turn_ended_.Wait();
    if (turn.superseded || turn.bound.has_value()) break;
    if (!woken.ok()) co_return CallerGone();
  }
  if (turn.bound.has_value()) co_return IsBound(*turn.bound);
  const auto superseded = [] {
    return WrongState(v1::SUPERSEDED, "a newer read with the same request_id took its place");
  };
  if (turn.superseded) co_return superseded();
  if (gone->load()) co_return CallerGone();
  if (RpcStatus status = MoveTo(spec.offset); !status.ok()) co_return status;

  absl::StatusOr<absl::Cord> data =
      co_await streams::WithCancel(ReadEngine(reader_, spec), turn.cancel.token());

  result->outcome = v1::READ_OUTCOME_COMPLETE;
  if (!data.ok()) {
    if (auto incomplete = streams::GetIncompleteRead(data.status())) {
      data = std::move(incomplete->partial);
      result->outcome = v1::READ_OUTCOME_INCOMPLETE;
    }
  } else if (spec.kind == ReadSpec::Kind::kLine && !EndsWithNewline(*data)) {
    result->outcome = v1::READ_OUTCOME_EOF;
  } else if (spec.kind == ReadSpec::Kind::kSome && data->empty() && spec.n > 0) {
    result->outcome = v1::READ_OUTCOME_EOF;
  }

  // The result and the cancellation may have raced: what nobody will see goes back.
  if (turn.superseded || turn.bound.has_value() || gone->load()) {
    if (data.ok()) reader_.Unread(*std::move(data));
    if (turn.bound.has_value()) co_return IsBound(*turn.bound);
    co_return turn.superseded ? superseded() : CallerGone();
  }
  if (!data.ok()) {
    if (const auto overrun = streams::GetLimitOverrun(data.status())) {
      RpcStatus status = Exhausted(v1::LIMIT_OVERRUN, "limit", reader_.limit(),
                                   absl::ZeroDuration(), data.status().message());
      status.detail().set_consumed(overrun->consumed);
      co_return status;
    }
    if (absl::IsFailedPrecondition(data.status())) {
      co_return WrongState(v1::READ_PENDING, data.status().message());
    }
    co_return FromEngine(data.status(), EngineCall::kStream, "separators");
  }
  result->data = *std::move(data);
  result->offset = next() - result->data.size();
  result->eof = reader_.AtEof();
  if (spec.offset.has_value()) kept_ = result->data;
  co_return RpcStatus();
}

}  // namespace sockbroker::server
