#include "client/forward_spec.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace sockbroker::client {
namespace {

struct Field {
  std::string text;
  bool bracketed = false;

  bool is_path() const {
    return !bracketed && (text.find('/') != std::string::npos || (!text.empty() && text[0] == '@'));
  }
  bool is_number() const {
    return !bracketed && !text.empty() &&
           std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isdigit(c); });
  }
};

// None when a bracket has no end, or something follows it.
std::optional<std::vector<Field>> Split(absl::string_view text) {
  std::vector<Field> fields(1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    Field& field = fields.back();
    if (text[i] == ':') {
      fields.emplace_back();
    } else if (field.bracketed) {
      return std::nullopt;
    } else if (text[i] == '[' && field.text.empty()) {
      const std::size_t end = text.find(']', i);
      if (end == absl::string_view::npos) return std::nullopt;
      field = {std::string(text.substr(i + 1, end - i - 1)), true};
      i = end;
    } else if (text[i] == '\\' && i + 1 < text.size() &&
               (text[i + 1] == ':' || text[i + 1] == '\\')) {
      field.text += text[++i];
    } else {
      field.text += text[i];
    }
  }
  return fields;
}

absl::Status Malformed(char option, absl::string_view text, absl::string_view why) {
  const char* grammar = option == 'D'   ? "[BIND:]PORT"
                        : option == 'W' ? "HOST:PORT or PATH"
                                        : "[BIND:]PORT:HOST:HOSTPORT, where a PATH may stand for "
                                          "either end";
  return absl::InvalidArgumentError(absl::StrCat("-", std::string(1, option), " takes ", grammar,
                                                 ", not '", text, "'", why.empty() ? "" : ": ", why,
                                                 "; see `sockbroker forward --help`"));
}

constexpr char kIpv6[] = "an IPv6 address stands in brackets";

// Reads fields from `next` on.
class Reader {
 public:
  Reader(char option, absl::string_view text, std::vector<Field> fields)
      : option_(option), text_(text), fields_(std::move(fields)) {}

  absl::StatusOr<ForwardPlace> Listen() {
    ForwardPlace place;
    if (option_ != 'D' && fields_[next_].is_path()) {
      place.unix_path = fields_[next_++].text;
      return place;
    }
    // The first is the port, unless there is one field more than it needs: then it stands where an
    // interface does, and "" is every one.
    if (HasBind()) {
      if (left() < 2) return Malformed(option_, text_, "the port is missing");
      const Field& bind = fields_[next_++];
      place.host = bind.text.empty() && !bind.bracketed ? "*" : bind.text;
      if (place.host != "*" && !IsPlausibleHost(place.host)) {
        return Malformed(option_, text_, "that is no host to listen on");
      }
    }
    const Field& port = fields_[next_++];
    absl::StatusOr<Port> parsed = ParsePort(port.text);
    if (!port.is_number() || !parsed.ok()) {
      return Malformed(option_, text_,
                       left() > 2 ? kIpv6 : absl::StrCat("'", port.text, "' is no port"));
    }
    place.port = *std::move(parsed);
    return place;
  }

  absl::StatusOr<ForwardPlace> Target() {
    ForwardPlace place;
    if (left() == 1 && fields_[next_].is_path()) {
      place.unix_path = fields_[next_++].text;
      return place;
    }
    if (left() > 2) return Malformed(option_, text_, kIpv6);
    if (left() < 2) return Malformed(option_, text_, "where it leads is missing");
    place.host = fields_[next_++].text;
    if (!IsPlausibleHost(place.host)) {
      return Malformed(option_, text_, absl::StrCat("'", place.host, "' is no host"));
    }
    const std::string& port = fields_[next_++].text;
    absl::StatusOr<Port> parsed = ParsePort(port);
    if (!parsed.ok() || *parsed == Port{}) {
      return Malformed(option_, text_, absl::StrCat("'", port, "' is no port to connect to"));
    }
    place.port = *std::move(parsed);
    return place;
  }

  absl::Status End() { return left() == 0 ? absl::OkStatus() : Malformed(option_, text_, kIpv6); }

 private:
  bool HasBind() const {
    if (option_ == 'D') return left() == 2 || !fields_[next_].is_number();
    if (left() != 3) return left() > 3 || !fields_[next_].is_number();
    // BIND:PORT:PATH, or PORT:HOST:HOSTPORT. Where it is neither, a second number is the port.
    return fields_.back().is_path() ||
           (!fields_[next_].is_number() && fields_[next_ + 1].is_number());
  }
  std::size_t left() const { return fields_.size() - next_; }

  const char option_;
  const absl::string_view text_;
  const std::vector<Field> fields_;
  std::size_t next_ = 0;
};

absl::StatusOr<Reader> Begin(char option, absl::string_view text) {
  std::optional<std::vector<Field>> fields = Split(text);
  if (!fields.has_value()) return Malformed(option, text, "the brackets don't match");
  return Reader(option, text, *std::move(fields));
}

}  // namespace

bool IsPlausibleHost(absl::string_view host) {
  return !host.empty() && host.size() <= 255 &&
         std::all_of(host.begin(), host.end(), [](char c) { return absl::ascii_isgraph(c); });
}

std::string ForwardPlace::Text() const {
  if (is_unix()) return unix_path;
  if (host.empty()) return absl::StrCat("localhost:", PortText(port));
  const bool ipv6 = host.find(':') != std::string::npos;
  return absl::StrCat(ipv6 ? "[" : "", host, ipv6 ? "]:" : ":", PortText(port));
}

absl::StatusOr<ForwardSpec> ForwardSpec::ParseListenAndTarget(char option, absl::string_view text) {
  absl::StatusOr<Reader> reader = Begin(option, text);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<ForwardPlace> listen = reader->Listen();
  if (!listen.ok()) return listen.status();
  absl::StatusOr<ForwardPlace> target = reader->Target();
  if (!target.ok()) return target.status();
  return ForwardSpec{*std::move(listen), *std::move(target)};
}

absl::StatusOr<ForwardSpec> ForwardSpec::ParseDynamic(absl::string_view text) {
  absl::StatusOr<Reader> reader = Begin('D', text);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<ForwardPlace> listen = reader->Listen();
  if (!listen.ok()) return listen.status();
  if (absl::Status status = reader->End(); !status.ok()) return status;
  return ForwardSpec{*std::move(listen), {}};
}

absl::StatusOr<ForwardSpec> ForwardSpec::ParseStdio(absl::string_view text) {
  absl::StatusOr<Reader> reader = Begin('W', text);
  if (!reader.ok()) return reader.status();
  absl::StatusOr<ForwardPlace> target = reader->Target();
  if (!target.ok()) return target.status();
  return ForwardSpec{{}, *std::move(target)};
}

}  // namespace sockbroker::client
