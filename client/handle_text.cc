#include "client/handle_text.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/listing.h"

namespace sockbroker::client {
namespace {

// A broker gives out handles of 16 random bytes and more: so many digits are no abbreviation.
constexpr std::size_t kWholeHandleDigits = 32;
// How many of an ambiguous abbreviation's matches a message lists.
constexpr std::size_t kListedMatches = 10;

struct Match {
  NamedHandle named;
  std::string description;
};

std::string Describe(const v1::Connection& connection) {
  return absl::StrCat("connection ", EndpointText(connection.local()), " - ",
                      EndpointText(connection.peer()));
}

std::string Describe(const v1::Server& server) {
  return absl::StrCat("server ", server.name().empty() ? "" : server.name() + " ",
                      server.sockets_size() > 0 ? EndpointText(server.sockets(0)) : "(closed)");
}

absl::Status Ambiguous(const std::string& text, const std::vector<Match>& matches) {
  std::string message = absl::StrCat("'", text, "' is ambiguous:");
  for (std::size_t i = 0; i < matches.size() && i < kListedMatches; ++i) {
    absl::StrAppend(&message, "\n  ", HandleText(matches[i].named.handle), "  ",
                    matches[i].description);
  }
  if (matches.size() > kListedMatches) {
    absl::StrAppend(&message, "\n  and ", matches.size() - kListedMatches, " more");
  }
  return absl::FailedPreconditionError(message);
}

}  // namespace

std::string HandleText(absl::string_view handle) { return absl::BytesToHexString(handle); }

std::size_t UniqueLength(std::vector<std::string> texts) {
  std::sort(texts.begin(), texts.end());
  std::size_t length = 8;
  // Sorted, the neighbour shares the longest prefix.
  for (std::size_t i = 1; i < texts.size(); ++i) {
    const auto [a, b] =
        std::mismatch(texts[i - 1].begin(), texts[i - 1].end(), texts[i].begin(), texts[i].end());
    length = std::max(length, static_cast<std::size_t>(a - texts[i - 1].begin()) + 1);
  }
  return length;
}

absl::StatusOr<HandlePattern> HandlePattern::Parse(absl::string_view text) {
  HandlePattern pattern;
  pattern.text_ = absl::AsciiStrToLower(text);
  const bool hexadecimal = std::all_of(pattern.text_.begin(), pattern.text_.end(), [](char c) {
    return absl::ascii_isxdigit(static_cast<unsigned char>(c));
  });
  if (!hexadecimal || text.size() < kShortestAbbreviation || text.size() > 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a handle: the first ", kShortestAbbreviation,
                     " or more hexadecimal digits are; `sockbroker ls` shows them"));
  }
  pattern.prefix_ = absl::HexStringToBytes(
      absl::string_view(pattern.text_).substr(0, pattern.text_.size() / 2 * 2));
  return pattern;
}

bool HandlePattern::Matches(absl::string_view handle) const {
  return absl::StartsWith(HandleText(handle), text_);
}

absl::StatusOr<NamedHandle> ResolveHandle(BrokerLink& link, absl::string_view text,
                                          HandleKind kind) {
  const absl::StatusOr<HandlePattern> pattern = HandlePattern::Parse(text);
  if (!pattern.ok()) return pattern.status();
  std::vector<Match> matches;
  if (kind != HandleKind::kServer) {
    v1::ListConnectionsRequest request;
    request.set_handle_prefix(pattern->prefix());
    request.set_include_closed(true);
    const grpc::Status status =
        ForEachConnection(link, request, [&](const v1::Connection& connection) {
          if (pattern->Matches(connection.handle())) {
            matches.push_back({{connection.handle(), false}, Describe(connection)});
          }
        });
    if (!status.ok())
      return ToAbslStatus(link.address(), absl::StrCat("looking up ", text), status);
  }
  if (kind != HandleKind::kConnection) {
    v1::ListServersRequest request;
    request.set_handle_prefix(pattern->prefix());
    request.set_include_closed(true);
    const grpc::Status status = ForEachServer(link, request, [&](const v1::Server& server) {
      if (pattern->Matches(server.handle()))
        matches.push_back({{server.handle(), true}, Describe(server)});
    });
    if (!status.ok())
      return ToAbslStatus(link.address(), absl::StrCat("looking up ", text), status);
  }
  if (matches.size() == 1) return matches[0].named;
  if (matches.size() > 1) return Ambiguous(pattern->text(), matches);
  // A whole handle may be of another broker, or of this one before it was restarted: it can say so
  // itself.
  if (pattern->text().size() >= kWholeHandleDigits && pattern->text().size() % 2 == 0) {
    return NamedHandle{pattern->prefix(), kind == HandleKind::kServer};
  }
  const absl::string_view noun = kind == HandleKind::kConnection ? "connection"
                                 : kind == HandleKind::kServer   ? "server"
                                                                 : "connection or server";
  return absl::NotFoundError(absl::StrCat("no ", noun, " of yours has a handle that begins with '",
                                          text,
                                          "'; `sockbroker ls` and `sockbroker servers` list them"));
}

}  // namespace sockbroker::client
