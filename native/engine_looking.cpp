// The engine: what can be asked of it, and whether all of it still holds together.

#include "engine.h"

#include <algorithm>
#include <cmath>

#include "engine_parts.h"
#include "hash.h"

namespace realtime {

// Looking without a session's part

bool Engine::check(uint64_t number, Check& check) {
    Session& session = session_of(number);
    if (session.reset_is_owed && session.may_hold) {
        return false;
    }
    fold(session);
    check = {session.seq, 0, 0, session.outbox.size()};
    collect(session, matched_);
    keep_matching(session, matched_);
    keep_sampled(session, matched_);
    const uint64_t pending = ++mark_;
    for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
        for (const Entry* entry = session.outbox.begin(list); entry != session.outbox.end(list); ++entry) {
            if (entry->slot != NO_SLOT) {
                world_[entry->slot].mark = pending;
            }
        }
    }
    for (const uint32_t slot : matched_) {
        if (world_[slot].mark != pending) {
            ++check.count;
            check.digest ^= digest_from(world_[slot].id_hash, world_[slot].wire);
        }
    }
    for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
        for (const Entry* entry = session.outbox.begin(list); entry != session.outbox.end(list); ++entry) {
            if (entry->slot != NO_SLOT && entry->held) {
                ++check.count;
                check.digest ^= digest_from(world_[entry->slot].id_hash, static_cast<uint64_t>(std::abs(entry->held)));
            }
        }
    }
    return true;
}

void Engine::search(const Box* boxes, size_t count, double zoom, std::string_view filter_key, std::vector<std::string>& features) {
    for (size_t n = 0; n < count; ++n) {
        gate(is_box(boxes[n]), "box: finite and ordered");
    }
    gate(count <= 2 && std::isfinite(zoom), "search: at most two boxes and a finite zoom");
    Session nobody;
    SharedFilter* filter = intern(filter_key);
    nobody.filter = filter;
    nobody.filter_number = filter ? filter->number : NO_FILTER;
    nobody.zoom = zoom;
    nobody.box_count = static_cast<uint8_t>(count);
    nobody.box = count > 0 ? boxes[0] : Box{};
    nobody.second_box = count > 1 ? boxes[1] : Box{};
    collect(nobody, matched_);
    matched_.erase(std::remove_if(matched_.begin(), matched_.end(), [&](uint32_t slot) { return !shows(nobody, world_[slot]); }),
                   matched_.end());
    release(filter);
    std::sort(matched_.begin(), matched_.end(), [&](uint32_t a, uint32_t b) { return world_[a].id() < world_[b].id(); });
    features.resize(matched_.size());
    for (size_t n = 0; n < matched_.size(); ++n) {
        features[n].clear();
        Pieces::put_feature(features[n], world_[matched_[n]]);
    }
}

bool Engine::get(std::string_view id, std::string& feature) const {
    const uint32_t slot = world_.find(id);
    if (slot == NO_SLOT) {
        return false;
    }
    feature.clear();
    Pieces::put_feature(feature, world_[slot]);
    return true;
}

Explanation Engine::explain(uint64_t number, std::string_view id) {
    Session& session = session_of(number);
    Explanation answer;
    const uint32_t slot = world_.find_any(id);
    Outbox::List list = Outbox::SHOWING;
    const Entry* entry = slot == NO_SLOT ? nullptr : find_entry(session, slot, &list);
    answer.pending = entry != nullptr;
    answer.held = entry ? static_cast<uint64_t>(std::abs(entry->held)) : 0;
    if (slot == NO_SLOT || !world_[slot].is_alive) {
        const Tombstone* tombstone = world_.tombstone(id);
        answer.has_tombstone = tombstone != nullptr;
        answer.is_expired = tombstone && tombstone->is_expired;
        return answer;
    }
    const Entity& entity = world_[slot];
    answer.exists = true;
    answer.version = entity.wire;
    answer.box = reaches(session, entity);
    answer.ids = names(session, id);
    answer.min_zoom = entity.min_zoom <= session.zoom;
    answer.rights = allows(session, entity);
    reader_.read(entity.content);
    answer.filter = !session.filter || session.filter->filter.passes({entity.id(), entity.content->kind(), &reader_, PropertyReader::find});
    answer.sample = samples(session, entity.rank, entity.key_hash);
    answer.sees = answer.sample && matches(session, entity);
    if (!entry) {
        answer.held = answer.sees ? entity.wire : 0;
    }
    return answer;
}

SessionStatistics Engine::statistics(uint64_t number) {
    Session& session = session_of(number);
    fold(session);
    return {session.seq, static_cast<uint64_t>(session.total), static_cast<uint64_t>(session.shown), session.outbox.size(),
            sizeof(Session) + session.outbox.bytes()};
}

Statistics Engine::statistics() const {
    Statistics all{world_.alive(), world_.tombstone_count(), sessions_open_, 0, pairs_, world_.ghosts(), world_.rights().principal_count(),
                   world_.rights().set_count(), filters_.size(), feeds_.size()};
    for (uint32_t slot = 0; slot < sessions_.end(); ++slot) {
        if (sessions_[slot].is_open) {
            const Outbox& outbox = sessions_[slot].outbox;
            all.outbox_entities += outbox.size() + outbox.log.size();
        }
    }
    return all;
}

std::string Engine::verify() {
    if (const char* wrong = world_.check()) {
        return wrong;
    }
    if (const char* wrong = places_.check()) {
        return std::string("places: ") + wrong;
    }
    if (const char* wrong = viewports_.check()) {
        return std::string("viewports: ") + wrong;
    }
    size_t boxes = 0;
    std::vector<uint64_t> pins(world_.slots(), 0);
    for (uint32_t slot = 0; slot < world_.slots(); ++slot) {
        const Entity& entity = world_[slot];
        boxes += entity.box_count;
        for (uint32_t n = 0; n < 2; ++n) {
            if (places_.contains(slot * 2 + n) != (n < entity.box_count)) {
                return "the index has other entities than the world";
            }
        }
    }
    if (boxes != places_.size()) {
        return "the index has other boxes than the world";
    }
    size_t open = 0, viewports = 0, follows = 0;
    std::unordered_map<const SharedFilter*, uint64_t> uses;
    for (uint32_t slot = 0; slot < sessions_.end(); ++slot) {
        Session& session = sessions_[slot];
        if (!session.is_open) {
            continue;
        }
        ++open;
        viewports += session.box_count;
        uses[session.filter] += 1;
        for (uint32_t n = 0; n < 2; ++n) {
            if (viewports_.contains(slot * 2 + n) != (n < session.box_count)) {
                return "the index has other viewports than the sessions";
            }
        }
        for (const std::string& id : session.ids) {
            ++follows;
            const auto found = followers_.find(id);
            if (found == followers_.end() || std::find(found->second.begin(), found->second.end(), slot) == found->second.end()) {
                return "the followers are not those of the views";
            }
        }
        if (session.outbox.log.size() > NOTES_SPARE + static_cast<uint64_t>(session.shown)) {
            return "the log is longer than its bound";
        }
        fold(session);
        if (const char* wrong = check_session(session)) {
            return wrong;
        }
        for (const Outbox::List list : {Outbox::LEAVING, Outbox::SHOWING}) {
            for (const Entry* entry = session.outbox.begin(list); entry != session.outbox.end(list); ++entry) {
                pins[entry->slot == NO_SLOT ? 0 : entry->slot] += entry->slot != NO_SLOT;
            }
        }
    }
    for (const auto& [id, all] : followers_) {
        follows -= all.size();
    }
    if (open != sessions_open_ || viewports != viewports_.size() || follows) {
        return "the sessions are miscounted";
    }
    for (const auto& [key, filter] : filters_) {
        if (uses[filter.get()] != filter->uses) {
            return "the uses of a filter are miscounted";
        }
    }
    for (uint32_t slot = 0; slot < world_.slots(); ++slot) {
        const Entity& entity = world_[slot];
        if (!entity.is_alive) {
            continue;
        }
        const Content::Verdicts verdicts = entity.content->verdicts(term_);
        for (const auto& [key, filter] : filters_) {
            if (filter->number < NO_FILTER && verdicts.known >> filter->number & 1) {
                view_reader_.read(entity.content);
                const bool passes = filter->filter.passes({entity.id(), entity.content->kind(), &view_reader_, PropertyReader::find});
                if (passes != (verdicts.passed >> filter->number & 1)) {
                    return "what a filter said is remembered wrong";
                }
            }
        }
    }
    if (const char* wrong = feeds_.check(world_)) {
        return wrong;
    }
    for (uint32_t slot = 0; slot < world_.slots(); ++slot) {
        if (world_[slot].pins != pins[slot] + (world_[slot].feeds ? 1 : 0)) {
            return "the pins of an entity are miscounted";
        }
    }
    return "";
}

const char* Engine::check_session(Session& session) {
    if (const char* wrong = session.outbox.check()) {
        return wrong;
    }
    int64_t total = 0, shown = 0;
    for (uint32_t slot = 0; slot < world_.slots(); ++slot) {
        const Entity& entity = world_[slot];
        Outbox::List list = Outbox::SHOWING;
        const Entry* entry = find_entry(session, slot, &list);
        const bool is_matched = entity.is_alive && matches(session, entity);
        const bool is_seen = is_matched && samples(session, entity.rank, entity.key_hash);
        total += is_matched;
        shown += is_seen;
        if (!entry) {
            continue;
        }
        if (is_seen != (list == Outbox::SHOWING)) {
            return is_seen ? "an entity leaves that is seen" : "an entity shows that is not seen";
        }
        if (list == Outbox::LEAVING && !entry->held) {
            return "an entity leaves that is not held";
        }
        if (list == Outbox::SHOWING && entry->held == static_cast<int64_t>(entity.wire)) {
            return "an entry has nothing to say";
        }
        if (session.reset_is_owed && entry->held) {
            return "an empty mirror holds something";
        }
    }
    if (total != session.total || shown != session.shown) {
        return "the counts are not those of the view";
    }
    if (session.outbox.size() || session.answer_is_owed) {
        const auto is_it = [&](const Due& due) { return due.number == session.number && due.due == session.queued_due; };
        if (session.queued_due != TAKEN && std::none_of(queue_.begin(), queue_.end(), is_it)) {
            return "a dirty session is not queued";
        }
    }
    return nullptr;
}

}  // namespace realtime
