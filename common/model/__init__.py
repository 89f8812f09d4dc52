"""The values of the cluster: frozen, compared by content, free of behaviour that needs a clock or a network.

Every value is a `msgspec.Struct(frozen=True, kw_only=True)`. Times are Unix seconds (`*_s` floats), memory is bytes,
CPU is millicores. Enumerations are written by name in JSON and by number on the wire: a member's number is its place
in the class, counted from 1, so members are only ever appended (`common.wire` refuses to import otherwise).
"""
