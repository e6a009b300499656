from collections.abc import Sequence

import pyarrow as pa

def hash_rows(columns: Sequence[pa.Array]) -> pa.Array: ...
