// See lines.h.

#include "lines.h"

#include <algorithm>
#include <cstring>

namespace realtime::ingest {

namespace {

bool is_blank(std::string_view line) {
    return std::all_of(line.begin(), line.end(), [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); });
}

}  // namespace

bool LineSplitter::next(std::string_view& data, Line& line) {
    while (!data.empty()) {
        const void* const found = std::memchr(data.data(), separator_, data.size());
        if (found == nullptr) {
            keep(data);
            data = std::string_view();
            return false;
        }
        const std::string_view head = data.substr(0, static_cast<size_t>(static_cast<const char*>(found) - data.data()));
        data.remove_prefix(head.size() + 1);
        if (is_too_long_ || (!is_taken_ && !kept_.empty())) {
            keep(head);
            if (take_kept(line)) {
                return true;
            }
            continue;
        }
        line.is_too_long = head.size() > line_bytes_max_;
        line.text = line.is_too_long ? std::string_view() : head;
        if (line.is_too_long || !is_blank(head)) {
            return true;
        }
    }
    return false;
}

bool LineSplitter::end(Line& line) { return (is_too_long_ || !is_taken_) && take_kept(line); }

void LineSplitter::keep(std::string_view data) {
    if (is_taken_) {
        kept_.clear();
        is_taken_ = false;
    }
    if (is_too_long_ || data.size() > line_bytes_max_ - kept_.size()) {
        is_too_long_ = true;
        kept_.clear();
    } else {
        kept_.append(data);
    }
}

// Give out the line that was kept, unless it is blank.
bool LineSplitter::take_kept(Line& line) {
    line.is_too_long = is_too_long_;
    line.text = kept_;
    is_too_long_ = false;
    is_taken_ = true;
    return line.is_too_long || !is_blank(line.text);
}

}  // namespace realtime::ingest
