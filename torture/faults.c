/* Preloaded into a process, it counts the operations that change files below one folder, and at the n-th lets the
 * operation fail, kills the process, or writes half of it and kills the process. It can also log each operation with
 * its data, for power.py to replay.
 *
 * Counted: open and openat that create or empty a file, write, pwrite, writev, fwrite, fsync, fdatasync, ftruncate,
 * rename, mkdir, link, symlink, unlink and rmdir, each with its variants. sendfile and copy_file_range are refused, so
 * that who copies falls back to write. Not seen: writes through a shared mapping, system calls made without the C
 * library, and the C library's own buffered output other than fwrite; recexp and what it writes with use none of these.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { COUNT, EIO_ONCE, ENOSPC_ONCE, FULL, KILL, TORN };

struct counters {
    atomic_long operations, faults;
};

static struct counters *counters; /* shared with forked processes */
static int armed, mode, log_file = -1;
static long target;
static char folder[PATH_MAX];
static size_t folder_length;

#define REAL(type, name, ...)                                              \
    static type (*real)(__VA_ARGS__);                                      \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* Called through ctypes */

void faults_new(void) {
    if (counters) munmap(counters, sizeof *counters);
    counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void faults_arm(const char *path, int which, long n, const char *log) {
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    mode = which, target = n;
    if (log) log_file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    armed = 1;
}

long faults_operations(void) { return counters->operations; }

long faults_faults(void) { return counters->faults; }

/* Paths */

static int below(const char *path) {
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

/* The absolute path of an open regular file or folder; 0 if it is neither or not below the folder. */
static int path_of(int fd, char *path) {
    char name[64];
    struct stat info;
    if (!armed || fd < 0 || fstat(fd, &info) || !(S_ISREG(info.st_mode) || S_ISDIR(info.st_mode))) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0 && below(path);
}

/* The absolute path of a name, whose last part may not exist; 0 if it is not below the folder. */
static int path_at(int at, const char *name, char *path) {
    char base[PATH_MAX] = "", joined[2 * PATH_MAX], proc[64];
    if (!armed || !name) return 0;
    if (name[0] != '/') {
        if (at == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            snprintf(proc, sizeof proc, "/proc/self/fd/%d", at);
            ssize_t length = readlink(proc, base, sizeof base - 1);
            if (length <= 0) return 0;
            base[length] = 0;
        }
        snprintf(joined, sizeof joined, "%s/%s", base, name);
    } else {
        snprintf(joined, sizeof joined, "%s", name);
    }
    char *last = strrchr(joined, '/');
    *last = 0;
    char parent[PATH_MAX];
    if (!realpath(joined[0] ? joined : "/", parent)) return 0;
    return snprintf(path, PATH_MAX, "%s/%s", parent, last + 1) < PATH_MAX && below(path);
}

/* Faults and the log */

/* Counts an operation; returns the error number it must fail with, or 0. grows: whether it takes space. */
static int strike(int grows, int *torn) {
    int saved = errno;
    long n = atomic_fetch_add(&counters->operations, 1) + 1;
    errno = saved;
    if (mode == COUNT || n < target || (n > target && !(mode == FULL && grows))) return 0;
    atomic_fetch_add(&counters->faults, 1);
    if (mode == TORN && torn) return *torn = 1, 0;
    if (mode == KILL || mode == TORN) kill(getpid(), SIGKILL);
    return mode == EIO_ONCE ? EIO : ENOSPC;
}

static void logged(const char *operation, const char *path, const char *other, off_t offset, const void *data, size_t size) {
    char head[2 * PATH_MAX + 64];
    if (log_file < 0) return;
    int saved = errno;
    int length = snprintf(head, sizeof head, "%s\x1f%s\x1f%s\x1f%lld\x1f%zu\n", operation, path, other, (long long)offset, size);
    struct iovec parts[2] = {{head, length}, {(void *)data, size}};
    syscall(SYS_writev, log_file, parts, data ? 2 : 1);
    errno = saved;
}

#define FAIL(error, value)                              \
    do {                                                \
        int number = (error);                           \
        if (number) { errno = number; return (value); } \
    } while (0)

/* Writing */

static off_t position(int fd) {
    struct stat info;
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && flags & O_APPEND) return fstat(fd, &info) ? 0 : info.st_size;
    return lseek(fd, 0, SEEK_CUR);
}

static ssize_t put(int fd, const void *data, size_t size, off_t offset, int at) {
    return at ? syscall(SYS_pwrite64, fd, data, size, offset) : syscall(SYS_write, fd, data, size);
}

static ssize_t written(int fd, const void *data, size_t size, off_t offset, int at) {
    char path[PATH_MAX];
    int torn = 0;
    if (!path_of(fd, path)) return put(fd, data, size, offset, at);
    FAIL(strike(1, &torn), -1);
    if (torn) put(fd, data, size / 2, offset, at), kill(getpid(), SIGKILL);
    if (!at) offset = position(fd);
    ssize_t done = put(fd, data, size, offset, at);
    if (done > 0) logged("write", path, "", offset, data, done);
    return done;
}

ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, 0, 0); }

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset, 1); }

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return written(fd, data, size, offset, 1); }

ssize_t writev(int fd, const struct iovec *parts, int n) { /* a short write is allowed: the first part that has data */
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd, parts, n);
    for (int i = 0; i < n; i++)
        if (parts[i].iov_len) return written(fd, parts[i].iov_base, parts[i].iov_len, 0, 0);
    return 0;
}

size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    char path[PATH_MAX];
    int torn = 0;
    if (!armed || !path_of(fileno(file), path)) return real(data, size, n, file);
    FAIL(strike(1, &torn), 0);
    fflush(file);
    off_t offset = ftello(file);
    if (torn) real(data, 1, size * n / 2, file), fflush(file), kill(getpid(), SIGKILL);
    size_t done = real(data, size, n, file);
    fflush(file);
    if (done) logged("write", path, "", offset, data, done * size);
    return done;
}

static int truncated(int fd, off_t size) {
    char path[PATH_MAX];
    int seen = path_of(fd, path);
    if (seen) FAIL(strike(0, NULL), -1);
    int done = syscall(SYS_ftruncate, fd, size);
    if (seen && !done) logged("truncate", path, "", size, NULL, 0);
    return done;
}

int ftruncate(int fd, off_t size) { return truncated(fd, size); }

int ftruncate64(int fd, off64_t size) { return truncated(fd, size); }

static int synced(int fd, int data_only) {
    char path[PATH_MAX];
    int seen = path_of(fd, path);
    if (seen) FAIL(strike(0, NULL), -1);
    int done = syscall(data_only ? SYS_fdatasync : SYS_fsync, fd);
    if (seen && !done) logged("sync", path, "", 0, NULL, 0);
    return done;
}

int fsync(int fd) { return synced(fd, 0); }

int fdatasync(int fd) { return synced(fd, 1); }

ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
    REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
    char path[PATH_MAX];
    FAIL(path_of(out, path) ? EINVAL : 0, -1);
    return real(out, in, offset, size);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) { return sendfile(out, in, offset, size); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    char path[PATH_MAX];
    FAIL(path_of(out, path) ? EINVAL : 0, -1);
    return real(in, from, out, to, size, flags);
}

/* Names */

static int opened(int at, const char *name, int flags, mode_t permissions) {
    char path[PATH_MAX];
    struct stat info;
    int seen = 0, new = 0;
    if (armed && flags & (O_CREAT | O_TRUNC) && path_at(at, name, path)) {
        new = lstat(path, &info) != 0;
        seen = new ? flags & O_CREAT : flags & O_TRUNC;
    }
    if (seen) FAIL(strike(new, NULL), -1);
    int fd = syscall(SYS_openat, at, name, flags, permissions);
    if (seen && fd >= 0) logged(new ? "create" : "truncate", path, "", 0, NULL, 0);
    return fd;
}

#define PERMISSIONS(last)                                     \
    mode_t permissions = 0;                                   \
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list list;                                         \
        va_start(list, last);                                 \
        permissions = va_arg(list, mode_t);                   \
        va_end(list);                                         \
    }

int open(const char *name, int flags, ...) { PERMISSIONS(flags) return opened(AT_FDCWD, name, flags, permissions); }

int open64(const char *name, int flags, ...) { PERMISSIONS(flags) return opened(AT_FDCWD, name, flags, permissions); }

int openat(int at, const char *name, int flags, ...) { PERMISSIONS(flags) return opened(at, name, flags, permissions); }

int openat64(int at, const char *name, int flags, ...) { PERMISSIONS(flags) return opened(at, name, flags, permissions); }

int creat(const char *name, mode_t permissions) {
    return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, permissions);
}

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char path[PATH_MAX], other[PATH_MAX];
    int seen = path_at(from_at, from, path) && path_at(to_at, to, other);
    if (seen) FAIL(strike(0, NULL), -1);
    int done = syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    if (seen && !done) logged("rename", path, other, 0, NULL, 0);
    return done;
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int renameat(int from_at, const char *from, int to_at, const char *to) { return renameat2(from_at, from, to_at, to, 0); }

int mkdirat(int at, const char *name, mode_t permissions) {
    char path[PATH_MAX];
    int seen = path_at(at, name, path);
    if (seen) FAIL(strike(1, NULL), -1);
    int done = syscall(SYS_mkdirat, at, name, permissions);
    if (seen && !done) logged("mkdir", path, "", 0, NULL, 0);
    return done;
}

int mkdir(const char *name, mode_t permissions) { return mkdirat(AT_FDCWD, name, permissions); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    char path[PATH_MAX], other[PATH_MAX];
    int seen = path_at(to_at, to, other);
    if (seen) FAIL(strike(1, NULL), -1);
    int known = path_at(from_at, from, path);
    int done = syscall(SYS_linkat, from_at, from, to_at, to, flags);
    if (seen && known && !done) logged("link", path, other, 0, NULL, 0);
    return done;
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *from, int at, const char *to) {
    char path[PATH_MAX];
    if (path_at(at, to, path)) FAIL(strike(1, NULL), -1);
    return syscall(SYS_symlinkat, from, at, to);
}

int symlink(const char *from, const char *to) { return symlinkat(from, AT_FDCWD, to); }

int unlinkat(int at, const char *name, int flags) {
    char path[PATH_MAX];
    int seen = path_at(at, name, path);
    if (seen) FAIL(strike(0, NULL), -1);
    int done = syscall(SYS_unlinkat, at, name, flags);
    if (seen && !done) logged("unlink", path, "", 0, NULL, 0);
    return done;
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
