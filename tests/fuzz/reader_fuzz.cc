// StreamReader against a naive model: whatever is asked in whatever order, and however the bytes
// arrive, it gives what looking at the whole text at once would give.
//
// The input decides the text, how it is cut into pieces and when they come, the limit, and what is
// asked for.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "streams/create_task.h"
#include "streams/error.h"
#include "streams/event_loop.h"
#include "streams/sleep.h"
#include "streams/testing/manual_clock.h"
#include "streams/testing/memory_connection.h"

namespace sockbroker::streams {
namespace {

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "reader_fuzz: %s\n", what);
  std::abort();
}

// Where ReadUntil on all of `text`, with EOF behind it, must end; none: an overrun, and
// text.size() + 1: incomplete.
std::optional<std::size_t> EndOf(const std::string& text,
                                 const std::vector<std::string>& separators, std::size_t limit) {
  std::size_t longest = 0;
  for (const std::string& separator : separators) longest = std::max(longest, separator.size());
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::optional<std::size_t> shortest;
    for (const std::string& separator : separators) {
      if (separator.size() <= end &&
          text.compare(end - separator.size(), separator.size(), separator) == 0) {
        shortest = std::min(shortest.value_or(separator.size()), separator.size());
      }
    }
    if (!shortest.has_value()) continue;
    if (end - *shortest > limit) return std::nullopt;
    return end;
  }
  if (text.size() + 1 > longest + limit) return std::nullopt;
  return text.size() + 1;
}

// Few letters, so that separators are met often, whole and in part.
std::string Letters(FuzzedDataProvider* input, std::size_t size) {
  std::string text = input->ConsumeBytesAsString(size);
  for (char& letter : text) letter = "ab\n"[static_cast<unsigned char>(letter) % 3];
  return text;
}

struct Piece {
  std::string data;
  int turns;  // before the next
};

Task<void> Feed(std::shared_ptr<MemoryStream> peer, std::vector<Piece> pieces) {
  for (const Piece& piece : pieces) {
    peer->Write(piece.data);
    for (int i = 0; i < piece.turns; ++i) co_await Yield();
  }
  peer->WriteEof();
}

// What the model has left; every result is compared with its front.
class Checker {
 public:
  Checker(StreamReader reader, std::string text)
      : reader_(std::move(reader)), text_(std::move(text)) {}

  Task<void> Read(std::size_t n) {
    const absl::StatusOr<absl::Cord> data = co_await reader_.Read(n);
    Require(data.ok(), "read failed");
    Require(data->size() <= n, "read gave too much");
    Require(n == 0 || text_.empty() || !data->empty(), "read gave nothing before EOF");
    Take(*data);
  }

  Task<void> ReadExactly(std::size_t n) {
    const absl::StatusOr<absl::Cord> data = co_await reader_.ReadExactly(n);
    if (n <= text_.size()) {
      Require(data.ok() && data->size() == n, "readexactly gave another size");
      Take(*data);
    } else {
      const auto incomplete = GetIncompleteRead(data.status());
      Require(incomplete.has_value() && incomplete->expected == n, "readexactly is not incomplete");
      Require(incomplete->partial.size() == text_.size(), "a part of the partial data is missing");
      Take(incomplete->partial);
    }
  }

  Task<void> ReadUntil(std::vector<std::string> separators) {
    const std::optional<std::size_t> end = EndOf(text_, separators, reader_.limit());
    const absl::StatusOr<absl::Cord> data = co_await reader_.ReadUntil(std::move(separators));
    if (!end.has_value()) {
      co_await Skip(data.status());
    } else if (*end > text_.size()) {
      const auto incomplete = GetIncompleteRead(data.status());
      Require(incomplete.has_value(), "readuntil is not incomplete");
      Require(incomplete->partial.size() == text_.size(), "a part of the partial data is missing");
      Take(incomplete->partial);
    } else {
      Require(data.ok() && data->size() == *end, "readuntil ended elsewhere");
      Take(*data);
    }
  }

  Task<void> ReadLine() {
    const std::vector<std::string> newline(1, "\n");
    const std::optional<std::size_t> end = EndOf(text_, newline, reader_.limit());
    const absl::StatusOr<absl::Cord> data = co_await reader_.ReadLine();
    if (!end.has_value()) {
      co_await Skip(data.status());
    } else {
      Require(data.ok() && data->size() == std::min(*end, text_.size()),
              "readline ended elsewhere");
      Take(*data);
    }
  }

  void Unread(std::size_t n) {
    const std::string data = last_.substr(last_.size() - std::min(n, last_.size()));
    reader_.Unread(absl::Cord(data));
    text_.insert(0, data);
    last_.clear();
  }

 private:
  void Take(const absl::Cord& data) {
    last_ = std::string(data);
    Require(text_.compare(0, last_.size(), last_) == 0, "other bytes than those sent");
    text_.erase(0, last_.size());
  }

  Task<void> Skip(absl::Status status) {
    const auto overrun = GetLimitOverrun(status);
    Require(overrun.has_value(), "no overrun where the limit is passed");
    Require(overrun->consumed > reader_.limit(), "an overrun within the limit");
    // The safe way to go on, which must be possible at once.
    Require(overrun->consumed <= reader_.buffered(), "an overrun beyond what is there");
    co_await ReadExactly(overrun->consumed);
  }

  StreamReader reader_;
  std::string text_;
  std::string last_;
};

Task<void> Run(FuzzedDataProvider* input) {
  MemoryStreamOptions memory;
  memory.kernel_buffer = input->ConsumeIntegralInRange<std::size_t>(1, 64);
  memory.read_size = input->ConsumeIntegralInRange<std::size_t>(1, 64);
  MemoryPeer link =
      MakeMemoryPeer({.limit = input->ConsumeIntegralInRange<std::size_t>(1, 40)}, memory);

  std::vector<Piece> pieces;
  std::string text;
  const int count = input->ConsumeIntegralInRange(0, 12);
  for (int i = 0; i < count; ++i) {
    const int turns = input->ConsumeIntegralInRange(0, 6);
    pieces.push_back({Letters(input, input->ConsumeIntegralInRange<std::size_t>(1, 40)), turns});
    text += pieces.back().data;
  }
  auto feeding = CreateTask(Feed(link.peer, std::move(pieces)));

  Checker checker(link.reader, text);
  while (input->remaining_bytes() > 0) {
    switch (input->ConsumeIntegralInRange(0, 5)) {
      case 0:
        co_await checker.Read(input->ConsumeIntegralInRange<std::size_t>(0, 50));
        break;
      case 1:
        co_await checker.ReadExactly(input->ConsumeIntegralInRange<std::size_t>(0, 100));
        break;
      case 2: {
        std::vector<std::string> separators;
        const int alternatives = input->ConsumeIntegralInRange(1, 3);
        for (int i = 0; i < alternatives; ++i) {
          std::string separator = Letters(input, input->ConsumeIntegralInRange<std::size_t>(1, 5));
          if (separator.empty()) separator = "a";
          separators.push_back(std::move(separator));
        }
        co_await checker.ReadUntil(std::move(separators));
        break;
      }
      case 3:
        co_await checker.ReadLine();
        break;
      case 4:
        checker.Unread(input->ConsumeIntegralInRange<std::size_t>(0, 10));
        break;
      default:
        link.reader.set_limit(input->ConsumeIntegralInRange<std::size_t>(0, 60));
        break;
    }
  }
  link.writer.Abort();
  co_await feeding.Join();
}

}  // namespace
}  // namespace sockbroker::streams

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sockbroker::streams;  // NOLINT(google-build-using-namespace)
  FuzzedDataProvider input(data, size);
  ManualClock clock;
  EventLoop loop(&clock);
  loop.RunUntilComplete(Run(&input));
  return 0;
}
