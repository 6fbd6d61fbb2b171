"""The messages of src/proto/link.h, for what speaks as a VM or as a manager in tests."""

import struct

PAGE = 4096
HELLO, HOLDS, READY, OFFER, DROP, REPORT, WELCOME, ATTACH, TARGET = range(1, 10)
FRESH = 1
MOST = 8200  # bytes of a message
HEAD_FORM = struct.Struct("=II")
REF_FORM = struct.Struct("=II")
OFFER_FORM = struct.Struct("=QII")
HELLO_FORM = struct.Struct("=II65s65s2xI5Q")
WELCOME_FORM = struct.Struct("=IIQQB7x")
TARGET_FORM = struct.Struct("=QQQII")
REPORT_FORM = struct.Struct("=27QIIII")
REPORT_NAMES = (
    "resident active balloon zero shared compressed compressed_size disk_backed swapped swap_room "
    "overhead spare sample_periods faults_in stall_ns swap_read swap_written pages_scanned "
    "pages_shared cow_breaks scan_cpu_ns cpu_ns tlb_misses walk_references hidden_faults "
    "traced_writes shadow_memory balloon_state is_paused mmu_mode mmu_is_chosen").split()


def message(kind, count, body=b""):
    return HEAD_FORM.pack(kind, count) + body


def refs(kind, pairs):
    return message(kind, len(pairs), b"".join(REF_FORM.pack(*pair) for pair in pairs))
