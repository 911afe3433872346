// Cuts a stream of updates into lines, however it arrives.
//
// Law: the lines do not depend on where the stream is cut into pieces. No more is kept than one line may have.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace realtime::ingest {

// Cuts a stream at a separator. Blank lines are none; of one beyond `line_bytes_max` only that it was there is told.
class LineSplitter {
   public:
    struct Line {
        std::string_view text;  // lives as long as `data`, and no longer than until the next call
        bool is_too_long = false;
    };

    LineSplitter(char separator, size_t line_bytes_max) : separator_(separator), line_bytes_max_(line_bytes_max) {}

    char separator() const { return separator_; }
    // Take the next line off `data`. False: `data` is used up, and what it began is kept.
    bool next(std::string_view& data, Line& line);
    // Take the last line, if there is one: the stream is over.
    bool end(Line& line);

   private:
    void keep(std::string_view data);
    bool take_kept(Line& line);

    char separator_;
    size_t line_bytes_max_;
    std::string kept_;  // of the line that is not over yet
    bool is_too_long_ = false;
    bool is_taken_ = false;  // `kept_` was given out as a line
};

// Runs ahead of whoever reads the lines and guesses their ids: what stands behind the first `"id":"` of each. A guess may be
// wrong; it serves to ask for memory early.
class Scout {
   public:
    Scout(std::string_view lines, char separator) : left_(lines), separator_(separator) {}

    // False: there are no more lines. `id` is empty where none was found.
    bool next(std::string_view& id) {
        if (left_.empty()) {
            return false;
        }
        const size_t end = left_.find(separator_);
        const std::string_view line = left_.substr(0, end);
        left_.remove_prefix(end == std::string_view::npos ? left_.size() : end + 1);
        static constexpr std::string_view BEFORE = "\"id\":\"";
        const size_t at = line.find(BEFORE);
        id = at == std::string_view::npos ? std::string_view() : line.substr(at + BEFORE.size());
        id = id.substr(0, id.find('"'));
        return true;
    }

   private:
    std::string_view left_;
    char separator_;
};

}  // namespace realtime::ingest
