# How updates get in from Python: dicts, bytes and `realtime.engine.Update`s become the engine's `Update`.
#
# Law: `take_object` and `take_json` say true only where `UpdateParser.parse` makes exactly that update of the same thing;
# else they say false, raise nothing, and the item is for the parser. Only exact built-in types pass, so that nothing of
# anybody's runs between two looks at an item. What an update points to lives as long as the item and the scratch do.

include "ingest_types.pxi"


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


cdef inline bytes ingest_bytes(ingest_view text):
    return text.data()[:text.size()]


cdef inline str ingest_str(ingest_view text):
    return text.data()[:text.size()].decode("utf-8")


include "lines.pxi"
include "ingest_trial.pxi"
