// ForwardNotes: what `forward` tells on stderr: where it listens, what failed, and with -v how much
// goes through it: one line that is redrawn on a terminal, elsewhere a line now and then.
//
//   ForwardNotes notes(options.verbose, options.json);
//   notes.Listening("local", addresses, "db:80", /*needed=*/true);
//   notes.Status({.open = 3, .total = 120, .traffic = traffic, .now = loop->Now()});
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/relay.h"
#include "streams/address.h"

namespace sockbroker::client {

struct ForwardStatus {
  int open = 0;
  uint64_t total = 0;
  RelayTraffic traffic;
  bool link_up = true;
};

// "1.5 GiB", "17 KiB", "3 B".
std::string BytesText(double bytes);
// "3 connections open, 120 in all; sent 1.2 GiB, 310 MiB/s; received 20 KiB, 0 B/s".
std::string ForwardStatusText(const ForwardStatus& now, const ForwardStatus& before,
                              absl::Duration between);

class ForwardNotes {
 public:
  ForwardNotes(int verbose, bool json);
  // Leaves the terminal's cursor on a line of its own.
  ~ForwardNotes();
  ForwardNotes(const ForwardNotes&) = delete;
  ForwardNotes& operator=(const ForwardNotes&) = delete;

  // `kind`: "local", "remote", "dynamic". `needed`: also when not verbose, because the port was the
  // kernel's choice.
  void Listening(absl::string_view kind, const std::vector<streams::SocketAddress>& sockets,
                 absl::string_view target, bool needed);
  // A connection, with -vv.
  void Connection(absl::string_view text);
  // What went wrong but does not end the program.
  void Problem(absl::string_view text);
  // The link to the broker is down, or up again.
  void Link(bool up, absl::string_view text);
  void Status(const ForwardStatus& status, absl::Time now);

  // How often Status wants to be called; infinite: never.
  absl::Duration interval() const;

 private:
  void Say(const std::string& text);
  void Erase();

  const int verbose_;
  const bool json_;
  const bool redraw_;
  std::string drawn_;
  ForwardStatus before_;
  absl::Time told_ = absl::InfinitePast();
};

}  // namespace sockbroker::client
