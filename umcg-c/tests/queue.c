/* umcg_queue: the order of the group's policy; wrong arguments; a group without a policy.
 * queue [kernel]: served by the daemon, or it fails. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <umcg.h>

#include "check.h"

#define WORKERS 4

static umcg_group *group;
static int order[WORKERS], ended;

static void *work(void *arg)
{
	long number = (long)arg;

	if (!umcg_register_worker(group, number, NULL))
		order[ended++] = (int)number;
	return NULL;
}

static void refusals(void)
{
	struct umcg_config config = { .size = sizeof(config), .flags = UMCG_FUTEX_ONLY };
	struct umcg_event event = { .worker = UINT64_C(1) << 32 | 77, .reason = UMCG_REASON_NEW };
	umcg_queue *queue;
	umcg_group *own;
	umcg_id worker;

	CHECK(umcg_group_create(&config, &own) == 0);
	CHECK(umcg_group_policy(own, NULL, 0) == 0);
	CHECK(umcg_queue_create(own, 1, &queue) == -EDOM);
	umcg_group_close(own);
	config.policy = "lfo";
	CHECK(umcg_group_create(&config, &own) == -EDOM);
	config.policy = "rr:slice_us=700";
	config.max_members = 76;
	CHECK(umcg_group_create(&config, &own) == 0);
	CHECK(umcg_queue_create(own, 0, &queue) == -EINVAL);
	CHECK(umcg_queue_create(own, 1, NULL) == -EINVAL);
	CHECK(umcg_queue_create(NULL, 1, &queue) == -EINVAL);
	CHECK(umcg_queue_create(own, 1, &queue) == 0);
	umcg_group_close(own);
	CHECK(umcg_queue_told(queue, NULL) == -EINVAL);
	CHECK(umcg_queue_told(queue, &event) == -ESRCH);
	event.worker--;
	event.reason = 99;
	CHECK(umcg_queue_told(queue, &event) == -EINVAL);
	CHECK(umcg_queue_put_back(queue, event.worker) == -ESRCH);
	CHECK(umcg_queue_pick(queue, &worker, NULL) == -EAGAIN);
	CHECK(umcg_queue_pick(queue, NULL, NULL) == -EINVAL);
	event.reason = UMCG_REASON_NEW;
	CHECK(umcg_queue_told(queue, &event) == 0);
	CHECK(umcg_queue_pick(queue, &worker, &event.run_ns) == 0);
	CHECK(worker == event.worker && event.run_ns == 700000);
	umcg_queue_free(queue);
	umcg_queue_free(NULL);
}

int main(int argc, char **argv)
{
	struct umcg_config config = { .size = sizeof(config), .policy = "lifo" };
	int kernel = argc > 1 && !strcmp(argv[1], "kernel"), told = 0, left = 0;
	struct umcg_event event;
	pthread_t threads[WORKERS];
	umcg_queue *queue;
	umcg_id worker;
	char text[3];

	refusals();
	config.flags = kernel ? 0 : UMCG_FUTEX_ONLY;
	CHECK(umcg_group_create(&config, &group) == 0);
	CHECK((umcg_group_mode(group) != UMCG_MODE_FUTEX_ONLY) == kernel);
	CHECK(umcg_group_policy(group, text, sizeof(text)) == 4 && !strcmp(text, "li"));
	CHECK(umcg_group_policy(group, NULL, 1) == -EINVAL);
	CHECK(umcg_queue_create(group, 1, &queue) == 0);
	CHECK(umcg_register_server(group, NULL) == 0);
	for (long i = 0; i < WORKERS; i++) {
		CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
		while (told <= i) {
			CHECK(umcg_next_event(UMCG_FOREVER, &event) == 0);
			CHECK(umcg_queue_told(queue, &event) == 0);
			told += event.reason == UMCG_REASON_NEW;
		}
	}
	while (left < WORKERS) {
		while (!umcg_next_event(0, &event))
			CHECK(umcg_queue_told(queue, &event) == 0);
		if (umcg_queue_pick(queue, &worker, NULL)) {
			if (!umcg_next_event(UMCG_FOREVER, &event))
				CHECK(umcg_queue_told(queue, &event) == 0);
		} else if (!umcg_run_listed(worker, UMCG_FOREVER, &event)) {
			CHECK(umcg_queue_ran(queue, &event) == 0);
			left += event.reason == UMCG_REASON_EXITED;
		}
	}
	for (int i = 0; i < WORKERS; i++) {
		pthread_join(threads[i], NULL);
		CHECK(order[i] == WORKERS - 1 - i);
	}
	umcg_queue_free(queue);
	CHECK(umcg_unregister() == 0);
	umcg_group_close(group);
	printf("last came first\ndone\n");
	return 0;
}
