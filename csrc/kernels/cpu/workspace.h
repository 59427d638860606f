// Memory that a thread keeps from call to call. The pages of a fresh megabyte take longer than a small layer.
#pragma once

#include <cstdint>

namespace sdgan {

enum class Workspace { filter, planes };

// At least `floats` of them, beginning on a cache line, not initialised; what lay there before is lost when it grows.
// It stays with the thread, one for each use, as large as the largest that was asked for.
float* workspace(Workspace use, int64_t floats);

}  // namespace sdgan
