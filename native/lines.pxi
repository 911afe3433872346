# Streams of updates, cut into lines (lines.h).
#
# Law: the lines are those of `realtime.gateway.body.Lines`.

import msgspec


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
