#include <stdio.h>

int main(int argc, char **argv)
{
    (void)argv;
    printf("hello from C, %d arguments\n", argc - 1);
    return 0;
}
