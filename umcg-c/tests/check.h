/* What has to hold: else its line is printed, and the program ends with 1. Any thread. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <unistd.h>

#define CHECK(it)                                                                          \
	do {                                                                               \
		if (!(it)) {                                                               \
			printf("line %d: %s\n", __LINE__, #it);                            \
			fflush(stdout);                                                    \
			_exit(1);                                                          \
		}                                                                          \
	} while (0)

#endif /* CHECK_H */
