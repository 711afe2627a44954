/* N:1 in C: one server runs three workers that take turns. */
#include <pthread.h>
#include <stdio.h>
#include <umcg.h>

#define WORKERS 3

static umcg_group *group;

static void *work(void *arg)
{
	long number = (long)arg;

	if (umcg_register_worker(group, number, NULL))
		return NULL;
	for (int turn = 0; turn < 2; turn++) {
		printf("worker %ld, turn %d\n", number, turn);
		umcg_yield();
	}
	return NULL; /* the end of the thread unregisters it */
}

int main(void)
{
	struct umcg_event event;
	pthread_t thread[WORKERS];
	int error, live = WORKERS;

	error = umcg_group_create(NULL, &group);
	if (!error)
		error = umcg_register_server(group, NULL);
	if (error) {
		fprintf(stderr, "%s\n", umcg_strerror(error));
		return 1;
	}
	for (long i = 0; i < WORKERS; i++)
		pthread_create(&thread[i], NULL, work, (void *)i);
	while (live) {
		if (umcg_next_event(UMCG_FOREVER, &event) ||
		    (event.reason != UMCG_REASON_EXITED &&
		     umcg_run(event.worker, UMCG_FOREVER, &event)))
			continue;
		live -= event.reason == UMCG_REASON_EXITED;
	}
	for (int i = 0; i < WORKERS; i++)
		pthread_join(thread[i], NULL);
	umcg_unregister();
	umcg_group_close(group);
	printf("done\n");
	return 0;
}
