# What a receiver calls: the kernel's sockets, and libpq (manual, "Functions Associated with the
# COPY Command") by the addresses that libpq.py finds.

from libc.stdint cimport int64_t

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    short POLLIN

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void* buffer, size_t bytes, int flags)
    int MSG_DONTWAIT

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec* time, timespec* left)

ctypedef int (*GetCopyData)(void* conn, char** row, int asynchronous) noexcept nogil
ctypedef int (*ConsumeInput)(void* conn) noexcept nogil
ctypedef void (*FreeMemory)(void* memory) noexcept nogil
