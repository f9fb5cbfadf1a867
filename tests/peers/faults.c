/* Faults of a disk for one process: LD_PRELOAD=faults.so FAULTS=DIR, with the data on a file system of its own.
 *
 * While DIR/nosync is there, fsync and fdatasync do nothing and claim success: what a database that doesn't wait for the disk does.
 * While DIR/eio is there, writing and syncing files on the file system that DIR/on links to fails with EIO.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int wanted(const char *fault) {
    const char *folder = getenv("FAULTS");
    char path[4096];
    if (!folder || snprintf(path, sizeof path, "%s/%s", folder, fault) >= (int)sizeof path) return 0;
    return access(path, F_OK) == 0;
}

static int ours(int fd) {
    const char *folder = getenv("FAULTS");
    char path[4096];
    struct stat on, file;
    if (!folder || snprintf(path, sizeof path, "%s/on", folder) >= (int)sizeof path) return 0;
    return stat(path, &on) == 0 && fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_dev == on.st_dev;
}

static int fails(int fd) {
    int before = errno, failing = wanted("eio") && ours(fd);
    errno = failing ? EIO : before;
    return failing;
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fsync(int fd) {
    NEXT(fsync);
    if (fails(fd)) return -1;
    return wanted("nosync") ? 0 : next(fd);
}

int fdatasync(int fd) {
    NEXT(fdatasync);
    if (fails(fd)) return -1;
    return wanted("nosync") ? 0 : next(fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    NEXT(write);
    return fails(fd) ? -1 : next(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    NEXT(pwrite);
    return fails(fd) ? -1 : next(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    NEXT(pwrite64);
    return fails(fd) ? -1 : next(fd, bytes, count, at);
}

int ftruncate64(int fd, off64_t length) {
    NEXT(ftruncate64);
    return fails(fd) ? -1 : next(fd, length);
}
