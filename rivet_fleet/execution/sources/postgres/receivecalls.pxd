# What the receiver calls: the kernel, and libpq (manual, "Functions Associated with the COPY
# Command") by the addresses that ``exchange.libpq_addresses`` finds.

from libc.stdint cimport int64_t

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    short POLLIN

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>

    /* Bytes that were taken off a TCP socket so far; -1 where nobody counts: linux/tcp.h,
       tcpi_bytes_received, less what still waits. */
    static int64_t rivet_taken_bytes(int fd) {
    #if defined(__linux__) && defined(TCP_INFO)
        unsigned char info[136];
        socklen_t bytes = sizeof info;
        uint64_t received;
        int waiting = 0;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &bytes) || bytes < sizeof info)
            return -1;
        memcpy(&received, info + 128, sizeof received);
        if (ioctl(fd, FIONREAD, &waiting))
            return -1;
        return (int64_t) received - waiting;
    #else
        (void) fd;
        return -1;
    #endif
    }
    """
    int64_t rivet_taken_bytes(int fd)

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec* time, timespec* left)

ctypedef int (*GetCopyData)(void* conn, char** row, int asynchronous) noexcept nogil
ctypedef int (*ConsumeInput)(void* conn) noexcept nogil
ctypedef void (*FreeMemory)(void* memory) noexcept nogil
ctypedef int (*ResultNumber)(const void* result) noexcept nogil
ctypedef int (*CellNumber)(const void* result, int row, int field) noexcept nogil
ctypedef char* (*CellValue)(const void* result, int row, int field) noexcept nogil
