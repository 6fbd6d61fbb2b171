/* The ring of the swap file writes to that file, and refuses all else: the sandbox lets its system
 * call pass because of that. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/swap_ring.h"
#include "util/bits.h"

static int submit_and_wait(struct io_uring *ring)
{
    struct io_uring_cqe *cqe = NULL;
    assert_int_equal(io_uring_submit(ring), 1);
    assert_int_equal(io_uring_wait_cqe(ring, &cqe), 0);
    int result = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return result;
}

static void test_it_does_one_thing(void **state)
{
    (void)state;
    struct io_uring own, *ring = &own;
    int file = memfd_create("test", MFD_CLOEXEC);
    assert_true(file >= 0);
    if (!swap_ring_open(ring, 4, file)) {
        close(file);
        print_message("this host gives us no ring\n");
        skip();
    }
    void *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct iovec iov = {page, PAGE_SIZE};

    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    io_uring_prep_writev(sqe, 0, &iov, 1, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    assert_int_equal(submit_and_wait(ring), PAGE_SIZE);

    sqe = io_uring_get_sqe(ring);
    io_uring_prep_writev(sqe, STDERR_FILENO, &iov, 1, 0); /* any descriptor */
    assert_int_equal(submit_and_wait(ring), -EACCES);

    sqe = io_uring_get_sqe(ring);
    io_uring_prep_readv(sqe, 0, &iov, 1, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    assert_int_equal(submit_and_wait(ring), -EACCES);

    sqe = io_uring_get_sqe(ring);
    io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_RDONLY, 0);
    assert_int_equal(submit_and_wait(ring), -EACCES);

    sqe = io_uring_get_sqe(ring);
    io_uring_prep_connect(sqe, 0, NULL, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    assert_int_equal(submit_and_wait(ring), -EACCES);

    /* Nor can it be given another file, or more rights. */
    int fd = STDERR_FILENO;
    assert_true(io_uring_register_files_update(ring, 0, &fd, 1) < 0);
    struct io_uring_restriction more = {.opcode = IORING_RESTRICTION_SQE_OP,
                                        .sqe_op = IORING_OP_OPENAT};
    assert_true(io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, &more, 1) <
                0);
    munmap(page, PAGE_SIZE);
    io_uring_queue_exit(ring);
    close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_it_does_one_thing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
