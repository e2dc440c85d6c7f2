/* The program that attacks its sandbox. Static, so that its image needs nothing else.
 *
 * Each attack prints "held: WHAT" or "BROKEN: WHAT"; a test asserts that there is the first and none
 * of the second. What must be seen from outside is left standing with pause(). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <mqueue.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void verdict(int held, const char *what, long detail) {
    printf("%s: %s (%ld, %s)\n", held ? "held" : "BROKEN", what, detail, strerror(errno));
    fflush(stdout);
}

/* It must fail, with any error. */
static void refused(const char *what, long result) { verdict(result < 0, what, result); }

/* It must fail with this very error. */
static void refused_with(const char *what, long result, int error) {
    verdict(result < 0 && errno == error, what, result);
}

static void works(const char *what, long result) { verdict(result >= 0, what, result); }

/* ---- the agent ---- */

static int reach_agent(void) {
    refused("kill 1", kill(1, 0));
    refused("kill 1 TERM", kill(1, SIGTERM));
    refused("tgkill 1", syscall(SYS_tgkill, 1, 1, SIGTERM));
    union sigval value = {.sival_int = 1};
    refused("sigqueue 1", sigqueue(1, SIGUSR1, value));
    refused("ptrace 1", ptrace(PTRACE_SEIZE, 1, 0, 0));
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    refused("process_vm_readv 1", syscall(SYS_process_vm_readv, 1, &here, 1, &there, 1, 0));
    struct rlimit limit = {1, 1};
    refused("prlimit 1", prlimit(1, RLIMIT_NOFILE, &limit, 0));
    refused("setpriority 1", setpriority(PRIO_PROCESS, 1, 19));
    struct sched_param param = {0};
    refused("SCHED_IDLE 1", syscall(SYS_sched_setscheduler, 1, SCHED_IDLE, &param));
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    refused("affinity 1", syscall(SYS_sched_setaffinity, 1, sizeof cpus, &cpus));
    refused("ioprio 1", syscall(SYS_ioprio_set, 1, 1, 3 << 13));
    refused("process_madvise", syscall(440, -1, 0, 0, 0, 0));
    refused("open /proc/1", open("/proc/1", O_RDONLY));
    refused("open /proc/1/timerslack_ns", open("/proc/1/timerslack_ns", O_WRONLY));
    refused("open /proc/1/mem", open("/proc/1/mem", O_RDWR));
    refused("open /proc/1/oom_score_adj", open("/proc/1/oom_score_adj", O_WRONLY));
    int pidfd = syscall(SYS_pidfd_open, 1, 0);
    refused("pidfd signal 1", pidfd < 0 ? -1 : syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, 0, 0));
    refused("pidfd_getfd 1", syscall(438, pidfd, 0, 0));
    /* Signals by way of a socket's owner: accepted, never delivered. The test sees the agent live. */
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    fcntl(pair[0], F_SETOWN, 1);
    fcntl(pair[0], F_SETSIG, SIGTERM);
    fcntl(pair[0], F_SETFL, O_ASYNC | O_NONBLOCK);
    write(pair[1], "x", 1);
    kill(-1, SIGCONT);
    return 0;
}

static int proc_view(void) {
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    int strangers = 0;
    while ((entry = readdir(dir))) {
        int pid = atoi(entry->d_name);
        if (pid && pid != getpid()) strangers++;
    }
    verdict(strangers == 0, "other processes in /proc", strangers);
    struct stat found;
    refused("stat /proc/1", stat("/proc/1", &found));
    return 0;
}

/* ---- the host ---- */

static int reach_host(void) {
    static const char *const files[] = {
        "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/hostname",
        "/proc/sys/user/max_user_namespaces", "/proc/sys/user/max_inotify_instances", "/proc/sysrq-trigger",
        "/proc/irq/0/smp_affinity", "/proc/bus", "/bin/adversary", "/new", "/proc/new", "/dev/new", "/bin/new",
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        refused(files[i], open(files[i], O_WRONLY | O_CREAT, 0600));
    refused("/sys", open("/sys", O_RDONLY));
    refused("release_agent", open("/sys/fs/cgroup/release_agent", O_WRONLY));
    char buffer[64];
    struct statvfs system;
    statvfs("/proc/sys", &system);
    verdict(system.f_flag & ST_RDONLY, "/proc/sys is read-only", system.f_flag);
    static const char *const covered[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kallsyms", "/proc/kmsg"};
    int present = 0;
    for (size_t i = 0; i < sizeof covered / sizeof *covered; i++) {
        struct stat found;
        if (stat(covered[i], &found) < 0) continue;
        present++;
        verdict(S_ISCHR(found.st_mode), covered[i], found.st_mode);
    }
    verdict(present > 0, "this kernel has something to cover", present);
    int fd = open("/proc/kcore", O_RDONLY);
    verdict(fd < 0 || read(fd, buffer, sizeof buffer) <= 0, "read /proc/kcore", fd);
    fd = open("/proc/keys", O_RDONLY);
    verdict(fd < 0 || read(fd, buffer, sizeof buffer) <= 0, "read /proc/keys", fd);
    refused("device node", mknod("/tmp/device", S_IFCHR | 0666, 1 << 8 | 3));
    refused("device node in /eval", mknod("/eval/device", S_IFBLK | 0666, 8 << 8));
    int devices = 0;
    DIR *dir = opendir("/dev");
    struct dirent *entry;
    while ((entry = readdir(dir))) devices += entry->d_name[0] != '.';
    verdict(devices == 10, "entries of /dev", devices);
    works("open /dev/null", open("/dev/null", O_RDWR));
    works("open /dev/urandom", open("/dev/urandom", O_RDONLY));
    works("write /tmp", open("/tmp/x", O_CREAT | O_WRONLY, 0600));
    works("write /dev/shm", open("/dev/shm/x", O_CREAT | O_WRONLY, 0600));
    works("write /eval", open("/eval/x", O_CREAT | O_WRONLY, 0600));
    gethostname(buffer, sizeof buffer);
    verdict(!strcmp(buffer, "fumehood"), "hostname", 0);
    return 0;
}

static void print_lines(const char *path, const char *const *starts) {
    char line[512];
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        for (const char *const *start = starts; *start; start++)
            if (!strncmp(line, *start, strlen(*start))) fputs(line, stdout);
    if (file) fclose(file);
}

static int identity(void) {
    static const char *const wanted[] = {"Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:", "SigBlk", "SigIgn", 0};
    static const char *const all[] = {"", 0};
    print_lines("/proc/self/status", wanted);
    printf("uid_map");
    print_lines("/proc/self/uid_map", all);
    printf("cgroup ");
    print_lines("/proc/self/cgroup", all);
    refused("setuid 0", setuid(0));
    refused("setresuid 0", setresuid(0, 0, 0));
    gid_t group = 0;
    refused("setgroups", setgroups(1, &group));
    verdict(getsid(0) == getpid(), "a session of its own", getsid(0));
    int open_fds = 0;
    for (int fd = 0; fd < 1024; fd++) open_fds += fcntl(fd, F_GETFD) >= 0;
    verdict(open_fds == 3, "descriptors", open_fds);
    char path[64] = {0};
    for (int fd = 0; fd < 3; fd++) {
        char name[32];
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        memset(path, 0, sizeof path);
        readlink(name, path, sizeof path - 1);
        verdict(!strncmp(path, "pipe:", 5), "a pipe", fd);
    }
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    printf("core %ld %ld\n", (long)limit.rlim_cur, (long)limit.rlim_max);
    getrlimit(RLIMIT_SIGPENDING, &limit);
    verdict(limit.rlim_max == 256, "pending signals", limit.rlim_max);
    getrlimit(RLIMIT_MSGQUEUE, &limit);
    verdict(limit.rlim_max == 0, "message queues", limit.rlim_max);
    return 0;
}

/* ---- system calls ---- */

static int namespaces(void) {
    static const int flags[] = {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET,
                                CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        refused_with("unshare", unshare(flags[i]), EPERM);
        long pid = syscall(SYS_clone, flags[i] | SIGCHLD, 0, 0, 0, 0);
        if (pid == 0) _exit(0);
        refused_with("clone", pid, EPERM);
    }
    struct { uint64_t words[11]; } arguments = {{CLONE_NEWUSER}};
    refused_with("clone3", syscall(SYS_clone3, &arguments, sizeof arguments), ENOSYS);
    refused_with("setns", setns(0, 0), EPERM);
    return 0;
}

/* Bounded by the namespace itself, whatever the filter says: run by a test with the filter's part in
 * view, through /proc/sys/user. */
static int counters(void) {
    static const char *const names[] = {"max_user_namespaces", "max_mnt_namespaces", "max_pid_namespaces",
        "max_net_namespaces", "max_ipc_namespaces", "max_uts_namespaces", "max_cgroup_namespaces",
        "max_inotify_instances", "max_inotify_watches", "max_fanotify_groups"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        long value = -1;
        snprintf(path, sizeof path, "/proc/sys/user/%s", names[i]);
        FILE *file = fopen(path, "r");
        if (file) fscanf(file, "%ld", &value);
        printf("%s=%ld\n", names[i], value);
    }
    return 0;
}

/* The whole of what one process of an interpreter needs, written down a second time. */
static const long least[] = {
    SYS_execve, SYS_exit, SYS_exit_group, SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise,
    SYS_msync, SYS_futex, SYS_set_robust_list, SYS_set_tid_address, SYS_rseq, SYS_sched_yield,
    SYS_sched_getaffinity, SYS_getpid, SYS_getppid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
    SYS_uname, SYS_sysinfo, SYS_getrusage, SYS_times, SYS_getrandom, SYS_clock_gettime, SYS_clock_getres,
    SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday, SYS_getitimer, SYS_setitimer, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigtimedwait, SYS_rt_sigpending, SYS_sigaltstack,
    SYS_restart_syscall, SYS_kill, SYS_tgkill, SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64,
    SYS_pwrite64, SYS_lseek, SYS_openat, SYS_close, SYS_fstat, SYS_newfstatat, SYS_faccessat, SYS_readlinkat,
    SYS_getdents64, SYS_getcwd, SYS_chdir, SYS_mkdirat, SYS_unlinkat, SYS_fchmod, SYS_fchmodat, SYS_utimensat,
    SYS_ftruncate, SYS_fsync, SYS_fdatasync, SYS_umask, SYS_dup, SYS_dup3, SYS_pipe2, SYS_ppoll, SYS_pselect6,
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_socketpair, SYS_sendto, SYS_recvfrom,
    SYS_getsockname, SYS_renameat, SYS_clone, SYS_ioctl, SYS_fcntl, SYS_prlimit64,
#ifdef __x86_64__
    SYS_arch_prctl, SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_mkdir, SYS_rmdir, SYS_unlink,
    SYS_rename, SYS_chmod, SYS_dup2, SYS_pipe, SYS_poll, SYS_select, SYS_epoll_wait, SYS_alarm, SYS_time,
#endif
};

static int is_least(long number) {
    for (size_t i = 0; i < sizeof least / sizeof *least; i++)
        if (least[i] == number) return 1;
    return 0;
}

/* Every number that is not on the list, with arguments that no call takes: one that gets as far as looking
 * at them is let through. */
static int least_calls(void) {
    for (long number = 0; number < 500; number++) {
        /* uretprobe and uprobe pass every filter, by the kernel's own doing, and end whoever did not come
         * from a probe. */
        if (is_least(number) || number == 335 || number == 336) continue;
        long result = syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
        int stopped = errno == EPERM || errno == ENOSYS || errno == EAFNOSUPPORT || errno == EOPNOTSUPP;
        char what[32];
        snprintf(what, sizeof what, "system call %ld", number);
        verdict(result == -1 && stopped, what, result);
    }
    refused_with("fork", fork(), EPERM);
    refused_with("clone of a process", syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0), EPERM);
    refused_with("a socket", socket(AF_UNIX, SOCK_STREAM, 0), EAFNOSUPPORT);
    refused_with("one more filter", prctl(PR_SET_SECCOMP, 2, 0), EPERM);
    refused_with("to own signals", fcntl(0, F_SETOWN, getpid()), EPERM);
    refused_with("a lease", fcntl(0, F_SETLEASE, F_RDLCK), EPERM);
    refused("a strange ioctl", ioctl(0, TIOCSTI, "x"));
    refused_with("another", ioctl(0, FIOASYNC, "x"), ENOTTY);
    struct rlimit limit = {8, 8};
    refused_with("another limit", prlimit(0, RLIMIT_NOFILE, &limit, 0), EPERM);
    works("to ask for a limit", prlimit(0, RLIMIT_NOFILE, 0, &limit));
    int pair[2];
    works("a pair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    works("a word through it", send(pair[0], "x", 1, 0));
    refused_with("a descriptor through it", syscall(SYS_sendmsg, pair[0], 0, 0), EPERM);
    return 0;
}

static int system_calls(void) {
    static const struct { const char *name; long number; } denied[] = {
        {"mount", SYS_mount}, {"umount2", SYS_umount2}, {"pivot_root", SYS_pivot_root}, {"chroot", SYS_chroot},
        {"keyctl", SYS_keyctl}, {"add_key", SYS_add_key}, {"request_key", SYS_request_key},
        {"bpf", SYS_bpf}, {"perf_event_open", SYS_perf_event_open}, {"userfaultfd", SYS_userfaultfd},
        {"io_uring_setup", 425}, {"io_uring_enter", 426}, {"io_uring_register", 427},
        {"open_tree", 428}, {"move_mount", 429}, {"fsopen", 430}, {"fsconfig", 431}, {"fsmount", 432},
        {"fspick", 433}, {"mount_setattr", 442},
        {"ptrace", SYS_ptrace}, {"process_vm_readv", SYS_process_vm_readv},
        {"process_vm_writev", SYS_process_vm_writev}, {"process_madvise", 440}, {"kcmp", SYS_kcmp},
        {"pidfd_getfd", 438},
        {"init_module", SYS_init_module}, {"finit_module", SYS_finit_module}, {"kexec_load", SYS_kexec_load},
        {"reboot", SYS_reboot}, {"swapon", SYS_swapon}, {"sethostname", SYS_sethostname},
        {"settimeofday", SYS_settimeofday}, {"clock_settime", SYS_clock_settime}, {"adjtimex", SYS_adjtimex},
        {"open_by_handle_at", SYS_open_by_handle_at}, {"fanotify_init", SYS_fanotify_init},
        {"quotactl", SYS_quotactl}, {"syslog", SYS_syslog}, {"acct", SYS_acct}, {"seccomp", SYS_seccomp},
        {"vmsplice", SYS_vmsplice}, {"memfd_secret", 447},
#ifdef __x86_64__
        {"iopl", SYS_iopl}, {"modify_ldt", SYS_modify_ldt},
#endif
    };
    for (size_t i = 0; i < sizeof denied / sizeof *denied; i++)
        refused_with(denied[i].name, syscall(denied[i].number, -1, 0, 0, 0, 0, 0), EPERM);
    refused_with("an unknown call", syscall(999, 0, 0, 0), ENOSYS);
    static const int families[] = {AF_NETLINK, AF_PACKET, 38 /* AF_ALG */, 40 /* AF_VSOCK */, 44 /* AF_XDP */, 31};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        refused_with("socket family", socket(families[i], SOCK_RAW, 0), EAFNOSUPPORT);
    refused("icmp", socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    refused("raw", socket(AF_INET, SOCK_RAW, IPPROTO_TCP));
    refused("mptcp", socket(AF_INET, SOCK_STREAM, 262));
    refused_with("TIOCSTI", ioctl(0, TIOCSTI, "x"), EPERM);
    refused_with("prctl seccomp", prctl(PR_SET_SECCOMP, 2, 0, 0, 0), EPERM);
    refused_with("personality", syscall(SYS_personality, 0x0040000), EPERM);
    struct rlimit core = {0, 0};
    refused_with("setrlimit core", syscall(SYS_setrlimit, RLIMIT_CORE, &core), EPERM);
    refused_with("prlimit core", syscall(SYS_prlimit64, 0, RLIMIT_CORE, &core, 0), EPERM);
    works("getrlimit core", syscall(SYS_prlimit64, 0, RLIMIT_CORE, 0, &core));
    return 0;
}

static int foreign(const char *which) {
    printf("before\n");
    fflush(stdout);
#ifdef __x86_64__
    if (!strcmp(which, "x32")) syscall(0x40000000 | SYS_getpid);
    if (!strcmp(which, "i386")) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
    }
#endif
    if (!strcmp(which, "sigsys")) raise(SIGSYS);
    printf("BROKEN: still here\n");
    return 0;
}

/* ---- network ---- */

static int network(void) {
    struct ifreq requests[16];
    struct ifconf list = {.ifc_len = sizeof requests, .ifc_req = requests};
    int inet = socket(AF_INET, SOCK_STREAM, 0);
    ioctl(inet, SIOCGIFCONF, &list);
    int others = 0;
    for (size_t i = 0; i < list.ifc_len / sizeof *requests; i++) others += strcmp(requests[i].ifr_name, "lo") != 0;
    verdict(others == 0, "interfaces", others);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(53)};
    inet_pton(AF_INET, "192.0.2.1", &address.sin_addr);
    refused_with("connect", connect(inet, (struct sockaddr *)&address, sizeof address), ENETUNREACH);
    int server = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(4000);
    works("bind", bind(server, (struct sockaddr *)&address, sizeof address));
    works("listen", listen(server, 4));
    works("connect to itself", connect(inet, (struct sockaddr *)&address, sizeof address));
    return 0;
}

static int abstract_socket(const char *role) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0neighbour"};
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 10;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (!strcmp(role, "listen")) {
        bind(fd, (struct sockaddr *)&address, length);
        listen(fd, 4);
        printf("ready\n");
        fflush(stdout);
        pause();
    }
    refused("connect to a neighbour", connect(fd, (struct sockaddr *)&address, length));
    return 0;
}

/* ---- neighbours ---- */

static int watch_image(void) {
    int fd = inotify_init1(IN_NONBLOCK);
    int exclusive = open("/bin/adversary", O_RDONLY);
    flock(exclusive, LOCK_EX);
    inotify_add_watch(fd, "/bin/adversary", IN_ALL_EVENTS);
    inotify_add_watch(fd, "/bin", IN_ALL_EVENTS);
    char buffer[4096];
    while (read(fd, buffer, sizeof buffer) > 0) {}
    printf("watching\n");
    fflush(stdout);
    read(0, buffer, 1);
    long seen = read(fd, buffer, sizeof buffer);
    verdict(seen <= 0, "a neighbour's opens", seen);
    return 0;
}

static int lock_image(void) {
    int fd = open("/bin/adversary", O_RDONLY);
    works("lock that a neighbour holds", flock(fd, LOCK_EX | LOCK_NB));
    return 0;
}

/* ---- floods ---- */

static int disk_flood(void) {
    static char block[65536];
    long written = 0;
    static const char *const paths[] = {"/eval/a", "/tmp/a", "/dev/shm/a"};
    int error = 0;
    for (int i = 0; i < 3; i++) {
        int fd = open(paths[i], O_CREAT | O_WRONLY, 0600);
        for (;;) {
            long count = write(fd, block, sizeof block);
            if (count < 0) { error = errno; break; }
            written += count;
        }
    }
    printf("written=%ld errno=%d\n", written, error);
    return 0;
}

static int inode_flood(void) {
    long made = 0;
    char path[64];
    for (;; made++) {
        snprintf(path, sizeof path, "/tmp/%ld", made);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        if (fd < 0) break;
        close(fd);
    }
    printf("made=%ld errno=%d\n", made, errno);
    return 0;
}

static int fork_bomb(void) {
    long made = 0;
    for (;;) {
        int pid = fork();
        if (pid < 0) break;
        if (pid == 0) { pause(); _exit(0); }
        made++;
    }
    printf("made=%ld errno=%d\n", made, errno);
    fflush(stdout);
    return 0;
}

static _Noreturn int spread(void) {
    for (;;)
        if (fork() < 0) usleep(100);
}

static int hog(const char *how) {
    if (!strcmp(how, "child")) {
        int pid = fork();
        if (pid == 0) hog("here");
        int status;
        waitpid(pid, &status, 0);
        printf("child ended by %d\n", WTERMSIG(status));
        return 0;
    }
    if (!strcmp(how, "shm")) {
        int fd = open("/dev/shm/hog", O_CREAT | O_RDWR, 0600);
        static char block[65536];
        while (write(fd, block, sizeof block) > 0) {}
        printf("full\n");
        /* Long enough for an agent that can only look now and then. */
        fflush(stdout);
        usleep(300000);
        return 0;
    }
    if (!strcmp(how, "buffers")) {
        /* Everything that holds bytes in the kernel on our account, then anonymous memory. */
        struct rlimit limit = {65536, 65536};
        setrlimit(RLIMIT_NOFILE, &limit);
        static char block[65536];
        for (int i = 0; i < 100; i++) {
            int fds[2];
            if (pipe2(fds, O_NONBLOCK) == 0) while (write(fds[1], block, sizeof block) > 0) {}
            if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0)
                while (write(fds[1], block, sizeof block) > 0) {}
        }
    }
    for (;;) {
        char *block = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block != MAP_FAILED) memset(block, 1, 1 << 20);
    }
}

/* Takes what the kernel counts per user or per namespace until it says no, then stays. */
static int exhaust(void) {
    int inotify = 0, watches = 0, signals = 0, timers = 0, epolls = 0, fds = 0, last = -1;
    for (int fd; (fd = inotify_init1(0)) >= 0; inotify++) last = fd;
    for (char path[64]; watches < 100000; watches++) {
        snprintf(path, sizeof path, "/tmp/w%d", watches);
        close(open(path, O_CREAT | O_WRONLY, 0600));
        if (inotify_add_watch(last, path, IN_ALL_EVENTS) < 0) break;
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, 0);
    union sigval value = {0};
    while (signals < 200000 && sigqueue(getpid(), SIGRTMIN, value) == 0) signals++;
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    for (timer_t timer; timers < 100000 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0;) timers++;
    mqd_t queue = mq_open("/q", O_CREAT | O_RDWR, 0600, 0);
    refused("message queue", queue);
    refused("key", syscall(SYS_add_key, "user", "x", "y", 1, -1));
    void *locked = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    refused("lock 1 MiB", mlock(locked, 1 << 20));
    for (int fd; (fd = epoll_create1(0)) >= 0; epolls++) {}
    while (dup(0) >= 0) fds++;
    printf("inotify=%d watches=%d signals=%d timers=%d epolls=%d fds=%d\n", inotify, watches, signals, timers, epolls, fds);
    printf("exhausted\n");
    fflush(stdout);
    pause();
    return 0;
}

/* What outlives the process that made it, and is no file. */
enum { LEFT_KEY = 0x68656c64 };
static const char LEFT[] = "left by the build";

/* In this namespace, whoever made them. */
static int objects(const char *kind) {
    struct shm_info memory = {0};
    struct seminfo semaphores = {0};
    struct msginfo queues = {0};
    if (!strcmp(kind, "segments")) return shmctl(0, SHM_INFO, (void *)&memory) < 0 ? -1 : memory.used_ids;
    if (!strcmp(kind, "semaphore sets")) return semctl(0, 0, SEM_INFO, &semaphores) < 0 ? -1 : semaphores.semusz;
    return msgctl(0, MSG_INFO, (void *)&queues) < 0 ? -1 : queues.msgpool;
}

static const char *const KINDS[] = {"segments", "semaphore sets", "message queues"};

static int leave_objects(void) {
    int segment = shmget(LEFT_KEY, 1 << 20, IPC_CREAT | 0666), private = shmget(IPC_PRIVATE, 4096, 0666);
    char *memory = shmat(segment, 0, 0);
    if (memory == (void *)-1 || private < 0) return 2;
    strcpy(memory, LEFT);
    int semaphores = semget(LEFT_KEY, 1, IPC_CREAT | 0666), queue = msgget(LEFT_KEY, IPC_CREAT | 0666);
    struct { long type; char text[sizeof LEFT]; } message = {.type = 1};
    strcpy(message.text, LEFT);
    if (semctl(semaphores, 0, SETVAL, 7) || msgsnd(queue, &message, sizeof message.text, 0)) return 3;
    for (int i = 0; i < 3; i++) printf("%s: %d\n", KINDS[i], objects(KINDS[i]));
    refused("a POSIX queue", mq_open("/left", O_CREAT | O_RDWR, 0666, 0));
    return 0;
}

static int find_objects(void) {
    for (int i = 0; i < 3; i++) verdict(objects(KINDS[i]) == 0, KINDS[i], objects(KINDS[i]));
    refused("the build's segment", shmget(LEFT_KEY, 0, 0));
    refused("the build's semaphore", semget(LEFT_KEY, 0, 0));
    refused("the build's queue", msgget(LEFT_KEY, 0));
    refused("the build's POSIX queue", mq_open("/left", O_RDONLY));
    works("a segment of its own", shmget(LEFT_KEY, 4096, IPC_CREAT | IPC_EXCL | 0600));
    return 0;
}

static int modest(void) {
    works("inotify", inotify_init1(0));
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, 0);
    union sigval value = {0};
    works("sigqueue", sigqueue(getpid(), SIGRTMIN, value));
    works("epoll", epoll_create1(0));
    return 0;
}

/* What only Landlock stops: these files are its own by every mode and mount. */
static int landlocked(void) {
    int pid = fork();
    if (pid == 0) { pause(); _exit(0); }
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    refused_with("write to a child's comm", open(path, O_WRONLY), EACCES);
    works("write to its own comm", open("/proc/self/comm", O_WRONLY));
    kill(pid, SIGKILL);
    return 0;
}

/* ---- ends ---- */

static int survivor(void) {
    for (int i = 0; i < 3; i++)
        if (fork() == 0) {
            setsid();
            signal(SIGTERM, SIG_IGN);
            signal(SIGHUP, SIG_IGN);
            if (fork() == 0) for (;;) pause();
            for (;;) pause();
        }
    printf("leaving\n");
    return 0;
}

static _Noreturn int ignore_term(void) {
    signal(SIGTERM, SIG_IGN);
    printf("ready\n");
    fflush(stdout);
    for (;;) pause();
}

static void on_term(int signal) {
    (void)signal;
    write(1, "goodbye\n", 8);
    _exit(3);
}

static _Noreturn int handle_term(void) {
    signal(SIGTERM, on_term);
    printf("ready\n");
    fflush(stdout);
    for (;;) pause();
}

static int flood(long bytes, int both) {
    static char block[65536];
    memset(block, 'x', sizeof block);
    for (long left = bytes; left > 0;) {
        long count = write(1, block, left < (long)sizeof block ? left : (long)sizeof block);
        if (count <= 0) return 9;
        if (both) write(2, block, count);
        left -= count;
    }
    return 0;
}

static int tiny_writes(int count) {
    for (int i = 0; i < count; i++) {
        char line[16];
        int length = snprintf(line, sizeof line, "%d\n", i);
        write(1, line, length);
    }
    return 0;
}

/* What shells do with /dev/stdout. */
static int reopen(void) {
    works("open /dev/stdin", open("/dev/stdin", O_RDONLY | O_NONBLOCK));
    works("open /dev/stderr", open("/dev/stderr", O_WRONLY));
    int fd = open("/dev/stdout", O_WRONLY | O_TRUNC);
    works("open /dev/stdout", fd);
    write(fd, "again\n", 6);
    return 0;
}

static int64_t micros_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Says how long it has run, once that is long enough to be measured from outside too. */
static int measure_itself(void) {
    int64_t began = micros_now(), ran = 0;
    while (ran < 3000) ran = micros_now() - began;
    printf("%d\n", (int)ran);
    return 0;
}

static int echo(void) {
    char buffer[4096];
    ssize_t count;
    while ((count = read(0, buffer, sizeof buffer)) > 0) write(1, buffer, count);
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    const char *how = argc > 2 ? argv[2] : "";
    setvbuf(stdout, 0, _IOLBF, 0);
#define RUN(name, call) if (!strcmp(what, name)) return call
    RUN("exit", atoi(how));
    RUN("pid", (printf("%d\n", getpid()), 0));
    RUN("reach-agent", reach_agent());
    RUN("proc-view", proc_view());
    RUN("reach-host", reach_host());
    RUN("identity", identity());
    RUN("namespaces", namespaces());
    RUN("counters", counters());
    RUN("system-calls", system_calls());
    RUN("least-calls", least_calls());
    RUN("foreign", foreign(how));
    RUN("network", network());
    RUN("abstract", abstract_socket(how));
    RUN("watch-image", watch_image());
    RUN("lock-image", lock_image());
    RUN("disk-flood", disk_flood());
    RUN("inode-flood", inode_flood());
    RUN("fork-bomb", fork_bomb());
    RUN("spread", spread());
    RUN("hog", hog(how));
    RUN("exhaust", exhaust());
    RUN("leave-objects", leave_objects());
    RUN("find-objects", find_objects());
    RUN("modest", modest());
    RUN("landlocked", landlocked());
    RUN("survivor", survivor());
    RUN("ignore-term", ignore_term());
    RUN("handle-term", handle_term());
    RUN("flood", flood(atol(how), argc > 3));
    RUN("tiny-writes", tiny_writes(atoi(how)));
    RUN("echo", echo());
    RUN("reopen", reopen());
    RUN("signal", raise(atoi(how)));
    RUN("pause", (printf("ready\n"), pause()));
    RUN("spin", ({ for (;;) {} 0; }));
    RUN("measure-itself", measure_itself());
    RUN("close-all", (close(0), close(1), close(2), 0));
    RUN("arguments", ({ for (int i = 0; i < argc; i++) printf("[%s]\n", argv[i]);
                        extern char **environ;
                        for (char **e = environ; *e; e++) printf("<%s>\n", *e);
                        char cwd[256]; printf("{%s}\n", getcwd(cwd, sizeof cwd)); 0; }));
    return 99;
}
