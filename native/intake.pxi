# The intake (realtime/intake.py) of a native engine: an update that surely is a good one goes from its text or its dict
# straight into the engine; of any other Python is asked.
#
# Law: the same items, in the same order, get the same verdicts as from `PlainIntake`. Items are taken one by one, and each
# is applied before the next one is looked at: what one update points to is gone by then.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from realtime.errors import Refused as IntakeRefused

cdef extern from "Python.h":
    PyObject* intake_item "PyDict_GetItem"(object items, object name) noexcept

cdef extern from "engine.h" namespace "realtime" nogil:
    const size_t INTAKE_AHEAD "realtime::Engine::HINTS_AHEAD"

cdef extern from "lines.h" namespace "realtime::ingest" nogil:
    cdef cppclass Scout:
        Scout(ingest_view lines, char separator) except +
        ingest_bool next(ingest_view& id) noexcept

cdef type INTAKE_RAW = msgspec.Raw
cdef type INTAKE_LIST_ITERATOR = type(iter([]))
cdef int INTAKE_LOOK_UPDATES = 8  # between two looks at the clock; one that Python is asked of counts as so many


cdef class Intake:
    """See `realtime.intake.Intake`."""

    cdef NativeEngine core
    cdef UpdateReader* reader
    cdef object read  # (item, allows) -> Update; raises Refused
    cdef bint is_asking  # `allows` runs: what is being read must not be overwritten

    look_updates = INTAKE_LOOK_UPDATES

    def __cinit__(self, NativeEngine engine not None, read, size_t entity_bytes, size_t entity_properties, default_access):
        cdef IngestLimits limits
        limits.entity_bytes = entity_bytes
        limits.entity_properties = entity_properties
        for principal in default_access:
            limits.default_access.push_back(principal.encode())
        self.core = engine
        self.read = read
        self.reader = new UpdateReader(limits)

    def __dealloc__(self):
        del self.reader

    def take(self, items, list verdicts not None, double now, allows=None, is_over=None):
        cdef int left = INTAKE_LOOK_UPDATES
        if self.is_asking:
            raise RuntimeError("nothing can be published while it is being asked who may publish")
        if type(items) is CutLines:  # lines of which no objects were made yet
            return self.take_lines(items, verdicts, now, allows, is_over)
        cdef list behind = None  # what is iterated over, if it is a list
        cdef Py_ssize_t at = 0
        if type(items) is INTAKE_LIST_ITERATOR:
            parts = items.__reduce__()
            if len(parts) == 3:
                behind, at = parts[1][0], parts[2]
                for ahead in behind[at : at + <int>INTAKE_AHEAD]:
                    self.hint(ahead)
        for item in items:
            if behind is not None:
                if at + <int>INTAKE_AHEAD < len(behind):
                    self.hint(behind[at + <int>INTAKE_AHEAD])
                at += 1
            left -= self.take_item(item, verdicts, now, allows)
            if left <= 0:
                if is_over is not None and is_over():
                    return True
                left = INTAKE_LOOK_UPDATES
        return False

    cdef int hint(self, object item) except -1:
        """Let the engine ask for the memory of an entity whose update comes soon."""
        cdef PyObject* id
        cdef ingest_view text
        if type(item) is dict:
            id = intake_item(item, "id")
            if id != NULL and ingest_text(id, &text):
                self.core.engine.hint(text)
        return 0

    cdef bint take_lines(self, CutLines cut, list verdicts, double now, object allows, object is_over) except -1:
        cdef int left = INTAKE_LOOK_UPDATES
        cdef IngestLine line
        cdef ingest_view id
        cdef Scout* scout = new Scout(cut.rest, cut.lines.splitter.separator())
        try:
            for _ in range(<int>INTAKE_AHEAD):
                if scout.next(id):
                    self.core.engine.hint(id)
            while cut.lines.splitter.next(cut.rest, line):
                if scout.next(id):
                    self.core.engine.hint(id)
                left -= self.take_line(cut, line, verdicts, now, allows)
                if left <= 0:
                    if is_over is not None and is_over():
                        return True
                    left = INTAKE_LOOK_UPDATES
        finally:
            del scout
        return False

    cdef int take_line(self, CutLines cut, const IngestLine& line, list verdicts, double now, object allows) except -1:
        """Return as how many updates it counts; so do the following."""
        cdef IngestUpdate update
        if line.is_too_long:
            verdicts.append(cut.too_long)
            return 1
        if take_json(line.text.data(), line.text.size(), self.reader[0], &update) and self.may_take(update, allows):
            return self.apply(update, verdicts, now)
        return self.ask(msgspec.Raw(ingest_bytes(line.text)), verdicts, now, allows)

    cdef int take_item(self, object item, list verdicts, double now, object allows) except -1:
        cdef IngestUpdate update
        cdef Py_buffer text
        if type(item) is dict:
            if take_object(<PyObject*>item, self.reader.scratch(), &update) and self.may_take(update, allows):
                return self.apply(update, verdicts, now)
        elif type(item) is INTAKE_RAW:
            PyObject_GetBuffer(item, &text, PyBUF_SIMPLE)
            try:
                if take_json(<const char*>text.buf, <size_t>text.len, self.reader[0], &update) and self.may_take(update, allows):
                    return self.apply(update, verdicts, now)
            finally:
                PyBuffer_Release(&text)
        elif isinstance(item, IntakeRefused):
            verdicts.append(item)
            return 1
        return self.ask(item, verdicts, now, allows)

    cdef inline int apply(self, const IngestUpdate& update, list verdicts, double now) except -1:
        verdicts.append(VERDICTS[<int>self.core.engine.apply(update, now)])
        return 1

    cdef int ask(self, object item, list verdicts, double now, object allows) except -1:
        """Let Python read an item."""
        cdef IngestUpdate update
        try:
            read = self.read(item, allows)
        except IntakeRefused as refused:
            verdicts.append(refused)
        else:
            take_update(read, self.reader.scratch(), &update)
            self.apply(update, verdicts, now)
        return INTAKE_LOOK_UPDATES

    cdef bint may_take(self, const IngestUpdate& update, object allows) except -1:
        """Whether the update need not be asked about because of who sends it."""
        if allows is None:
            return True
        self.is_asking = True
        try:
            return bool(allows(ingest_str(update.id)))
        finally:
            self.is_asking = False
