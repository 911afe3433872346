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

}  // namespace realtime::ingest
