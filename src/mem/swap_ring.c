#include "mem/swap_ring.h"

#include "util/bits.h"

bool swap_ring_open(struct io_uring *ring, unsigned depth, int fd)
{
    struct io_uring_restriction allowed[] = {
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
        {.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE},
    };
    if (io_uring_queue_init(depth, ring, IORING_SETUP_R_DISABLED) != 0)
        return false;
    unsigned number = (unsigned)ring->ring_fd;
    if (io_uring_register(number, IORING_REGISTER_RESTRICTIONS, allowed, ARRAY_LENGTH(allowed)) ==
            0 &&
        io_uring_register_files(ring, &fd, 1) == 0 &&
        io_uring_register(number, IORING_REGISTER_ENABLE_RINGS, NULL, 0) == 0)
        return true;
    io_uring_queue_exit(ring);
    return false;
}
