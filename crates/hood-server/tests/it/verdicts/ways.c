/* Every way to end, by the name that is its first argument. It is built by an environment's compiler,
   and by the host's into an image of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void take_memory(void)
{
    size_t size = 1u << 20;
    for (;;) {
        char *block = malloc(size);
        if (block == NULL)
            continue;
        for (size_t i = 0; i < size; i += 512)
            *(volatile char *)(block + i) = 1;
    }
}

static void flood(long megabytes)
{
    static char block[1 << 20];
    memset(block, 'o', sizeof block);
    for (long i = 0; i < megabytes; i++)
        if (fwrite(block, 1, sizeof block, stdout) != sizeof block)
            exit(9);
    fflush(stdout);
}

static int is(const char *way, const char *name)
{
    return strcmp(way, name) == 0;
}

int main(int argc, char **argv)
{
    const char *way = argc > 1 ? argv[1] : "";
    if (is(way, "succeed")) {
        puts("fine");
        return 0;
    }
    if (is(way, "exit"))
        return 3;
    if (is(way, "signal"))
        raise(SIGSEGV);
    if (is(way, "sigsys"))
        raise(SIGSYS);
    if (is(way, "sleep"))
        for (;;)
            pause();
    if (is(way, "stubborn")) {
        signal(SIGTERM, SIG_IGN);
        for (;;)
            pause();
    }
    if (is(way, "spin"))
        for (volatile unsigned long i = 0;; i++)
            ;
    if (is(way, "memory"))
        take_memory();
    if (is(way, "memory of a child")) {
        pid_t child = fork();
        if (child == 0)
            take_memory();
        waitpid(child, NULL, 0);
        return 0;
    }
    if (is(way, "flood")) {
        flood(8);
        return 0;
    }
    if (is(way, "bomb"))
        for (;;)
            fork();
    if (is(way, "disk")) {
        static char block[65536];
        int fd = open("/tmp/x", O_WRONLY | O_CREAT, 0600);
        while (write(fd, block, sizeof block) > 0)
            ;
        printf("%d\n", errno);
        return 0;
    }
    if (is(way, "leave")) {
        if (fork() == 0) {
            setsid();
            sleep(60);
        }
        puts("done");
        return 0;
    }
    if (is(way, "foreign")) {
        long answer;
        /* int 0x80 with the i386 number of getpid. */
        __asm__ volatile("int $0x80" : "=a"(answer) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
        printf("survived %ld\n", answer);
        return 0;
    }
    if (is(way, "echo")) {
        int byte;
        while ((byte = getchar()) != EOF)
            putchar(byte);
        return 0;
    }
    return 64;
}
