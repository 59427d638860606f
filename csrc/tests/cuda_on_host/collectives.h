// Part of cuda_host.h: what the lanes of a warp do together. The last lane to arrive computes for all.
#pragma once

#include "tests/cuda_on_host/scheduler.h"

namespace cuhost {

// Every lane of the mask must call this with the same function, which then gets the `mine` of each. `aligned`: PTX's
// word for an instruction that all lanes must meet at the same place.
template <class Mine>
void collective(const char* what, unsigned mask, Mine& mine, LaneFunction function, Place at, bool aligned = false) {
  Thread* me = device.current;
  Warp& warp = *me->warp;
  mask &= warp.exists;  // the last warp may be short
  if ((mask >> me->lane & 1) == 0) die("warp collective: the calling lane is not in its own mask", at);
  if (aligned && mask != ~0u) die("an instruction for a whole warp, called in a shorter one", at);
  warp.lanes[me->lane] = &mine;
  size_t m = 0;
  while (m < warp.meetings.size() && (warp.meetings[m].mask != mask || warp.meetings[m].function != function)) ++m;
  if (m == warp.meetings.size()) warp.meetings.push_back({mask, 0, function, at});
  Meeting& meeting = warp.meetings[m];
  if (aligned && meeting.first.line != at.line) {
    std::fprintf(stderr, "cuda_host: other lanes wait at %s:%d\n", meeting.first.file, meeting.first.line);
    die("divergent instruction for a whole warp", at);
  }
  meeting.arrived |= 1u << me->lane;
  if (meeting.arrived != mask) return wait_for(what, mask, at);
  warp.meetings.erase(warp.meetings.begin() + static_cast<std::ptrdiff_t>(m));
  function(mask, warp.lanes);
  const unsigned first = me->linear - me->lane;
  for (unsigned rest = mask & ~(1u << me->lane); rest != 0; rest &= rest - 1) {
    make_ready(&device.threads[first + static_cast<unsigned>(__builtin_ctz(rest))]);
  }
}

// Calls body(lane) for every lane of the mask.
template <class Body>
void for_lanes(unsigned mask, Body body) {
  for (; mask != 0; mask &= mask - 1) body(static_cast<unsigned>(__builtin_ctz(mask)));
}

template <class T>
struct ShuffleLane {
  T in, out;
  unsigned from;
  Place at;
};

template <class T>
T shuffle(const char* what, unsigned mask, T value, unsigned from, Place at) {
  ShuffleLane<T> mine{value, value, from, at};
  const auto exchange = [](unsigned lanes_in, void** lanes) {
    for_lanes(lanes_in, [&](unsigned lane) {
      auto* to = static_cast<ShuffleLane<T>*>(lanes[lane]);
      if ((lanes_in >> to->from & 1) == 0) die("shuffle reads a lane that is not in the mask", to->at);
      to->out = static_cast<ShuffleLane<T>*>(lanes[to->from])->in;
    });
  };
  collective(what, mask, mine, exchange, at);
  return mine.out;
}

// The lanes of the mask where pred is true.
inline unsigned ballot(const char* what, unsigned mask, bool pred, Place at) {
  struct Lane {
    bool in;
    unsigned out;
  } mine{pred, 0};
  const auto count = [](unsigned lanes_in, void** lanes) {
    unsigned set = 0;
    for_lanes(lanes_in, [&](unsigned lane) { set |= unsigned{static_cast<Lane*>(lanes[lane])->in} << lane; });
    for_lanes(lanes_in, [&](unsigned lane) { static_cast<Lane*>(lanes[lane])->out = set; });
  };
  collective(what, mask, mine, count, at);
  return mine.out;
}

}  // namespace cuhost
