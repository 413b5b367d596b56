/* Loaded before the cases by `benches/run instructions`: the same random numbers in every run, so that hash maps have the
 * same seeds, and what depends on their order takes the same instructions. */
#include <string.h>
#include <sys/types.h>

ssize_t getrandom(void *buffer, size_t length, unsigned int flags) {
    (void)flags;
    memset(buffer, 42, length);
    return (ssize_t)length;
}
