// Lines ended by LF become lines ended by CR LF, in a stream that comes in pieces (nc -C).
//
//   CrlfConverter converter;
//   converter.Append("a\nb\r", &out);   // "a\r\nb\r"
//   converter.Append("\n", &out);       // "...\n": it already had its CR, in the piece before
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace sockbroker::client {

class CrlfConverter {
 public:
  void Append(absl::string_view piece, std::string* out);

 private:
  bool after_cr_ = false;
};

}  // namespace sockbroker::client
