// StreamWriter.get_extra_info over the wire.
#pragma once

#include <string>

#include "sockbroker/v1/connection.pb.h"
#include "streams/stream_writer.h"

namespace sockbroker::server {

// Leaves `response` without a value for an unknown name.
void FillExtraInfo(const std::string& name, const streams::StreamWriter& writer,
                   v1::GetExtraInfoResponse* response);
// The names that TLS adds.
void FillExtraInfo(const std::string& name, const v1::TlsInfo& tls,
                   v1::GetExtraInfoResponse* response);
// The same of a connection that is gone: its ends stay known, its socket has no descriptor.
void FillExtraInfo(const std::string& name, const v1::Connection& gone,
                   v1::GetExtraInfoResponse* response);

}  // namespace sockbroker::server
