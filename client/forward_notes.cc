#include "client/forward_notes.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/console.h"
#include "client/endpoint_text.h"
#include "client/json_output.h"

namespace sockbroker::client {
namespace {

constexpr absl::Duration kRedrawEvery = absl::Seconds(1);
constexpr absl::Duration kTellEvery = absl::Seconds(10);

std::string AddressText(const streams::SocketAddress& address) {
  if (address.is_unix()) return UnixPathText(address.unix_path());
  return absl::StrCat(address.host(), " ", address.port());
}

std::string AddressJson(const streams::SocketAddress& address) {
  JsonLine line;
  if (address.is_unix()) {
    line.Add("unix", UnixPathText(address.unix_path()));
  } else {
    line.Add("host", address.host()).Add("port", address.port());
  }
  return line.Text();
}

std::string RateText(uint64_t now, uint64_t before, double seconds) {
  return absl::StrCat(BytesText(seconds > 0 ? static_cast<double>(now - before) / seconds : 0),
                      "/s");
}

// A line that is longer than the terminal would scroll it with every redrawing.
std::size_t TerminalWidth() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79u;
}

}  // namespace

std::string BytesText(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return unit > 0 && bytes < 10 ? absl::StrFormat("%.1f %s", bytes, kUnits[unit])
                                : absl::StrFormat("%.0f %s", bytes, kUnits[unit]);
}

std::string ForwardStatusText(const ForwardStatus& now, const ForwardStatus& before,
                              absl::Duration between) {
  const double seconds = absl::ToDoubleSeconds(between);
  return absl::StrCat(now.link_up ? "" : "no link to the broker; ", now.open,
                      now.open == 1 ? " connection open, " : " connections open, ", now.total,
                      " in all; sent ", BytesText(static_cast<double>(now.traffic.sent)), ", ",
                      RateText(now.traffic.sent, before.traffic.sent, seconds), "; received ",
                      BytesText(static_cast<double>(now.traffic.received)), ", ",
                      RateText(now.traffic.received, before.traffic.received, seconds));
}

ForwardNotes::ForwardNotes(int verbose, bool json)
    : verbose_(verbose), json_(json), redraw_(!json && isatty(STDERR_FILENO) == 1) {}

ForwardNotes::~ForwardNotes() {
  if (!drawn_.empty()) PrintNote("");
}

void ForwardNotes::Erase() {
  if (drawn_.empty()) return;
  drawn_.clear();
  PrintOnStderr("\r\x1b[K");
}

void ForwardNotes::Say(const std::string& text) {
  Erase();
  PrintNote(json_ ? text : Printable(text));
}

void ForwardNotes::Listening(absl::string_view kind,
                             const std::vector<streams::SocketAddress>& sockets,
                             absl::string_view target, bool needed) {
  if (json_) {
    std::vector<std::string> all;
    all.reserve(sockets.size());
    for (const streams::SocketAddress& socket : sockets) all.push_back(AddressJson(socket));
    JsonLine line;
    line.Add("event", "listening").Add("forward", kind);
    // The first on its own, because there mostly is but one.
    if (!sockets.empty() && sockets[0].is_ip()) {
      line.Add("host", sockets[0].host()).Add("port", sockets[0].port());
    }
    if (!target.empty()) line.Add("target", target);
    Say(line.AddJson("sockets", absl::StrCat("[", absl::StrJoin(all, ","), "]")).Text());
    return;
  }
  if (verbose_ == 0 && !needed) return;
  for (const streams::SocketAddress& socket : sockets) {
    Say(absl::StrCat(kind == "remote" ? "The broker listens on " : "Listening on ",
                     AddressText(socket), " for ", kind == "dynamic" ? "SOCKS 5" : target));
  }
}

void ForwardNotes::Connection(absl::string_view text) {
  if (verbose_ >= 2 && !json_) Say(std::string(text));
}

void ForwardNotes::Problem(absl::string_view text) {
  if (json_) {
    Say(JsonLine().Add("event", "problem").Add("text", text).Text());
  } else {
    Say(absl::StrCat("sockbroker: ", text));
  }
}

void ForwardNotes::Link(bool up, absl::string_view text) {
  if (json_) {
    Say(JsonLine().Add("event", "link").Add("up", up).Add("text", text).Text());
  } else {
    Say(absl::StrCat("sockbroker: ", text));
  }
}

absl::Duration ForwardNotes::interval() const {
  if (verbose_ == 0) return absl::InfiniteDuration();
  return redraw_ ? kRedrawEvery : kTellEvery;
}

void ForwardNotes::Status(const ForwardStatus& status, absl::Time now) {
  const ForwardStatus before = before_;
  const absl::Duration between = now - told_;
  before_ = status;
  told_ = now;
  const bool quiet = before.total == status.total && before.open == status.open &&
                     before.traffic.sent == status.traffic.sent &&
                     before.traffic.received == status.traffic.received;
  if (json_) {
    if (quiet) return;
    Say(JsonLine()
            .Add("event", "status")
            .Add("open", status.open)
            .Add("total", status.total)
            .Add("sent", status.traffic.sent)
            .Add("received", status.traffic.received)
            .Text());
    return;
  }
  std::string text = ForwardStatusText(status, before, between);
  if (!redraw_) {
    if (!quiet) Say(text);
    return;
  }
  text.resize(std::min(text.size(), TerminalWidth()));
  if (text == drawn_) return;
  PrintOnStderr(absl::StrCat("\r", text, "\x1b[K"));
  drawn_ = std::move(text);
}

}  // namespace sockbroker::client
