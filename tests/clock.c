/* Preloaded, it makes the wall clock of one process wrong: by as many seconds as the file $CLOCK_FILE says at that moment.
   (libfaketime 0.9.10 breaks sleeping where it is told to leave the monotonic clock alone.) No header is needed: tcc alone builds it. */

typedef struct { long s, ns; } Time;
extern long syscall(long number, ...);
extern char *getenv(const char *name);
extern int open(const char *path, int flags), close(int fd);
extern long read(int fd, void *into, unsigned long size), atol(const char *text);

#if defined(__x86_64__)
#define CLOCK_GETTIME 228
#else /* aarch64, riscv64 */
#define CLOCK_GETTIME 113
#endif

static long offset(void) {
    char text[32] = {0}, *path = getenv("CLOCK_FILE");
    int fd = path ? open(path, 0) : -1;
    if (fd < 0) return 0;
    read(fd, text, sizeof text - 1);
    close(fd);
    return atol(text);
}

int clock_gettime(int clock, Time *time) {
    int failed = syscall(CLOCK_GETTIME, (long)clock, time);
    if (!failed && clock == 0) time->s += offset();
    return failed;
}

long time(long *into) {
    Time now;
    clock_gettime(0, &now);
    if (into) *into = now.s;
    return now.s;
}

int gettimeofday(Time *time, void *zone) {
    clock_gettime(0, time);
    time->ns /= 1000;
    return 0;
}
