// Off the step path, on a preparing thread: text to tokens, images to rows and pixels to tower input, defaults resolved,
// every buffer of the request reserved to its final size.
#pragma once

#include "core/status.h"
#include "runtime/live_request.h"

namespace hearth::runtime {

// What can be refused at once, before the request is accepted.
Status check_submission(const LiveRequest& request, const LoadedModel& model);
// Fills the request. On failure its `error` says why it cannot run. Never throws.
void prepare_request(LiveRequest& request, const LoadedModel& model);

}  // namespace hearth::runtime
