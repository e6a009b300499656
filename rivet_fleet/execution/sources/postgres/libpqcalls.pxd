# What the decoder calls of libpq (manual, "Functions Associated with the COPY Command"), by the
# addresses that libpq.py finds, and how it waits for the socket.

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    short POLLIN

ctypedef int (*GetCopyData)(void* conn, char** row, int asynchronous) noexcept nogil
ctypedef int (*ConsumeInput)(void* conn) noexcept nogil
ctypedef void (*FreeMemory)(void* memory) noexcept nogil
