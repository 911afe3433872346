# The ways in, callable one by one, so that tests can hold each equal to the parser.
#
# Law: nothing here is used to run a server.


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
