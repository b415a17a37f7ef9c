#include "client/crlf.h"

#include <gtest/gtest.h>

namespace sockbroker::client {
namespace {

TEST(Crlf, ALineFeedGetsACarriageReturnUnlessItHasOneHoweverTheTextIsCut) {
  const std::string text = "\na\n\r\nb\r\rc\n\n\r\n\rd\r";
  const std::string expected = "\r\na\r\n\r\nb\r\rc\r\n\r\n\r\n\rd\r";
  for (std::size_t first = 0; first <= text.size(); ++first) {
    for (std::size_t second = first; second <= text.size(); ++second) {
      CrlfConverter converter;
      std::string out;
      converter.Append(text.substr(0, first), &out);
      converter.Append(text.substr(first, second - first), &out);
      converter.Append(text.substr(second), &out);
      EXPECT_EQ(out, expected) << first << " " << second;
    }
  }
}

TEST(Crlf, BytesThatAreNoTextStay) {
  CrlfConverter converter;
  std::string out;
  converter.Append(absl::string_view("\0\xff\r\0", 4), &out);
  EXPECT_EQ(out, std::string("\0\xff\r\0", 4));
}

}  // namespace
}  // namespace sockbroker::client
