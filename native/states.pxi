# States and their batches (states.h): what the engine's feeds are made of, and batches cut and put together without it.

from libcpp.pair cimport pair

cdef extern from "feeds.h" namespace "realtime" nogil:
    ctypedef enum FeedKind "realtime::FeedKind":
        pass

cdef extern from "states.h" namespace "realtime" nogil:
    cdef cppclass Batch "realtime::Batch":
        string_view bytes() noexcept

    cbool split_batch "realtime::split_states"(string_view batch, vector[pair[string_view, string_view]]& states) except +


cdef inline bytes bytes_of(string_view text):
    return PyBytes_FromStringAndSize(text.data(), <Py_ssize_t>text.size())


def split_states(bytes batch not None):
    """See `realtime.engine.states.split`."""
    cdef vector[pair[string_view, string_view]] states
    cdef size_t n
    if not split_batch(ingest_view_of(batch), states):
        raise ValueError("batch: broken, or not made of states")
    return [(ingest_str(states[n].first), bytes_of(states[n].second)) for n in range(states.size())]


def join_states(states):
    """See `realtime.engine.states.join`."""
    cdef list parts = list(states)
    return b"".join([b"\xdd" + len(parts).to_bytes(4, "big"), *parts])
