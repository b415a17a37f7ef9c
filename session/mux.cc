#include "session/mux.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace sockbroker::session {

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

bool Mux::Turn(MuxChannel* channel, FrameWriter* writer) {
  std::size_t left = kTurn;
  while (left > 0) {
    if (const std::optional<Position> mark = channel->out.TakeMark()) {
      channel->WriteMark(*mark, writer);
      continue;
    }
    if (std::optional<SendHalf::Data> data = channel->out.TakeData(left)) {
      writer->AddData(channel->number, data->offset, data->bytes);
      left -= data->bytes.size();
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

absl::Cord Mux::NextBatch() {
  FrameWriter writer = std::exchange(control_, FrameWriter());
  while (MuxChannel::AckEntry* entry = acks_.Next()) {
    MuxChannel* channel = entry->channel;
    const Position taken = channel->Taken();
    writer.AddAck(channel->number, taken, channel->in.TakeAck(taken), channel->Flushed());
  }
  while (writer.size() < kBatch) {
    MuxChannel* channel = ready_.Next();
    if (channel == nullptr) break;
    if (Turn(channel, &writer)) ready_.AddAgain(channel);
  }
  return writer.Take();
}

}  // namespace sockbroker::session
