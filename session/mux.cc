#include "session/mux.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace sockbroker::session {

void Mux::AckLater(MuxChannel* channel, bool now) {
  const Position taken = channel->Taken();
  if (!(now ? channel->in.AckPending(taken) : channel->in.AckDue(taken))) return;
  channel->ack.channel = channel;
  acks_.Add(&channel->ack);
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
      continue;
    }
    // Nothing that was appended may go: get more, as far as the edge allows.
    const SendHalf& out = channel->out;
    if (out.sent() != out.end()) return false;
    const Position before = out.end();
    const uint64_t room = out.edge() > before.offset ? out.edge() - before.offset : 0;
    channel->Refill(std::min<uint64_t>(left, room));
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
