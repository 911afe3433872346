# How updates get in from Python: dicts, bytes and `realtime.engine.Update`s become the engine's `Update`.
#
# Law: `take_object` and `take_json` say true only where `UpdateParser.parse` makes exactly that update of the same thing;
# else they say false, raise nothing, and the item is for the parser. Only exact built-in types pass, so that nothing of
# anybody's runs between two looks at an item. What an update points to lives as long as the item and the scratch do.

import msgspec

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libcpp cimport bool as ingest_bool
from libcpp.string cimport string as ingest_string
from libcpp.string_view cimport string_view as ingest_view
from libcpp.vector cimport vector as ingest_vector

cdef extern from "Python.h":
    # Redeclared with plain pointers: everything here is borrowed, and counting references would cost as much as the rest.
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

    cdef cppclass IngestLine "realtime::ingest::LineSplitter::Line":
        ingest_view text
        ingest_bool is_too_long

    cdef cppclass LineSplitter "realtime::ingest::LineSplitter":
        LineSplitter(char separator, size_t line_bytes_max) except +
        ingest_bool next(ingest_view& data, IngestLine& line) except +
        ingest_bool end(IngestLine& line) except +


# Values


cdef inline bint ingest_text(PyObject* value, ingest_view* out) noexcept:
    """The UTF-8 of a str that has one."""
    cdef Py_ssize_t size = 0
    cdef const char* data
    if not ingest_is_str(value):
        return False
    if ingest_is_ascii(value):
        out[0] = ingest_view(ingest_ascii(value), <size_t>ingest_ascii_length(value))
        return True
    data = ingest_utf8(value, &size)
    if data == NULL:
        ingest_forget_error()
        return False
    out[0] = ingest_view(data, <size_t>size)
    return True


cdef inline bint ingest_number(PyObject* value, Scratch& scratch, double* number) noexcept:
    """Read an int or a float, and append its canonical JSON."""
    cdef char* out = scratch.room(INGEST_NUMBER_BYTES_MAX)
    cdef long long integer
    cdef int overflow = 0
    cdef size_t length
    if out == NULL:
        return False
    if ingest_is_float(value):
        number[0] = ingest_float(value)
        length = ingest_write_double(number[0], out)
    elif ingest_is_int(value):
        integer = ingest_int(value, &overflow)
        if overflow:
            return False
        number[0] = <double>integer
        length = ingest_write_int(integer, out)
    else:
        return False
    scratch.take(length)
    return length != 0


cdef inline PyObject* ingest_item(PyObject* sequence, Py_ssize_t place) noexcept:
    return ingest_list_item(sequence, place) if ingest_is_list(sequence) else ingest_tuple_item(sequence, place)


cdef inline Py_ssize_t ingest_length(PyObject* sequence) noexcept:
    """How many items a list or tuple has; -1: it is none."""
    if ingest_is_list(sequence):
        return ingest_list_length(sequence)
    return ingest_tuple_length(sequence) if ingest_is_tuple(sequence) else -1


cdef bint ingest_value(PyObject* value, Scratch& scratch, int depth) noexcept:
    """Append the canonical JSON of a value."""
    cdef ingest_view text
    cdef double number
    if ingest_text(value, &text):
        return scratch.quote(text)
    if ingest_is_float(value) or ingest_is_int(value):
        return ingest_number(value, scratch, &number)
    if value == INGEST_TRUE:
        return scratch.append(b"true")
    if value == INGEST_FALSE:
        return scratch.append(b"false")
    if value == INGEST_NONE:
        return scratch.append(b"null")
    if depth == INGEST_NESTING_MAX:
        return False
    if ingest_is_dict(value):
        return ingest_object(value, scratch, depth + 1)
    return ingest_array(value, scratch, depth + 1)


cdef bint ingest_array(PyObject* value, Scratch& scratch, int depth) noexcept:
    cdef Py_ssize_t length = ingest_length(value), place
    if length < 0 or not scratch.append(b"["):
        return False
    for place in range(length):
        if (place and not scratch.append(b",")) or not ingest_value(ingest_item(value, place), scratch, depth):
            return False
    return scratch.append(b"]")


cdef bint ingest_object(PyObject* value, Scratch& scratch, int depth) noexcept:
    """Append an object whose keys are sorted already."""
    cdef Py_ssize_t at = 0
    cdef PyObject* name
    cdef PyObject* item
    cdef ingest_view before, text
    cdef bint is_first = True
    if not scratch.append(b"{"):
        return False
    while ingest_next_item(value, &at, &name, &item):
        if not ingest_text(name, &text) or (not is_first and not before < text):
            return False
        if (not is_first and not scratch.append(b",")) or not scratch.quote(text) or not scratch.append(b":"):
            return False
        if not ingest_value(item, scratch, depth):
            return False
        before = text
        is_first = False
    return scratch.append(b"}")


# Members of an update


cdef bint ingest_position(PyObject* coordinates, Scratch& scratch, IngestUpdate* out) noexcept:
    cdef Py_ssize_t length = ingest_length(coordinates), place
    cdef double numbers[3]
    cdef const char* start = scratch.room(0)
    if length < 2 or length > 3 or (length == 3 and not scratch.append(b'{"type":"Point","coordinates":[')):
        return False
    for place in range(length):
        if (place and not scratch.append(b",")) or not ingest_number(ingest_item(coordinates, place), scratch, &numbers[place]):
            return False
    if length == 3 and not scratch.append(b"]}"):
        return False
    return scratch.name_point(out[0], numbers[0], numbers[1], scratch.since(start), length == 2)


cdef bint ingest_point(PyObject* geometry, Scratch& scratch, IngestUpdate* out) noexcept:
    cdef Py_ssize_t at = 0
    cdef PyObject* name
    cdef PyObject* item
    cdef PyObject* coordinates = NULL
    cdef ingest_view text
    cdef bint is_point = False
    if not ingest_is_dict(geometry):
        return False
    while ingest_next_item(geometry, &at, &name, &item):
        if not ingest_text(name, &text):
            return False
        if text == ingest_view(b"coordinates"):
            coordinates = item
        elif text == ingest_view(b"type"):
            is_point = ingest_text(item, &text) and text == ingest_view(b"Point")
    return is_point and coordinates != NULL and ingest_position(coordinates, scratch, out)


cdef bint ingest_properties(PyObject* properties, Scratch& scratch) noexcept:
    cdef Py_ssize_t at = 0
    cdef PyObject* name
    cdef PyObject* item
    cdef ingest_view text
    cdef const char* start
    if properties == INGEST_NONE:
        return True
    if not ingest_is_dict(properties):
        return False
    while ingest_next_item(properties, &at, &name, &item):
        if not ingest_text(name, &text) or not ingest_is_plain(text):
            return False
        if item == INGEST_NONE:
            if not scratch.add(text, ingest_view()):
                return False
            continue
        start = scratch.room(0)
        if not ingest_value(item, scratch, 0) or not scratch.add(text, scratch.since(start)):
            return False
    return True


cdef bint ingest_access(PyObject* access, Scratch& scratch, IngestUpdate* out) noexcept:
    cdef Py_ssize_t length, place
    cdef ingest_view text
    if access == INGEST_NONE:
        scratch.name_default_access(out[0])
        return True
    length = ingest_length(access)
    if length < 0 or length > <Py_ssize_t>INGEST_PRINCIPALS_MAX:
        return False
    for place in range(length):
        if not ingest_text(ingest_item(access, place), &text) or not ingest_is_principal(text):
            return False
        scratch.put_principal(text)
    scratch.name_access(out[0])
    return True


cdef inline bint ingest_real(PyObject* value, double low, double high, double otherwise, double* out) noexcept:
    cdef int overflow = 0
    if value == INGEST_NONE:
        out[0] = otherwise
        return True
    if ingest_is_float(value):
        out[0] = ingest_float(value)
    elif ingest_is_int(value):
        out[0] = <double>ingest_int(value, &overflow)
    else:
        return False
    return overflow == 0 and low <= out[0] <= high


cdef inline bint ingest_version(PyObject* value, IngestUpdate* out) noexcept:
    cdef int overflow = 0
    cdef long long version
    if value == INGEST_NONE:
        return True
    if not ingest_is_int(value):
        return False
    version = ingest_int(value, &overflow)
    out.version = <uint64_t>version
    return overflow == 0 and 0 < version <= <long long>INGEST_VERSION_MAX


cdef bint ingest_optional(PyObject** members, Scratch& scratch, IngestUpdate* out) noexcept:
    """What a Feature and a patch may name."""
    cdef PyObject* value = members[<size_t>MEMBER_PROPERTIES]
    if value != NULL:
        if not ingest_properties(value, scratch):
            return False
        scratch.name_properties(out[0])
    value = members[<size_t>MEMBER_KIND]
    if value != NULL:
        out.has_kind = True
        if value != INGEST_NONE and not (ingest_text(value, &out.kind) and ingest_is_id(out.kind)):
            return False
    value = members[<size_t>MEMBER_MIN_ZOOM]
    if value != NULL:
        out.has_min_zoom = True
        if not ingest_real(value, 0.0, INGEST_MIN_ZOOM_MAX, INGEST_MIN_ZOOM_DEFAULT, &out.min_zoom):
            return False
    value = members[<size_t>MEMBER_RANK]
    if value != NULL:
        out.has_rank = True
        if not ingest_real(value, 0.0, 1.0, INGEST_RANK_DEFAULT, &out.rank):
            return False
    value = members[<size_t>MEMBER_TTL]
    if value != NULL:
        out.has_ttl = True
        if not ingest_real(value, 0.0, INGEST_TTL_MAX_S, 0.0, &out.ttl) or (out.ttl == 0.0 and value != INGEST_NONE):
            return False
    value = members[<size_t>MEMBER_ACCESS]
    return value == NULL or ingest_access(value, scratch, out)


cdef bint ingest_move(PyObject* lon, PyObject* lat, Scratch& scratch, IngestUpdate* out) noexcept:
    cdef double x, y
    cdef const char* start = scratch.room(0)
    if lon == NULL or lat == NULL:
        return False
    if not ingest_number(lon, scratch, &x) or not scratch.append(b",") or not ingest_number(lat, scratch, &y):
        return False
    return scratch.name_point(out[0], x, y, scratch.since(start), True)


# The ways in


cdef bint take_object(PyObject* item, Scratch& scratch, IngestUpdate* out) noexcept:
    """Whether a decoded object is surely one good update; if so, it is in `out`."""
    cdef PyObject* members[14]  # by `Member`; NULL: not named
    cdef PyObject* name
    cdef PyObject* value
    cdef Py_ssize_t at = 0
    cdef ingest_view text
    cdef size_t place
    if not ingest_is_dict(item):
        return False
    for place in range(14):
        members[place] = NULL
    while ingest_next_item(item, &at, &name, &value):
        if not ingest_text(name, &text):
            return False
        members[<size_t>ingest_member_named(text)] = value
    scratch.clear()
    out[0] = IngestUpdate()
    value = members[<size_t>MEMBER_ID]
    if value == NULL or not ingest_text(value, &out.id) or not ingest_is_id(out.id):
        return False
    value = members[<size_t>MEMBER_VERSION]
    if value != NULL and not ingest_version(value, out):
        return False
    value = members[<size_t>MEMBER_OP]
    if value == NULL or value == INGEST_NONE:
        value = members[<size_t>MEMBER_TYPE]
        if value == NULL or not ingest_text(value, &text) or text != ingest_view(b"Feature"):
            return False
        value = members[<size_t>MEMBER_GEOMETRY]
        if value == NULL or not ingest_point(value, scratch, out) or not ingest_optional(members, scratch, out):
            return False
        scratch.complete(out[0])
        return True
    if not ingest_text(value, &text) or not ingest_parse_op(text, &out.op):
        return False
    if out.op == INGEST_MOVE:
        return ingest_move(members[<size_t>MEMBER_LON], members[<size_t>MEMBER_LAT], scratch, out)
    if out.op == INGEST_DELETE:
        return True
    value = members[<size_t>MEMBER_GEOMETRY]
    if value != NULL and not ingest_point(value, scratch, out):
        return False
    return ingest_optional(members, scratch, out)


cdef inline bint take_json(const char* data, size_t size, UpdateReader& reader, IngestUpdate* out) noexcept:
    """Whether a JSON text is surely one good update; if so, it is in `out`."""
    return reader.parse(ingest_view(data, size), out[0])


cdef inline ingest_view ingest_view_of(bytes data):
    return ingest_view(<const char*>data, <size_t>len(data))


cdef ingest_view ingest_view_of_str(str text) except *:
    cdef Py_ssize_t size = 0
    cdef const char* data = ingest_utf8_or_raise(<PyObject*>text, &size)
    return ingest_view(data, <size_t>size)


cdef tuple ingest_fields(object named):
    """A named tuple as Cython unpacks it fast."""
    if not isinstance(named, tuple):
        raise TypeError(f"a named tuple is expected, not {type(named).__name__}")
    return <tuple>named


cdef int take_update(object update, Scratch& scratch, IngestUpdate* out) except -1:
    """Read a `realtime.engine.Update`, which was checked when it was made. It must outlive `out`."""
    op, id, version, geometry, properties, kind, min_zoom, rank, access, ttl = ingest_fields(update)
    scratch.clear()
    out[0] = IngestUpdate()
    out.op = <IngestOp><int>op
    out.id = ingest_view_of_str(id)
    out.version = version
    if geometry is not None:
        take_geometry(geometry, &out.geometry)
    if properties is not None:
        for name, json in properties.items():
            scratch.put(ingest_view_of_str(name), ingest_view() if json is None else ingest_view_of(json))
        scratch.name_properties(out[0])
    if kind is not None:
        out.has_kind = True
        out.kind = ingest_view_of_str(kind)
    if min_zoom is not None:
        out.has_min_zoom = True
        out.min_zoom = min_zoom
    if rank is not None:
        out.has_rank = True
        out.rank = rank
    if access is not None:
        for principal in access:
            scratch.put_principal(ingest_view_of_str(principal))
        scratch.name_access(out[0])
    if ttl is not None:
        out.has_ttl = True
        out.ttl = ttl
    return 0


cdef int take_geometry(object geometry, IngestGeometry* out) except -1:
    cdef bytes json
    cdef tuple boxes
    cdef size_t place
    json, boxes, is_point = ingest_fields(geometry)
    if not 1 <= len(boxes) <= 2:
        raise ValueError("geometry: one box is expected, or two")
    out.is_point = is_point
    out.text = ingest_view_of(json)
    if out.is_point:
        if not (json.startswith(b'{"type":"Point","coordinates":[') and json.endswith(b"]}")):
            raise ValueError("geometry: a Point is expected")
        out.text = ingest_view(<const char*>json + 31, <size_t>(len(json) - 33))
    for place in range(len(boxes)):
        out.boxes[place].min_x, out.boxes[place].min_y, out.boxes[place].max_x, out.boxes[place].max_y = boxes[place]
    out.box_count = <uint8_t>len(boxes)
    return 0


# What tests ask


cdef inline bytes ingest_bytes(ingest_view text):
    return text.data()[:text.size()]


cdef inline str ingest_str(ingest_view text):
    return text.data()[:text.size()].decode("utf-8")


cdef object ingest_geometry(const IngestGeometry& geometry):
    from realtime.geo import Geometry

    cdef size_t place
    boxes = []
    for place in range(geometry.box_count):
        boxes.append((geometry.boxes[place].min_x, geometry.boxes[place].min_y, geometry.boxes[place].max_x, geometry.boxes[place].max_y))
    json = ingest_bytes(geometry.text)
    if geometry.is_point:
        json = b'{"type":"Point","coordinates":[' + json + b"]}"
    return Geometry(json, tuple(boxes), bool(geometry.is_point))


cdef object ingest_named(const IngestUpdate& update):
    """The same update as a `realtime.engine.Update`."""
    from realtime.engine import Op, Update

    cdef size_t place
    properties = access = None
    if update.has_properties:
        properties = {}
        for place in range(update.property_count):
            json = ingest_bytes(update.properties[place].json)
            properties[ingest_str(update.properties[place].name)] = json or None
    if update.has_access:
        access = [ingest_str(update.access[place]) for place in range(update.access_count)]
        assert access == sorted(set(access), key=str.encode), "principals are sorted and distinct"
    return Update(
        Op(<int>update.op),
        ingest_str(update.id),
        update.version,
        ingest_geometry(update.geometry) if update.geometry.box_count else None,
        properties,
        ingest_str(update.kind) if update.has_kind else None,
        update.min_zoom if update.has_min_zoom else None,
        update.rank if update.has_rank else None,
        None if access is None else frozenset(access),
        update.ttl if update.has_ttl else None,
    )


cdef class Ingest:
    """The ways in, one by one: each returns the `realtime.engine.Update` that the engine would be given, or None."""

    cdef UpdateReader* reader

    def __cinit__(self, size_t entity_bytes, size_t entity_properties, default_access):
        cdef IngestLimits limits
        limits.entity_bytes = entity_bytes
        limits.entity_properties = entity_properties
        for principal in default_access:
            limits.default_access.push_back(principal.encode())
        self.reader = new UpdateReader(limits)

    def __dealloc__(self):
        del self.reader

    def decode_json(self, bytes json):
        """Of a JSON text."""
        cdef IngestUpdate update
        if not take_json(json, <size_t>len(json), self.reader[0], &update):
            return None
        return ingest_named(update)

    def decode_object(self, item):
        """Of a decoded object."""
        cdef IngestUpdate update
        if not take_object(<PyObject*>item, self.reader.scratch(), &update):
            return None
        return ingest_named(update)

    def decode_update(self, update):
        """Of an update as Python has it: the same again."""
        cdef IngestUpdate taken
        take_update(update, self.reader.scratch(), &taken)
        return ingest_named(taken)


cdef class Lines:
    """Cuts a stream at a separator, as `realtime.gateway.body.Lines` does."""

    cdef LineSplitter* splitter

    def __cinit__(self, bytes separator, size_t line_bytes_max):
        if len(separator) != 1:
            raise ValueError("separator: one byte is expected")
        self.splitter = new LineSplitter((<const char*>separator)[0], line_bytes_max)

    def __dealloc__(self):
        del self.splitter

    def feed(self, bytes data not None):
        """Return the lines that `data` completes; None is one that is too long."""
        cdef ingest_view rest = ingest_view_of(data)
        cdef IngestLine line
        cdef list lines = []
        while self.splitter.next(rest, line):
            lines.append(None if line.is_too_long else ingest_bytes(line.text))
        return lines

    def cut(self, bytes data not None, too_long):
        """Yield the same as items for the intake: as `Raw`, or `too_long`. Until all are taken, the next piece must wait."""
        return CutLines(self, data, too_long)

    def end(self):
        """Return the last line, if there is one."""
        cdef IngestLine line
        if not self.splitter.end(line):
            return []
        return [None if line.is_too_long else ingest_bytes(line.text)]


cdef class CutLines:
    """The lines of one piece of a stream, cut as they are taken."""

    cdef Lines lines
    cdef bytes data  # what `rest` points into
    cdef ingest_view rest
    cdef object too_long

    def __cinit__(self, Lines lines not None, bytes data not None, too_long):
        self.lines = lines
        self.data = data
        self.rest = ingest_view_of(data)
        self.too_long = too_long

    def __iter__(self):
        return self

    def __next__(self):
        cdef IngestLine line
        if not self.lines.splitter.next(self.rest, line):
            raise StopIteration
        return self.too_long if line.is_too_long else msgspec.Raw(ingest_bytes(line.text))
