# What of Python's C API and of the C++ side the ways in are made of.
#
# Law: declarations alone. Python's objects are plain pointers here, as all of them are borrowed: counting references
# would cost as much as the rest.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libcpp cimport bool as ingest_bool
from libcpp.string cimport string as ingest_string
from libcpp.string_view cimport string_view as ingest_view
from libcpp.vector cimport vector as ingest_vector

cdef extern from "Python.h":
    PyObject* INGEST_NONE "Py_None"
    PyObject* INGEST_TRUE "Py_True"
    PyObject* INGEST_FALSE "Py_False"
    bint ingest_is_str "PyUnicode_CheckExact"(PyObject* value) noexcept
    bint ingest_is_ascii "PyUnicode_IS_COMPACT_ASCII"(PyObject* value) noexcept
    const char* ingest_ascii "(const char*)PyUnicode_1BYTE_DATA"(PyObject* value) noexcept
    Py_ssize_t ingest_ascii_length "PyUnicode_GET_LENGTH"(PyObject* value) noexcept
    const char* ingest_utf8 "PyUnicode_AsUTF8AndSize"(PyObject* value, Py_ssize_t* size) noexcept
    const char* ingest_utf8_or_raise "PyUnicode_AsUTF8AndSize"(PyObject* value, Py_ssize_t* size) except NULL
    bint ingest_is_int "PyLong_CheckExact"(PyObject* value) noexcept
    long long ingest_int "PyLong_AsLongLongAndOverflow"(PyObject* value, int* overflow) noexcept
    bint ingest_is_float "PyFloat_CheckExact"(PyObject* value) noexcept
    double ingest_float "PyFloat_AS_DOUBLE"(PyObject* value) noexcept
    bint ingest_is_dict "PyDict_CheckExact"(PyObject* value) noexcept
    int ingest_next_item "PyDict_Next"(PyObject* items, Py_ssize_t* at, PyObject** name, PyObject** value) noexcept
    bint ingest_is_list "PyList_CheckExact"(PyObject* value) noexcept
    PyObject* ingest_list_item "PyList_GET_ITEM"(PyObject* value, Py_ssize_t place) noexcept
    Py_ssize_t ingest_list_length "PyList_GET_SIZE"(PyObject* value) noexcept
    bint ingest_is_tuple "PyTuple_CheckExact"(PyObject* value) noexcept
    PyObject* ingest_tuple_item "PyTuple_GET_ITEM"(PyObject* value, Py_ssize_t place) noexcept
    Py_ssize_t ingest_tuple_length "PyTuple_GET_SIZE"(PyObject* value) noexcept
    void ingest_forget_error "PyErr_Clear"() noexcept

cdef extern from "types.h" namespace "realtime" nogil:
    cdef cppclass IngestBox "realtime::Box":
        double min_x
        double min_y
        double max_x
        double max_y

    ctypedef enum IngestOp "realtime::Op":
        INGEST_UPSERT "realtime::Op::UPSERT"
        INGEST_PATCH "realtime::Op::PATCH"
        INGEST_MOVE "realtime::Op::MOVE"
        INGEST_DELETE "realtime::Op::DELETE"

    cdef cppclass IngestGeometry "realtime::Geometry":
        ingest_view text
        IngestBox boxes[2]
        uint8_t box_count
        ingest_bool is_point

    cdef cppclass IngestProperty "realtime::NamedProperty":
        ingest_view name
        ingest_view json

    cdef cppclass IngestUpdate "realtime::Update":
        IngestUpdate() noexcept
        IngestOp op
        ingest_view id
        uint64_t version
        IngestGeometry geometry
        ingest_bool has_properties
        const IngestProperty* properties
        size_t property_count
        ingest_bool has_kind
        ingest_view kind
        ingest_bool has_min_zoom
        double min_zoom
        ingest_bool has_rank
        double rank
        ingest_bool has_access
        const ingest_view* access
        size_t access_count
        ingest_bool has_ttl
        double ttl

cdef extern from "ingest.h" namespace "realtime::ingest" nogil:
    const uint64_t INGEST_VERSION_MAX "realtime::ingest::VERSION_MAX"
    const size_t INGEST_PRINCIPALS_MAX "realtime::ingest::ACCESS_PRINCIPALS_MAX"
    const double INGEST_MIN_ZOOM_MAX "realtime::ingest::MIN_ZOOM_MAX"
    const double INGEST_MIN_ZOOM_DEFAULT "realtime::ingest::MIN_ZOOM_DEFAULT"
    const double INGEST_RANK_DEFAULT "realtime::ingest::RANK_DEFAULT"
    const double INGEST_TTL_MAX_S "realtime::ingest::TTL_MAX_S"
    const int INGEST_NESTING_MAX "realtime::ingest::NESTING_MAX"
    const size_t INGEST_NUMBER_BYTES_MAX "realtime::ingest::NUMBER_BYTES_MAX"

    ctypedef enum IngestMember "realtime::ingest::Member":
        MEMBER_OP "realtime::ingest::Member::OP"
        MEMBER_TYPE "realtime::ingest::Member::TYPE"
        MEMBER_ID "realtime::ingest::Member::ID"
        MEMBER_VERSION "realtime::ingest::Member::VERSION"
        MEMBER_GEOMETRY "realtime::ingest::Member::GEOMETRY"
        MEMBER_PROPERTIES "realtime::ingest::Member::PROPERTIES"
        MEMBER_KIND "realtime::ingest::Member::KIND"
        MEMBER_MIN_ZOOM "realtime::ingest::Member::MIN_ZOOM"
        MEMBER_RANK "realtime::ingest::Member::RANK"
        MEMBER_ACCESS "realtime::ingest::Member::ACCESS"
        MEMBER_TTL "realtime::ingest::Member::TTL"
        MEMBER_LON "realtime::ingest::Member::LON"
        MEMBER_LAT "realtime::ingest::Member::LAT"
        MEMBER_OTHER "realtime::ingest::Member::OTHER"

    IngestMember ingest_member_named "realtime::ingest::member_named"(ingest_view name) noexcept
    ingest_bool ingest_parse_op "realtime::ingest::parse_op"(ingest_view name, IngestOp* op) noexcept
    size_t ingest_write_double "realtime::ingest::write_double"(double value, char* out) noexcept
    size_t ingest_write_int "realtime::ingest::write_integer"(int64_t value, char* out) noexcept
    ingest_bool ingest_is_id "realtime::ingest::is_id"(ingest_view text) noexcept
    ingest_bool ingest_is_principal "realtime::ingest::is_principal"(ingest_view text) noexcept
    ingest_bool ingest_is_plain "realtime::ingest::is_plain"(ingest_view text) noexcept

    cdef cppclass IngestLimits "realtime::ingest::IngestLimits":
        IngestLimits() except +
        size_t entity_bytes
        size_t entity_properties
        ingest_vector[ingest_string] default_access

    cdef cppclass Scratch "realtime::ingest::Scratch":
        void clear() noexcept
        char* room(size_t count) noexcept
        void take(size_t count) noexcept
        ingest_bool append(ingest_view text) noexcept
        ingest_bool quote(ingest_view text) noexcept
        ingest_view since(const char* start) noexcept
        ingest_bool add(ingest_view name, ingest_view json) noexcept
        void put(ingest_view name, ingest_view json) except +
        void put_principal(ingest_view principal) except +
        void name_properties(IngestUpdate& update) noexcept
        void name_access(IngestUpdate& update) noexcept
        void name_default_access(IngestUpdate& update) noexcept
        ingest_bool name_point(IngestUpdate& update, double lon, double lat, ingest_view text, ingest_bool is_point) noexcept
        void complete(IngestUpdate& update) noexcept

    cdef cppclass UpdateReader "realtime::ingest::UpdateReader":
        UpdateReader(const IngestLimits& limits) except +
        ingest_bool parse(ingest_view json, IngestUpdate& update) noexcept
        Scratch& scratch() noexcept

cdef extern from "lines.h" namespace "realtime::ingest" nogil:
    cdef cppclass IngestLine "realtime::ingest::LineSplitter::Line":
        ingest_view text
        ingest_bool is_too_long

    cdef cppclass LineSplitter "realtime::ingest::LineSplitter":
        LineSplitter(char separator, size_t line_bytes_max) except +
        char separator() noexcept
        ingest_bool next(ingest_view& data, IngestLine& line) except +
        ingest_bool end(IngestLine& line) except +
