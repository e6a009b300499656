# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Column checksums over Arrow buffers: the compiled form of ``checksums.reference_sum``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc

from pyarrow import lib

cdef extern from "columnsums.h" nogil:
    enum rivet_storage:
        RIVET_BITS
        RIVET_WHOLE
        RIVET_UNSIGNED
        RIVET_FLOAT
        RIVET_DECIMAL
        RIVET_FIXED
        RIVET_TEXT
        RIVET_LONG_TEXT
        RIVET_LIST
        RIVET_DICTIONARY

    ctypedef struct rivet_column:
        rivet_storage storage
        int64_t width
        int64_t offset
        const uint8_t* validity
        const uint8_t* data
        const void* ends
        rivet_column* child
        uint64_t* scratch
        int64_t room

    int rivet_hashes(rivet_column* column, int64_t first, int64_t n, uint64_t* out)
    int rivet_choose(int most)
    int rivet_sum(rivet_column* column, int64_t n, uint64_t* sum)
    uint64_t rivet_mixed(uint64_t x)

_STORAGES = {
    lib.Type_BOOL: (RIVET_BITS, 0),
    lib.Type_INT8: (RIVET_WHOLE, 1),
    lib.Type_INT16: (RIVET_WHOLE, 2),
    lib.Type_INT32: (RIVET_WHOLE, 4),
    lib.Type_INT64: (RIVET_WHOLE, 8),
    lib.Type_UINT8: (RIVET_UNSIGNED, 1),
    lib.Type_UINT16: (RIVET_UNSIGNED, 2),
    lib.Type_UINT32: (RIVET_UNSIGNED, 4),
    lib.Type_UINT64: (RIVET_UNSIGNED, 8),
    lib.Type_FLOAT: (RIVET_FLOAT, 4),
    lib.Type_DOUBLE: (RIVET_FLOAT, 8),
    lib.Type_DECIMAL32: (RIVET_WHOLE, 4),
    lib.Type_DECIMAL64: (RIVET_WHOLE, 8),
    lib.Type_DECIMAL128: (RIVET_DECIMAL, 16),
    lib.Type_DECIMAL256: (RIVET_DECIMAL, 32),
    lib.Type_DATE32: (RIVET_WHOLE, 4),
    lib.Type_TIME64: (RIVET_WHOLE, 8),
    lib.Type_TIMESTAMP: (RIVET_WHOLE, 8),
    lib.Type_STRING: (RIVET_TEXT, 0),
    lib.Type_BINARY: (RIVET_TEXT, 0),
    lib.Type_LARGE_STRING: (RIVET_LONG_TEXT, 0),
    lib.Type_LARGE_BINARY: (RIVET_LONG_TEXT, 0),
    lib.Type_FIXED_SIZE_BINARY: (RIVET_FIXED, -1),
    lib.Type_LIST: (RIVET_LIST, 0),
    lib.Type_DICTIONARY: (RIVET_DICTIONARY, 0),
}
cdef int _DICTIONARY = lib.Type_DICTIONARY


cdef inline const uint8_t* _address(object buffer):
    return NULL if buffer is None else <const uint8_t*> <uintptr_t> buffer.address


cdef int _describe(rivet_column* column, object array) except -1:
    """``array`` must stay alive as long as ``column`` is used."""
    cdef object kind = array.type
    cdef list buffers
    if isinstance(array, lib.ExtensionArray):
        array = array.storage
        kind = array.type
    if kind.id == _DICTIONARY:
        _describe_dictionary(column, array)
        array = array.indices
        buffers = array.buffers()
    else:
        column.storage, column.width = _STORAGES[kind.id]
        buffers = array.buffers()
        if column.width < 0:
            column.width = kind.byte_width
    column.offset = array.offset
    if array.null_count:
        column.validity = _address(buffers[0])
    if column.storage == RIVET_LIST:
        column.ends = _address(buffers[1])
        column.child = <rivet_column*> calloc(1, sizeof(rivet_column))
        if column.child == NULL:
            raise MemoryError()
        _describe(column.child, array.values)
    elif column.storage == RIVET_TEXT or column.storage == RIVET_LONG_TEXT:
        column.ends = _address(buffers[1])
        column.data = _address(buffers[2])
    else:
        column.data = _address(buffers[1])
    return 0


cdef int _describe_dictionary(rivet_column* column, object array) except -1:
    """Each value of the dictionary is hashed once."""
    cdef object values = array.dictionary
    cdef int64_t count = len(values)
    cdef int failed
    column.storage = RIVET_DICTIONARY
    column.scratch = <uint64_t*> malloc(8 * (count + 1))
    column.child = <rivet_column*> calloc(1, sizeof(rivet_column))
    if column.scratch == NULL or column.child == NULL:
        raise MemoryError()
    column.scratch[0], column.room = 0, count
    _describe(column.child, values)
    with nogil:
        failed = rivet_hashes(column.child, 0, count, column.scratch)
    if failed:
        raise MemoryError()
    return 0


cdef void _forget(rivet_column* column) noexcept:
    if column.child != NULL:
        _forget(column.child)
        free(column.child)
    free(column.scratch)


def choose_registers(int most=5):
    """Use the widest registers there are, at most so wide: 5 AVX-512, 2 AVX2, 0 neither. Returns
    which; all give the same sums. Called once here, and by tests."""
    return rivet_choose(most)


choose_registers()


def column_sum(array not None):
    """The sum of the hashes of all values. See ``checksums.ColumnSum``."""
    cdef rivet_column column = rivet_column(RIVET_BITS, 0, 0, NULL, NULL, NULL, NULL, NULL, 0)
    cdef int64_t rows = len(array)
    cdef uint64_t total = 0
    cdef int failed
    if not rows:
        return 0
    try:
        _describe(&column, array)
        with nogil:
            failed = rivet_sum(&column, rows, &total)
        if failed:
            raise MemoryError()
    finally:
        _forget(&column)
    return total


cdef enum:
    AT_ONCE = 1024


cdef int _chained(
    rivet_column* columns, int count, int64_t rows, uint64_t seed, uint64_t* out
) noexcept nogil:
    """A few rows at a time, so that what is mixed is at hand."""
    cdef uint64_t hashes[AT_ONCE]
    cdef int64_t first = 0, n, row
    cdef int column
    while first < rows:
        n = rows - first if rows - first < AT_ONCE else AT_ONCE
        for row in range(n):
            out[first + row] = seed
        for column in range(count):
            if rivet_hashes(&columns[column], first, n, hashes) != 0:
                return -1
            for row in range(n):
                out[first + row] = rivet_mixed(out[first + row] ^ hashes[row])
        first += n
    return 0


def row_chains(list arrays not None, seed):
    """One number a row over these columns of equal length. See ``checksums.RowChains``."""
    cdef int count = len(arrays), index, failed
    cdef int64_t rows = len(arrays[0])
    cdef uint64_t begin = seed
    cdef bytearray out = bytearray(8 * rows)
    cdef uint64_t* target = <uint64_t*> <char*> out
    cdef rivet_column* columns = <rivet_column*> calloc(count, sizeof(rivet_column))
    if columns == NULL:
        raise MemoryError()
    try:
        for index in range(count):
            _describe(&columns[index], arrays[index])
        with nogil:
            failed = _chained(columns, count, rows, begin, target)
        if failed:
            raise MemoryError()
    finally:
        for index in range(count):
            _forget(&columns[index])
        free(columns)
    return out
