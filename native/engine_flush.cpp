// The engine: when sessions are due, and the deltas that their outboxes become.

#include "engine.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine_parts.h"
#include "faults.h"
#include "hash.h"
#include "msgpack.h"

namespace realtime {

const std::array<double, Engine::LAG_BOUNDS> Engine::LAG_BOUNDS_S = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                                      0.1,    0.25,  0.5,    1.0,   2.5,  5.0,   10.0};
const std::array<std::string_view, Engine::REASONS> Engine::REASON_NAMES = {"deleted", "expired", "denied", "view", "moved", "filtered"};

// Flushing

void Engine::space(Session& session) const {
    double period = settings_.flush_interval_s;
    if (session.max_hz > 0.0 && (!session.is_urgent || BROKEN(DELAYS_WHAT_WAS_REVOKED))) {
        period = std::max(period, 1.0 / session.max_hz);
    }
    session.flush_due = session.last_flush + period;
}

void Engine::wake(Session& session) {
    space(session);
    queue(session, session.flush_due);
}

void Engine::owe_statistics(Session& session) {
    if ((session.total_sent != session.total || session.shown_sent != session.shown) && session.seq) {
        queue(session, std::max(session.flush_due, session.statistics_at + STATISTICS_INTERVAL_S));
    }
}

void Engine::queue(Session& session, double due) {
    if (due < session.queued_due) {
        session.queued_due = due;
        queue_.push_back({due, session.number});
        std::push_heap(queue_.begin(), queue_.end(), std::greater<Due>());
    }
}

void Engine::take_dirty(double now, std::vector<uint64_t>& taken) {
    while (!queue_.empty() && queue_.front().due <= now) {
        const Due first = queue_.front();
        std::pop_heap(queue_.begin(), queue_.end(), std::greater<Due>());
        queue_.pop_back();
        Session* session = find_session(first.number);
        if (session && session->queued_due == first.due) {
            session->queued_due = TAKEN;
            taken.push_back(first.number);
        }
    }
}

double Engine::next_due() {
    while (!queue_.empty()) {
        const Due first = queue_.front();
        const Session* session = find_session(first.number);
        if (session && session->queued_due == first.due) {
            return first.due;
        }
        std::pop_heap(queue_.begin(), queue_.end(), std::greater<Due>());
        queue_.pop_back();
    }
    return NEVER;
}

void Engine::observe_lag(double lag_s) {
    const auto bound = std::lower_bound(LAG_BOUNDS_S.begin(), LAG_BOUNDS_S.end(), lag_s);
    ++lag_counts_[static_cast<size_t>(bound - LAG_BOUNDS_S.begin())];
    lag_sum_ += lag_s;
}

bool Engine::drain(uint64_t number, size_t budget, double now, std::string& out) {
    Session& session = session_of(number);
    session.queued_due = NEVER;
    Outbox& outbox = session.outbox;
    // Most outboxes are drained whole: their entries are written and read while they are still in the cache.
    outbox.borrow(spare_);
    fold(session);
    const int64_t left = static_cast<int64_t>(std::min<size_t>(budget, size_t{1} << 40)) - FRAME_HEAD_BYTES - session.view_id_bytes;
    take(session, left);
    const bool more = session.outbox.fills() > 0;
    const bool is_fill_over = session.answer_is_owed && !more;
    const bool are_counts_new = session.total_sent != session.total || session.shown_sent != session.shown;
    const bool has_statistics =
        !more && (is_fill_over || (are_counts_new && now >= session.statistics_at + STATISTICS_INTERVAL_S));
    if (has_statistics) {
        session.total_sent = session.total;
        session.shown_sent = session.shown;
        session.statistics_at = now;
    }
    const bool is_told = session.reset_is_owed || more || has_statistics || session.answer_is_owed || size_ > 0;
    if (is_told) {
        ++session.seq;
        if (size_ > 0) {
            observe_lag(now - oldest_);
        }
        put_delta(session, has_statistics, more, size_ > 0, now - oldest_, out);
        session.last_flush = now;
        session.may_hold = true;
        session.reset_is_owed = false;
        session.answer_is_owed = more;
    }
    session.is_urgent = session.is_urgent && !session.outbox.is_empty(Outbox::LEAVING);
    outbox.borrow(spare_);
    outbox.trim();
    space(session);
    if (session.outbox.size() || session.answer_is_owed) {
        queue(session, session.flush_due);
    } else if (session.seq) {
        owe_statistics(session);
    }
    return is_told;
}

// Takes entries out of the outbox, leaves first, until the budget is used; at least one.
void Engine::take(Session& session, int64_t budget) {
    for (Array& array : arrays_) {
        array.clear();
    }
    for (Array& array : leaves_) {
        array.clear();
    }
    size_ = 0;
    oldest_ = NEVER;
    Outbox& outbox = session.outbox;
    const Encoding encoding = session.encoding;
    const auto fits = [&](size_t bytes) { return size_ == 0 || static_cast<int64_t>(size_ + bytes) <= budget; };
    // A piece counts with a comma in msgpack, too; in JSON it has one.
    const size_t comma = encoding == Encoding::JSON ? 0 : 1;
    const auto add = [&](Array& array, size_t bytes, double since) {
        ++array.count;
        size_ += bytes + comma;
        oldest_ = std::min(oldest_, since);
    };
    if (!outbox.is_empty(Outbox::LEAVING) && !(BROKEN(TELLS_LEAVES_LAST) && !outbox.is_empty(Outbox::SHOWING))) {
        const Entry* const begin = outbox.begin(Outbox::LEAVING);
        const Entry* entry = begin;
        for (; entry != outbox.end(Outbox::LEAVING); ++entry) {
            if (entry->slot == NO_SLOT) {
                continue;
            }
            piece_.clear();
            const std::string_view id = world_[entry->slot].id();
            if (encoding == Encoding::JSON) {
                put_json_string(piece_, id);
                piece_ += ',';
            } else {
                put_string(piece_, id);
            }
            if (!fits(piece_.size() + comma - 1)) {
                break;
            }
            Array& array = leaves_[reason(session, *entry)];
            array.bytes.add(piece_);
            add(array, piece_.size(), entry->since);
        }
        for (const Entry* told = begin; told != entry; ++told) {
            if (told->slot != NO_SLOT) {
                world_.unpin(told->slot);
            }
        }
        outbox.take(Outbox::LEAVING, entry);
        if (!outbox.is_empty(Outbox::LEAVING)) {
            return;
        }
    }
    if (outbox.is_empty(Outbox::SHOWING)) {
        return;
    }
    const Entry* entry = outbox.begin(Outbox::SHOWING);
    const Entry* const end = outbox.end(Outbox::SHOWING);
    for (; entry != end; ++entry) {
        if (entry + 2 * AHEAD < end && entry[2 * AHEAD].slot != NO_SLOT) {
            __builtin_prefetch(&world_[entry[2 * AHEAD].slot]);
        }
        if (entry + AHEAD < end && entry[AHEAD].slot != NO_SLOT) {
            pieces_.prefetch(world_[entry[AHEAD].slot], encoding);
        }
        if (entry->slot == NO_SLOT) {
            continue;
        }
        Entity& entity = world_[entry->slot];
        if (!allows(session, entity)) {
            throw std::logic_error("an entity that the session may not see is about to be sent");
        }
        // A version that is only claimed is not known here.
        const How how = entry->held > 0 ? Pieces::how(entity, static_cast<uint64_t>(entry->held)) : How::ENTER;
        const std::string_view piece = pieces_.get(entity, entry->slot, how, static_cast<uint64_t>(entry->held), encoding);
        if (!fits(piece.size() + comma - 1)) {
            break;
        }
        Array& array = arrays_[static_cast<size_t>(how)];
        piece.size() <= Pieces::LARGE ? array.bytes.add_padded(piece) : array.bytes.add(piece);
        add(array, piece.size(), entry->since);
        --entity.pins;  // it lives, so nothing else is to be done
    }
    outbox.take(Outbox::SHOWING, entry);
}

// Why the session does not see an entity that its client holds.
Engine::Reason Engine::reason(const Session& session, const Entry& entry) {
    const Entity& entity = world_[entry.slot];
    if (!entity.is_alive) {
        const Tombstone* tombstone = world_.tombstone(entity.id());
        const bool may_know = tombstone && (entry.held > 0 || world_.rights().allows(tombstone->access, session.rights));
        return may_know && tombstone->is_expired ? EXPIRED : DELETED;
    }
    if (!allows(session, entity)) {
        return entry.held > 0 || BROKEN(LETS_HAVE_ASK) ? DENIED : DELETED;
    }
    if (static_cast<uint64_t>(std::abs(entry.held)) == entity.wire) {
        return VIEW;
    }
    return reaches(session, entity) || names(session, entity.id()) ? FILTERED : MOVED;
}

void Engine::put_delta(const Session& session, bool has_statistics, bool more, bool has_lag, double lag_s, std::string& out) const {
    static constexpr std::string_view ARRAY_NAMES[] = {"enter", "move", "patch"};
    const bool is_json = session.encoding == Encoding::JSON;
    uint32_t members = 2;  // type, seq
    uint32_t reasons = 0;
    for (const Array& array : leaves_) {
        reasons += array.count > 0;
    }
    for (const Array& array : arrays_) {
        members += array.count > 0;
    }
    members += !session.view_id.empty();
    members += session.reset_is_owed;
    members += more;
    members += has_statistics ? 2 : 0;
    members += has_lag;
    members += reasons > 0;
    const auto name = [&](std::string_view text) {
        if (is_json) {
            out += ",\"";
            out += text;
            out += "\":";
        } else {
            put_string(out, text);
        }
    };
    const auto put_array = [&](const Array& array) {
        if (is_json) {
            out += '[';
            out.append(array.bytes.view().substr(0, array.bytes.size() - 1));
            out += ']';
        } else {
            put_array_head(out, array.count);
            out += array.bytes.view();
        }
    };
    const auto put_number = [&](uint64_t value) { is_json ? put_json_uint(out, value) : put_uint(out, value); };
    const auto put_real = [&](double value) { is_json ? put_json_double(out, value) : put_double(out, value); };
    const auto put_true = [&] { is_json ? out.append("true") : out.append("\xc3"); };
    if (is_json) {
        out += R"({"type":"delta")";
    } else {
        put_map_head(out, members);
        put_string(out, "type");
        put_string(out, "delta");
    }
    name("seq");
    put_number(session.seq);
    if (!session.view_id.empty()) {
        name("view");
        out += session.view_id;
    }
    if (session.reset_is_owed) {
        name("reset");
        put_true();
    }
    if (more) {
        name("more");
        put_true();
    }
    if (has_statistics) {
        name("total");
        put_number(static_cast<uint64_t>(session.total));
        name("sampled");
        session.total == 0
            ? put_number(1)
            : put_real(static_cast<double>(session.shown) / static_cast<double>(session.total));
    }
    if (has_lag) {
        name("lag_ms");
        put_real(std::nearbyint(lag_s * 10000.0) / 10.0);
    }
    for (size_t n = 0; n < arrays_.size(); ++n) {
        if (arrays_[n].count) {
            name(ARRAY_NAMES[n]);
            put_array(arrays_[n]);
        }
    }
    if (reasons) {
        name("leave");
        if (is_json) {
            out += '{';
        } else {
            put_map_head(out, reasons);
        }
        bool is_first = true;
        for (size_t n = 0; n < leaves_.size(); ++n) {
            if (!leaves_[n].count) {
                continue;
            }
            if (is_json) {
                out += is_first ? "\"" : ",\"";
                out += REASON_NAMES[n];
                out += "\":";
            } else {
                put_string(out, REASON_NAMES[n]);
            }
            is_first = false;
            put_array(leaves_[n]);
        }
        if (is_json) {
            out += '}';
        }
    }
    if (is_json) {
        out += '}';
    }
}

}  // namespace realtime
