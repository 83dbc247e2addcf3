// Preloaded by the tests: makes the n-th call of one system function fail, for files below one directory.
//
// arm(function, number, kind, sticky, directory) resets the count; disarm() returns how many calls were counted.
// Kinds: an errno > 0; 0 counts only; -1 makes a write or read short. Sticky: every later call fails too, as on a disk
// that stays full.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char armed[32], place[4096];
static int at, count, kind, sticky;

void arm(const char *function, int number, int how, int stays, const char *directory) {
  pthread_mutex_lock(&lock);
  snprintf(armed, sizeof armed, "%s", function);
  snprintf(place, sizeof place, "%s", directory);
  at = number, kind = how, sticky = stays, count = 0;
  pthread_mutex_unlock(&lock);
}

int disarm(void) {
  pthread_mutex_lock(&lock);
  armed[0] = 0;
  int counted = count;
  pthread_mutex_unlock(&lock);
  return counted;
}

static int below(const char *path) { return strncmp(path, place, strlen(place)) == 0; }

static int hit_path(const char *function, const char *path) {
  int hit = 0;
  pthread_mutex_lock(&lock);
  if (strcmp(armed, function) == 0 && below(path)) {
    ++count;
    hit = count == at || (sticky && count > at);
  }
  pthread_mutex_unlock(&lock);
  return hit;
}

static int hit_descriptor(const char *function, int descriptor) {
  if (strcmp(armed, function) != 0) return 0;  // a race with arm() is the test's own mistake
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return hit_path(function, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL return errno = kind, -1

#define WRITER(name, family, parameters, call, call_half, descriptor) \
  ssize_t name parameters {                                           \
    if (hit_descriptor(family, descriptor)) {                         \
      if (kind > 0) FAIL;                                             \
      if (kind < 0) return REAL(name) call_half;                      \
    }                                                                 \
    return REAL(name) call;                                           \
  }

WRITER(write, "write", (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2 + 1), fd)
WRITER(pwrite, "pwrite", (int fd, const void *data, size_t size, off_t offset), (fd, data, size, offset),
       (fd, data, size / 2 + 1, offset), fd)
WRITER(pwrite64, "pwrite", (int fd, const void *data, size_t size, off64_t offset), (fd, data, size, offset),
       (fd, data, size / 2 + 1, offset), fd)

#define CALL(name, family, parameters, call, descriptor)      \
  int name parameters {                                       \
    if (kind > 0 && hit_descriptor(family, descriptor)) FAIL; \
    return REAL(name) call;                                   \
  }

CALL(fsync, "fsync", (int fd), (fd), fd)
CALL(fdatasync, "fsync", (int fd), (fd), fd)
CALL(ftruncate, "ftruncate", (int fd, off_t size), (fd, size), fd)
CALL(ftruncate64, "ftruncate", (int fd, off64_t size), (fd, size), fd)

int rename(const char *from, const char *to) {
  if (hit_path("rename", from) && kind > 0) FAIL;
  return REAL(rename)(from, to);
}

#define OPENER(name)                                     \
  int name(const char *path, int flags, ...) {           \
    va_list rest;                                        \
    va_start(rest, flags);                               \
    mode_t mode = flags & O_CREAT ? va_arg(rest, int) : 0; \
    va_end(rest);                                        \
    if (hit_path("open", path) && kind > 0) FAIL;        \
    return REAL(name)(path, flags, mode);                \
  }

OPENER(open)
OPENER(open64)

#define READER(name, offset_type)                                                                 \
  ssize_t name(int fd, const struct iovec *pieces, int piece_count, offset_type offset, int flags) { \
    if (hit_descriptor("preadv", fd)) {                                                           \
      if (kind > 0) FAIL;                                                                         \
      struct iovec half = {pieces[0].iov_base, pieces[0].iov_len / 2 + 1};                        \
      if (kind < 0) return REAL(name)(fd, &half, 1, offset, flags);                                      \
    }                                                                                             \
    return REAL(name)(fd, pieces, piece_count, offset, flags);                                           \
  }

READER(preadv2, off_t)
READER(preadv64v2, off64_t)
