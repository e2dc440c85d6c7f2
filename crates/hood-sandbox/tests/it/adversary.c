#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "hello")) { printf("hello %d\n", getpid()); return argc - 2; }
    if (argc > 1 && !strcmp(argv[1], "cat")) { char b[4096]; ssize_t n; while ((n = read(0, b, sizeof b)) > 0) write(1, b, n); return 0; }
    return 99;
}
