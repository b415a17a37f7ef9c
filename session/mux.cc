#include "session/mux.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace sockbroker::session {
namespace {

// Who sends so much in a turn moves bulk, and is not taken for somebody with little to say before
// so many turns later: a bulk transfer also has small turns.
constexpr std::size_t kBulkyTurn = kTurn / 4;
constexpr int kBulkyTurns = 16;

}  // namespace

void Mux::AckLater(MuxChannel* channel) {
  MuxChannel::AckEntry& entry = channel->ack;
  const Position taken = channel->Taken();
  if (entry.hook.linked() && entry.due) return;
  entry.channel = channel;
  entry.due = channel->in.AckDue(taken);
  if (entry.due) {
    entry.hook.Unlink();
    acks_.Add(&entry);
  } else if (channel->in.AckPending(taken)) {
    pending_acks_.Add(&entry);
  }
}

void Mux::AckPending() {
  while (MuxChannel::AckEntry* entry = pending_acks_.Next()) {
    entry->due = true;
    acks_.Add(entry);
  }
}

void Mux::Forget(MuxChannel* channel) {
  channel->hook.Unlink();
  channel->ack.hook.Unlink();
}

void Mux::AckNow(MuxChannel* channel) {
  channel->ack.hook.Unlink();
  const Position taken = channel->Taken();
  control_.AddAck(channel->number, taken, channel->in.TakeAck(taken), channel->Flushed());
}

void Mux::DropControl() {
  control_ = FrameWriter();
  flight_ = Flight(least_flight_);
}

void Mux::PingIfDue(absl::Time now) {
  if (flight_.PingDue(now)) write_ping_(flight_.Ping(now), &control_);
}

bool Mux::Turn(MuxChannel* channel, FrameWriter* writer) {
  std::size_t left = kTurn;
  if (channel->bulky > 0) channel->bulky--;
  while (left > 0) {
    if (const std::optional<Position> mark = channel->out.TakeMark()) {
      channel->WriteMark(*mark, writer);
      continue;
    }
    if (std::optional<SendHalf::Data> data = channel->out.TakeData(left)) {
      writer->AddData(channel->number, data->offset, data->bytes);
      left -= data->bytes.size();
      if (kTurn - left >= kBulkyTurn) channel->bulky = kBulkyTurns;
      channel->OnSent();
      continue;
    }
    // Nothing that was appended may go: get more, as far as the edge allows.
    const SendHalf& out = channel->out;
    if (out.sent() != out.end()) return false;
    const Position before = out.end();
    const uint64_t room = out.edge() > before.offset ? out.edge() - before.offset : 0;
    // More than this turn may send: the source is a socket, and few large reads of it cost less
    // than many small ones.
    channel->Refill(std::min<uint64_t>(kBatch, room));
    if (out.end() == before) {
      channel->WriteEnd(writer);
      return false;
    }
  }
  return true;
}

absl::Cord Mux::NextBatch(absl::Time now) {
  flight_.Begin(now);
  FrameWriter writer = std::exchange(control_, FrameWriter());
  while (MuxChannel::AckEntry* entry = acks_.Next()) {
    MuxChannel* channel = entry->channel;
    const Position taken = channel->Taken();
    writer.AddAck(channel->number, taken, channel->in.TakeAck(taken), channel->Flushed());
  }
  // Small messages while somebody waits behind them: each is dealt with in one go.
  const std::size_t batch = std::min<uint64_t>(kBatch, flight_.limit() / 4);
  while (writer.size() < batch && !ready_.empty()) {
    if (flight_.room() == 0) {
      flight_.HeldBack();
      break;
    }
    const std::size_t before = writer.size();
    MuxChannel* channel = ready_.Next();
    const bool light = channel->bulky == 0;
    if (Turn(channel, &writer)) ready_.AddAgain(channel);
    const std::size_t size = writer.size() - before;
    flight_.Sent(size);
    if (light && size > 0 && size < kBulkyTurn) flight_.Share(now);
  }
  if (flight_.PingDue()) write_ping_(flight_.Ping(now), &writer);
  return writer.Take();
}

}  // namespace sockbroker::session
