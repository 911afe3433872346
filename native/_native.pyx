# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False
"""The native engine, as Python sees it: `NativeEngine` answers the calls of `realtime.engine.Engine`.

Law: a thin skin. What is decided is decided in C++ (native/*.h); here Python's values become C++'s and back, and nothing
of them is kept.
"""

import sys

import msgspec

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.string_view cimport string_view
from libcpp.vector cimport vector

from realtime.counters import Histogram
from realtime.engine import Check as PyCheck
from realtime.engine import Merged as PyMerged
from realtime.engine import Verdict as PyVerdict
from realtime.engine.digest import format_digest

include "ingest.pxi"
include "parts.pxi"
include "states.pxi"

cdef extern from "types.h" namespace "realtime" nogil:
    ctypedef enum Verdict "realtime::Verdict":
        pass

    ctypedef enum Encoding "realtime::Encoding":
        JSON "realtime::Encoding::JSON"

cdef extern from "world.h" namespace "realtime" nogil:
    cdef cppclass Settings:
        uint32_t entities_per_view
        uint32_t entity_bytes
        uint32_t entity_properties
        double flush_interval_s
        double tombstone_s
        uint64_t tombstones_max

cdef extern from "engine.h" namespace "realtime" nogil:
    cdef cppclass View:
        IngestBox boxes[2]
        uint8_t box_count
        double zoom
        string_view filter_key
        const string_view* ids
        size_t id_count
        double max_hz
        string_view id
        size_t id_budget_bytes

    cdef cppclass Claim:
        string_view id
        uint64_t version

    cdef cppclass Check:
        uint64_t seq
        uint64_t count
        uint32_t digest
        uint64_t pending

    cdef cppclass Explanation:
        cbool exists
        cbool pending
        cbool has_tombstone
        cbool is_expired
        uint64_t version
        uint64_t held
        cbool box
        cbool ids
        cbool min_zoom
        cbool rights
        cbool filter
        cbool sample
        cbool sees

    cdef cppclass SessionStatistics:
        uint64_t seq
        uint64_t total
        uint64_t shown
        uint64_t outbox
        uint64_t bytes

    cdef cppclass Statistics:
        uint64_t entities
        uint64_t tombstones
        uint64_t sessions
        uint64_t outbox_entities
        uint64_t pairs
        uint64_t ghosts
        uint64_t principals
        uint64_t access_sets
        uint64_t filters
        uint64_t feeds

    cdef cppclass Merged:
        uint64_t accepted
        uint64_t unchanged
        uint64_t stale
        uint64_t bad

    cdef cppclass Engine:
        Engine(const Settings& settings, uint64_t node_number) except +
        Verdict apply(const IngestUpdate& update, double now) except +
        void hint(string_view id) noexcept
        vector[string] expire(double now, size_t deaths_max) except +
        double next_expiry()
        uint64_t open(const string_view* principals, size_t count, Encoding encoding) except +
        Encoding encoding(uint64_t session) except +
        void look(uint64_t session, const View& view, const Claim* have, size_t have_count, cbool has_have, double now) except +
        void allow(uint64_t session, const string_view* principals, size_t count, double now) except +
        void refresh(uint64_t session, double now) except +
        void close(uint64_t session) except +
        void take_dirty(double now, vector[uint64_t]& taken) except +
        double next_due()
        cbool drain(uint64_t session, size_t budget, double now, string& out) except +
        cbool check(uint64_t session, Check& check) except +
        void search(const IngestBox* boxes, size_t count, double zoom, string_view filter_key, vector[string]& features) except +
        cbool get(string_view id, string& feature) except +
        Explanation explain(uint64_t session, string_view id) except +
        SessionStatistics session_statistics "statistics"(uint64_t session) except +
        Statistics statistics() except +
        void renumber(uint64_t node_number) except +
        uint32_t open_feed(FeedKind kind) except +
        void close_feed(uint32_t feed) except +
        void offer_all(uint32_t feed) except +
        size_t feed_size(uint32_t feed) except +
        vector[Batch]& take_feed(uint32_t feed, size_t shards, size_t bytes_max) except +
        Merged merge(string_view batch, double now, uint32_t feed) except +
        void begin_reload()
        cbool end_reload(double now, size_t entities_max) except +
        uint64_t lag_count(size_t bound)
        double lag_sum()
        string verify() except +

cdef double NEVER = float("inf")
cdef tuple VERDICTS = tuple(PyVerdict)
cdef object encode_json = msgspec.json.Encoder().encode
cdef object encode_msgpack = msgspec.msgpack.Encoder().encode


cdef inline bytes to_bytes(const string& text):
    return PyBytes_FromStringAndSize(text.data(), <Py_ssize_t>text.size())


cdef class Texts:
    """Texts as C++ reads them; they live as long as this."""

    cdef list kept
    cdef vector[string_view] views

    def __cinit__(self, texts):
        self.kept = list(texts)
        for text in self.kept:
            self.views.push_back(ingest_view_of_str(text))


cdef int set_boxes(object boxes, IngestBox* out) except -1:
    """Copy the boxes of a view; return how many there are."""
    if len(boxes) > 2:
        raise ValueError("a view has at most two boxes")
    for n, box in enumerate(boxes):
        out[n].min_x, out[n].min_y, out[n].max_x, out[n].max_y = box
    return len(boxes)


cdef class NativeEngine:
    """See `realtime.engine.Engine` for the calls. Naming a session that is not open raises IndexError."""

    cdef Engine* engine
    cdef UpdateReader* reader
    cdef vector[uint64_t] taken
    cdef string text

    def __cinit__(self, settings, node_number=0):
        cdef Settings native
        cdef IngestLimits limits
        native.entities_per_view = settings.entities_per_view
        native.entity_bytes = settings.entity_bytes
        native.entity_properties = settings.entity_properties
        native.flush_interval_s = settings.flush_interval_s
        native.tombstone_s = settings.tombstone_s
        native.tombstones_max = settings.tombstones_max
        self.engine = new Engine(native, <uint64_t>node_number)
        limits.entity_bytes = settings.entity_bytes
        limits.entity_properties = settings.entity_properties
        self.reader = new UpdateReader(limits)

    def __dealloc__(self):
        del self.engine
        del self.reader

    # Changes of the world

    def apply(self, batch, double now):
        cdef IngestUpdate update
        verdicts = []
        for item in batch:
            take_update(item, self.reader.scratch(), &update)
            verdicts.append(VERDICTS[<int>self.engine.apply(update, now)])
        return verdicts

    def expire(self, double now, size_t deaths_max=sys.maxsize):
        cdef vector[string] ids = self.engine.expire(now, deaths_max)
        return [PyUnicode_DecodeUTF8(id.data(), <Py_ssize_t>id.size(), NULL) for id in ids]

    def next_expiry(self):
        cdef double next = self.engine.next_expiry()
        return None if next == NEVER else next

    # Other nodes and stores

    def renumber(self, int64_t node_number):
        self.engine.renumber(<uint64_t>node_number)

    def open_feed(self, kind):
        return self.engine.open_feed(<FeedKind><int>kind)

    def close_feed(self, uint32_t feed):
        self.engine.close_feed(feed)

    def offer_all(self, uint32_t feed):
        self.engine.offer_all(feed)

    def feed_size(self, uint32_t feed):
        return self.engine.feed_size(feed)

    def take_feed(self, uint32_t feed, size_t shards, size_t bytes_max):
        cdef vector[Batch]* batches = &self.engine.take_feed(feed, shards, bytes_max)
        cdef size_t shard
        return [bytes_of(batches.at(shard).bytes()) for shard in range(batches.size())]

    def merge(self, bytes batch not None, double now, uint32_t feed=0):
        cdef Merged merged = self.engine.merge(ingest_view_of(batch), now, feed)
        return PyMerged(merged.accepted, merged.unchanged, merged.stale, merged.bad)

    def begin_reload(self):
        self.engine.begin_reload()

    def end_reload(self, double now, size_t entities_max):
        return self.engine.end_reload(now, entities_max)

    # Changes of what a session may see

    def open(self, principals, user, encoding):
        texts = Texts(principals)
        return self.engine.open(texts.views.data(), texts.views.size(), <Encoding><int>encoding)

    def look(self, uint64_t session, view, have, double now):
        cdef View native
        cdef vector[Claim] claims
        cdef Claim claim
        (boxes, native.zoom, filter, ids, native.max_hz, id) = view
        native.box_count = <uint8_t>set_boxes(boxes, native.boxes)
        encode = encode_json if self.engine.encoding(session) == JSON else encode_msgpack
        cdef bytes key = b"" if filter is None else filter.key
        native.filter_key = ingest_view_of(key)
        texts = Texts(ids)
        native.ids = texts.views.data()
        native.id_count = texts.views.size()
        cdef bytes encoded = b"" if id is None else encode(id)
        native.id = ingest_view_of(encoded)
        native.id_budget_bytes = len(encode(str(id)))
        if have is not None:
            for name, version in have.items():
                claim.id = ingest_view_of_str(name)
                claim.version = version
                claims.push_back(claim)
        self.engine.look(session, native, claims.data(), claims.size(), have is not None, now)

    def allow(self, uint64_t session, principals, double now):
        texts = Texts(principals)
        self.engine.allow(session, texts.views.data(), texts.views.size(), now)

    def refresh(self, uint64_t session, double now):
        self.engine.refresh(session, now)

    def close(self, uint64_t session):
        self.engine.close(session)

    # Flushing

    def take_dirty(self, double now):
        self.taken.clear()
        self.engine.take_dirty(now, self.taken)
        return [number for number in self.taken]

    def next_due(self):
        cdef double next = self.engine.next_due()
        return None if next == NEVER else next

    def new_pump(self, size_t budget):
        """Return what drains into sockets, deltas of at most `budget` bytes each."""
        return Pump(self, budget)

    def drain(self, uint64_t session, budget, double now):
        self.text.clear()
        if not self.engine.drain(session, <size_t>max(budget, 0), now, self.text):
            return None
        return to_bytes(self.text)

    @property
    def flush_lag(self):
        cdef size_t bound
        lag = Histogram()
        lag.counts = [self.engine.lag_count(bound) for bound in range(len(lag.counts))]
        lag.sum = self.engine.lag_sum()
        return lag

    # Looking without a session's part

    def check(self, uint64_t session):
        cdef Check check
        if not self.engine.check(session, check):
            return None
        return PyCheck(check.seq, check.count, format_digest(check.digest), check.pending)

    def search(self, boxes, double zoom, filter):
        cdef IngestBox native[2]
        cdef vector[string] features
        cdef int count = set_boxes(boxes, native)
        cdef bytes key = b"" if filter is None else filter.key
        self.engine.search(native, <size_t>count, zoom, ingest_view_of(key), features)
        return [to_bytes(feature) for feature in features]

    def get(self, str id):
        self.text.clear()
        return to_bytes(self.text) if self.engine.get(ingest_view_of_str(id), self.text) else None

    def explain(self, uint64_t session, str id):
        cdef Explanation native = self.engine.explain(session, ingest_view_of_str(id))
        answer = {"entity": id, "exists": native.exists, "pending": native.pending}
        if not native.exists:
            answer["gone"] = None if not native.has_tombstone else "expired" if native.is_expired else "deleted"
            answer["held"] = native.held
            return answer
        answer["version"] = native.version
        answer["box"] = native.box
        answer["ids"] = native.ids
        answer["min_zoom"] = native.min_zoom
        answer["rights"] = native.rights
        answer["filter"] = native.filter
        answer["sample"] = native.sample
        answer["sees"] = native.sees
        answer["held"] = native.held
        return answer

    def statistics(self, session=None):
        cdef SessionStatistics one
        cdef Statistics all
        if session is not None:
            one = self.engine.session_statistics(<uint64_t>session)
            return {"seq": one.seq, "total": one.total, "shown": one.shown, "outbox": one.outbox}
        all = self.engine.statistics()
        return {
            "entities": all.entities,
            "tombstones": all.tombstones,
            "sessions": all.sessions,
            "outbox_entities": all.outbox_entities,
            "pairs": all.pairs,
            "feeds": all.feeds,
        }

    def verify(self):
        cdef string wrong = self.engine.verify()
        assert wrong.empty(), wrong.decode()


include "pump.pxi"

include "intake.pxi"
