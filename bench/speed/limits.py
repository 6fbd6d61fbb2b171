"""What must hold for the translator: for each row of bench/speed/guest, the most it may take."""

NATIVE, TCG = "native", "tcg"


class Limit:
    """At most `factor` times what `base` takes: native, or the faster of the two TCGs."""

    def __init__(self, base, factor, text):
        self.base = base
        self.factor = factor
        self.text = text


def times_native(factor):
    return Limit(NATIVE, factor, f"{factor:g}")


def part_of_tcg(divisor):
    return Limit(TCG, 1 / divisor, f"TCG/{divisor}")


_GROUPS = (
    (times_native(1.1), "int-registers branch-predictable branch-random"),
    (times_native(1.3), "double-scalar vector-double vector-bytes"),
    (times_native(3), "sieve-bytes sieve-words memcpy-4k memcpy-64k memcpy-1m memcpy-16m"
                      " memset-4k memset-64k memset-1m memset-16m"),
    (times_native(1.5), "rep-movsb-1m rep-stosq-1m"),
    (times_native(2), "chase-64k chase-16m"),
    (times_native(3), "call call-indirect qsort bytecode"),
    (part_of_tcg(3), "sha256-c busybox-sha256sum busybox-gzip busybox-gunzip python3 sqlite3"),
    (times_native(2), "getpid"),
    (part_of_tcg(2), "mmap-touch-munmap mprotect fork-wait fork-exec-wait cow-fault sigsegv"
                     " switch-futex pipe-pingpong"),
)

LIMITS = {row: limit for limit, rows in _GROUPS for row in rows.split()}

# Of bench/run's figures: the boot is measured against the faster TCG; memory is in MiB.
BOOT = Limit(TCG, 1, "TCG")
VMM_MIB = 44  # with the code cache full
VMM_MIB_WITHOUT_CODE = 12
