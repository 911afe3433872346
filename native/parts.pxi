# The small parts of the native engine, callable one by one, so that tests can hold each equal to its Python twin.
#
# Law: nothing here is used to run a server, and nothing but conversion happens here.

from libcpp cimport bool as parts_bool
from libcpp.string cimport string as parts_string
from libcpp.string_view cimport string_view as parts_view
from libcpp.vector cimport vector as parts_vector
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "hash.h" namespace "realtime" nogil:
    uint32_t parts_digest_of "realtime::digest_of"(parts_view id, uint64_t version)
    uint32_t parts_sample_hash "realtime::sample_hash"(parts_view id)

cdef extern from "filters.h" namespace "realtime" nogil:
    cppclass PartsValue "realtime::Value":
        double number

    PartsValue parts_value_of "realtime::value_of"(parts_view json)

    cppclass PartsSubject "realtime::Subject":
        parts_view id
        parts_view kind
        const void* properties
        parts_bool (*find)(const void* properties, parts_view name, PartsValue* value) noexcept nogil

    cppclass PartsFilter "realtime::Filter":
        PartsFilter(parts_view key) except +ValueError
        parts_bool passes(const PartsSubject& subject)

cdef extern from "msgpack.h" namespace "realtime" nogil:
    parts_bool parts_transcode "realtime::transcode"(parts_view json, parts_string& out)
    void parts_put_uint "realtime::put_uint"(parts_string& out, uint64_t value)
    void parts_put_double "realtime::put_double"(parts_string& out, double value)
    void parts_put_string "realtime::put_string"(parts_string& out, parts_view text)
    void parts_put_array_head "realtime::put_array_head"(parts_string& out, size_t count)
    void parts_put_map_head "realtime::put_map_head"(parts_string& out, size_t count)
    void parts_put_json_string "realtime::put_json_string"(parts_string& out, parts_view text)
    void parts_put_json_double "realtime::put_json_double"(parts_string& out, double value)
    void parts_put_json_uint "realtime::put_json_uint"(parts_string& out, uint64_t value)

cdef struct PartsProperty:
    parts_view name
    PartsValue value


cdef inline parts_view parts_view_of(bytes data):
    return parts_view(<const char*>data, len(data))


cdef parts_bool parts_find(const void* properties, parts_view name, PartsValue* value) noexcept nogil:
    cdef const parts_vector[PartsProperty]* all = <const parts_vector[PartsProperty]*>properties
    cdef size_t i
    for i in range(all.size()):
        if all.at(i).name == name:
            value[0] = all.at(i).value
            return True
    return False


def filter_passes(bytes key, str id, str kind, dict properties):
    """Whether the filter of this key passes an entity whose properties are canonical JSON; ValueError for a bad key."""
    cdef parts_vector[PartsProperty] all
    cdef PartsProperty one
    cdef PartsSubject subject
    cdef bytes id_utf8 = id.encode()
    cdef bytes kind_utf8 = b"" if kind is None else kind.encode()
    names = [name.encode() for name in properties]
    for name, json in zip(names, properties.values()):
        one.name = parts_view_of(name)
        one.value = parts_value_of(parts_view_of(json))
        all.push_back(one)
    subject.id = parts_view_of(id_utf8)
    subject.kind = parts_view_of(kind_utf8)
    subject.properties = &all
    subject.find = parts_find
    cdef PartsFilter* filter = new PartsFilter(parts_view_of(key))
    try:
        return filter.passes(subject)
    finally:
        del filter


def transcode(bytes json):
    """The msgpack of canonical JSON; ValueError where it is malformed."""
    cdef parts_string out
    if not parts_transcode(parts_view_of(json), out):
        raise ValueError("malformed JSON")
    return <bytes>out


def json_string(str text):
    """A str as JSON."""
    cdef parts_string out
    cdef bytes utf8 = text.encode()
    parts_put_json_string(out, parts_view_of(utf8))
    return <bytes>out


def json_double(double value):
    """A float as JSON."""
    cdef parts_string out
    parts_put_json_double(out, value)
    return <bytes>out


def json_uint(uint64_t value):
    """An int as JSON."""
    cdef parts_string out
    parts_put_json_uint(out, value)
    return <bytes>out


def number_of(bytes json):
    """The double that a filter reads where this is written."""
    return parts_value_of(parts_view_of(json)).number


def msgpack_pieces(uint64_t integer, double real, str text, size_t count):
    """An int, a float, a str, the head of an array and that of a map, each as msgpack."""
    cdef parts_string integer_out, real_out, text_out, array_out, map_out
    cdef bytes utf8 = text.encode()
    parts_put_uint(integer_out, integer)
    parts_put_double(real_out, real)
    parts_put_string(text_out, parts_view_of(utf8))
    parts_put_array_head(array_out, count)
    parts_put_map_head(map_out, count)
    return <bytes>integer_out, <bytes>real_out, <bytes>text_out, <bytes>array_out, <bytes>map_out


def hashes(str id, uint64_t version):
    """(digest_of(id, version), sample_hash(id))."""
    cdef bytes utf8 = id.encode()
    return parts_digest_of(parts_view_of(utf8), version), parts_sample_hash(parts_view_of(utf8))
