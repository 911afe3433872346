# The pump (pump.h) as realtime/gateway/flush.py uses it: numbers of sessions, descriptors and bytes.

cdef extern from "pump.h" namespace "realtime" nogil:
    cdef cppclass EnginePump "realtime::Pump<realtime::Engine>":
        EnginePump(Engine&, size_t) except +
        void open(uint64_t, int, uint8_t) except +
        void close(uint64_t)
        void set_direct(uint64_t, cbool)
        uint64_t take_written(uint64_t)
        size_t sockets()
        void take(double) except +
        void push(uint64_t) except +
        size_t waiting()
        cbool run(double, double) except +
        uint64_t session()
        string_view rest()
        void take_counts(uint64_t&, uint64_t&)


cdef class Pump:
    """Writes the deltas of an engine's sessions to their sockets."""

    cdef EnginePump* pump
    cdef NativeEngine engine

    def __cinit__(self, NativeEngine engine not None, size_t budget):
        self.engine = engine  # must live as long
        self.pump = new EnginePump(engine.engine[0], budget)

    def __dealloc__(self):
        del self.pump

    def open(self, uint64_t session, int fileno, uint8_t opcode):
        self.pump.open(session, fileno, opcode)

    def close(self, uint64_t session):
        self.pump.close(session)

    def set_direct(self, uint64_t session, cbool is_direct):
        self.pump.set_direct(session, is_direct)

    def take_written(self, uint64_t session):
        return self.pump.take_written(session)

    def take(self, double now):
        self.pump.take(now)

    def push(self, uint64_t session):
        self.pump.push(session)

    @property
    def sockets(self):
        return self.pump.sockets()

    @property
    def waiting(self):
        return self.pump.waiting()

    def run(self, double now, double seconds):
        return self.pump.run(now, seconds)

    @property
    def session(self):
        return self.pump.session()

    @property
    def rest(self):
        cdef string_view rest = self.pump.rest()
        return PyBytes_FromStringAndSize(rest.data(), rest.size())

    def take_counts(self):
        cdef uint64_t frames = 0, payload_bytes = 0
        self.pump.take_counts(frames, payload_bytes)
        return frames, payload_bytes
