// One viewer: a connection, its mirror, and how it behaves.
//
// Law: what all viewers of one `connect` share stands once, in their `Kind`; there are thousands of viewers.
#pragma once

#include "connection.h"
#include "mirror.h"

namespace bench {

enum class Mode : uint8_t { READER, SLOW, STALLED, PANNING };

// What all viewers of one `connect` have in common.
struct Kind {
    Group* group = nullptr;
    sockaddr_in to{};
    std::string host;
    bool is_text = true;
    Mode mode = Mode::READER;
    int receive_buffer_bytes = 0;
    double read_bytes_per_s = 0;  // of SLOW
    double pan_interval_us = 0;   // of PANNING
    double pan_share = 0;         // of the view's width, by which each view lies beside the one before
};

struct Viewer {
    Connection wire;
    Mirror mirror;
    const Kind* kind = nullptr;
    uint32_t number = 0;  // among those of its `connect`
    bool is_reading = true;
    bool is_held = false;     // does not act, though its mode says so
    bool is_watched = false;  // epoll is asked for room to send, too
    bool has_ended = false;
    Json view;
    std::string token;
    int64_t view_id = 0;  // of PANNING: the last one
    double view_sent_us = 0;  // 0: its answer has come
    double act_us = 0;        // when a SLOW one reads, or a PANNING one pans, next
    int check = 0;            // 0: none asked, 1: asked, 2: answered
};

}  // namespace bench
