/* All calls of umcg.h, with what each answers who must not make it. calls [kernel]: served by the
 * daemon, or it fails. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <umcg.h>

#include "check.h"

#define NOBODY UINT64_C(0x7fff00000001)
#define MS UINT64_C(1000000)

static umcg_group *group;
static umcg_id server, partner;
static volatile int woken, sent, kicked;
/* News of the other worker that came while one was awaited; each is told once. */
static struct umcg_event kept;

/* What no thread may do that is no member. */
static void stranger(void)
{
	struct umcg_event event;

	CHECK(umcg_self() == 0);
	CHECK(umcg_run(NOBODY, 0, &event) == -ESRCH);
	CHECK(umcg_next_event(0, &event) == -ESRCH);
	CHECK(umcg_wait(0) == -ESRCH);
	CHECK(umcg_switch(NOBODY, 0) == -ESRCH);
	CHECK(umcg_yield() == -ESRCH);
	CHECK(umcg_kick_self() == -ESRCH);
	CHECK(umcg_unregister() == -ESRCH);
	CHECK(umcg_preempt_enable() == -EINVAL);
}

/* Hands the slot back until who handed it over has left. */
static void *second(void *arg)
{
	int error;

	(void)arg;
	CHECK(umcg_register_worker(group, 2, &partner) == 0);
	CHECK(umcg_wait(UMCG_FOREVER) == 0);
	woken = 1;
	do {
		error = umcg_wait(umcg_now() + 5 * MS);
		CHECK(error == 0 || error == -ETIMEDOUT);
	} while (!kicked);
	CHECK(umcg_unregister() == 0);
	CHECK(umcg_self() == 0);
	return NULL;
}

static void *first(void *arg)
{
	struct umcg_event event;
	uint64_t until;
	umcg_id me;
	int error;

	(void)arg;
	stranger();
	CHECK(umcg_register_worker(NULL, 1, &me) == -EINVAL);
	CHECK(umcg_register_worker(group, 1, &me) == 0);
	CHECK(me != 0 && umcg_self() == me);
	CHECK(umcg_register_worker(group, 1, NULL) == -EEXIST);
	CHECK(umcg_register_server(group, NULL) == -EEXIST);
	CHECK(umcg_self() == me);
	/* A server's calls. */
	CHECK(umcg_run(me, 0, &event) == -ESRCH);
	CHECK(umcg_next_event(0, &event) == -ESRCH);

	CHECK(umcg_wait(0) == -ETIMEDOUT);
	until = umcg_now() + 5 * MS;
	CHECK(umcg_wait(until) == -ETIMEDOUT && umcg_now() >= until);
	CHECK(umcg_wake(group, me) == 0);
	CHECK(umcg_wait(UMCG_FOREVER) == 0); /* it was remembered */
	CHECK(umcg_wait(0) == -ETIMEDOUT);   /* once */
	CHECK(umcg_switch(me, UMCG_FOREVER) == -EDEADLK);
	CHECK(umcg_switch(NOBODY, UMCG_FOREVER) == -ESRCH);
	CHECK(umcg_switch(server, UMCG_FOREVER) == -EINVAL);

	/* The second one waits already, or is on its way there. */
	do {
		error = umcg_switch(partner, umcg_now() + 20 * MS);
		CHECK(error == 0 || error == -EBUSY || error == -ETIMEDOUT);
		if (error == -EBUSY)
			CHECK(umcg_yield() == 0);
	} while (!woken);

	umcg_preempt_disable();
	umcg_preempt_disable();
	CHECK(umcg_preempt_enable() == 0);
	CHECK(umcg_preempt_enable() == 0);
	CHECK(umcg_preempt_enable() == -EINVAL);
	umcg_set_key(7);
	umcg_set_key(UMCG_KEY_NONE);
	CHECK(umcg_kick_self() == 0);
	/* Only the kick of another thread ends this. */
	while (!kicked)
		umcg_wait(0);
	CHECK(umcg_yield() == 0);
	return NULL; /* its end unregisters it */
}

static void *kicker(void *arg)
{
	umcg_id worker = *(umcg_id *)arg;
	int error;

	while ((error = umcg_kick(group, worker)) == -EBUSY)
		usleep(500);
	CHECK(error == 0);
	sent = 1;
	return NULL;
}

/* Runs `who` until it leaves for one of the `wanted` reasons: it may have to wait for a page. */
static uint32_t run(umcg_id who, uint32_t wanted)
{
	struct umcg_event event;
	int error;

	for (;;) {
		error = umcg_run(who, umcg_now() + 200 * MS, &event);
		CHECK(error == 0 || error == -EBUSY || error == -EAGAIN);
		if (!error && event.worker == who && (wanted >> event.reason & 1))
			return event.reason;
		do {
			error = umcg_next_event(umcg_now() + 20000 * MS, &event);
			CHECK(error == 0 || error == -EAGAIN);
			if (!error && event.worker != who)
				kept = event;
		} while (error || event.worker != who);
	}
}

static void configs(void)
{
	struct umcg_config config = { .size = sizeof(config) - 1 };
	umcg_group *none = NULL;

	CHECK(umcg_group_create(NULL, NULL) == -EINVAL);
	CHECK(umcg_group_create(&config, &none) == -EPROTO);
	config.size = sizeof(config);
	config.flags = 0x80;
	CHECK(umcg_group_create(&config, &none) == -EPROTO);
	config.flags = 0;
	config.idle = 3;
	CHECK(umcg_group_create(&config, &none) == -EINVAL);
	config.idle = 0;
	config.quantum_ns = UMCG_QUANTUM_MIN_NS - 1000;
	CHECK(umcg_group_create(&config, &none) == -ERANGE);
	config.quantum_ns = 0;
	config.max_members = 65536;
	CHECK(umcg_group_create(&config, &none) == -EINVAL);
	CHECK(none == NULL);
	CHECK(umcg_group_open(-1, &none) == -EINVAL);
	CHECK(umcg_group_open(0, &none) == -EINVAL && none == NULL);
	CHECK(umcg_group_fd(NULL) == -EINVAL && umcg_group_mode(NULL) == -EINVAL);
	CHECK(umcg_group_quantum(NULL, NULL) == -EINVAL);
	CHECK(umcg_wake(NULL, 1) == -EINVAL && umcg_kick(NULL, 1) == -EINVAL);
	CHECK(umcg_state(NULL, 1, NULL) == -EINVAL);
	CHECK(umcg_register_server(NULL, NULL) == -EINVAL);
	CHECK(umcg_kick_on(SIGKILL) == -EINVAL);
}

/* What a server may do, and what it may not. */
static void as_server(umcg_group *opened)
{
	struct umcg_snapshot state;
	struct umcg_event event;

	CHECK(umcg_register_server(opened, &server) == 0);
	CHECK(umcg_self() == server);
	CHECK(umcg_register_server(group, NULL) == -EEXIST);
	/* A worker's calls. */
	CHECK(umcg_wait(0) == -ESRCH && umcg_yield() == -ESRCH);
	CHECK(umcg_switch(NOBODY, 0) == -ESRCH && umcg_kick_self() == -ESRCH);
	CHECK(umcg_run(NOBODY, 0, &event) == -ESRCH);
	CHECK(umcg_run(server, 0, &event) == -EINVAL);
	CHECK(umcg_run_listed(NOBODY, 0, &event) == -ESRCH);
	CHECK(umcg_kick(group, server) == -EINVAL);
	CHECK(umcg_next_event(0, &event) == -ETIMEDOUT);
	CHECK(umcg_wake(group, server) == 0);
	CHECK(umcg_next_event(UMCG_FOREVER, &event) == -EAGAIN);
	CHECK(umcg_state(group, server, &state) == 0 && state.state == UMCG_RUNNING);
}

/* Serves both: until the first one was forced off by itself, by a kick, until they have left. */
static void serve(umcg_id first_id, int kernel)
{
	struct umcg_event event = { .worker = first_id };
	pthread_t other;

	for (int off = 0, old = 0; !off; old = 0) {
		int error = umcg_run(event.worker, umcg_now() + 20000 * MS, &event);

		CHECK(error == 0 || error == -EBUSY || error == -EAGAIN);
		off = !error && event.worker == first_id &&
		      event.reason == UMCG_REASON_PREEMPTED && woken &&
		      (!kernel || event.source == UMCG_SOURCE_SIGNAL);
		while (!off && !old) {
			error = umcg_next_event(umcg_now() + 20000 * MS, &event);
			CHECK(error == 0 || error == -EAGAIN);
			old = !error;
		}
	}
	CHECK(pthread_create(&other, NULL, kicker, &first_id) == 0);
	/* By the kick, or by the time of the run, when it is tried again. */
	do
		run(first_id, 1 << UMCG_REASON_PREEMPTED);
	while (!sent);
	pthread_join(other, NULL);
	kicked = 1;
	for (int live = 2; live;) {
		int error = 0;

		event = kept;
		kept.worker = 0;
		if (!event.worker)
			error = umcg_next_event(umcg_now() + 20000 * MS, &event);
		CHECK(error == 0 || error == -EAGAIN);
		if (!error && event.reason != UMCG_REASON_EXITED)
			error = umcg_run(event.worker, UMCG_FOREVER, &event);
		CHECK(error == 0 || error == -EBUSY || error == -EAGAIN || error == -ESRCH);
		live -= !error && event.reason == UMCG_REASON_EXITED;
	}
}

int main(int argc, char **argv)
{
	int kernel = argc > 1 && !strcmp(argv[1], "kernel");
	struct umcg_config config = { .size = sizeof(config), .name = "calls", .quantum_ns = 500 * MS };
	struct umcg_snapshot state;
	struct umcg_event event;
	pthread_t threads[2];
	umcg_group *opened;
	umcg_id workers[2] = { 0 };
	uint64_t quantum = 1;

	configs();
	stranger();
	config.flags = kernel ? 0 : UMCG_FUTEX_ONLY;
	CHECK(umcg_group_create(&config, &group) == 0);
	CHECK((umcg_group_mode(group) != UMCG_MODE_FUTEX_ONLY) == kernel);
	CHECK(umcg_group_quantum(group, &quantum) == 0);
	CHECK(quantum == (kernel ? 500 * MS : 0));
	CHECK(umcg_group_fd(group) >= 0);
	CHECK(umcg_group_open(umcg_group_fd(group), &opened) == 0);
	CHECK(umcg_group_mode(opened) == umcg_group_mode(group));
	CHECK(umcg_state(group, NOBODY, &state) == -ESRCH);
	CHECK(umcg_wake(group, NOBODY) == -ESRCH && umcg_kick(group, NOBODY) == -ESRCH);

	as_server(opened);
	CHECK(pthread_create(&threads[1], NULL, second, NULL) == 0);
	CHECK(umcg_next_event(UMCG_FOREVER, &event) == 0);
	CHECK(event.cookie == 2);
	workers[1] = event.worker;
	run(workers[1], 1 << UMCG_REASON_WAITS);
	CHECK(pthread_create(&threads[0], NULL, first, NULL) == 0);
	CHECK(umcg_next_event(UMCG_FOREVER, &event) == 0);
	CHECK(event.cookie == 1);
	workers[0] = event.worker;
	CHECK(umcg_state(group, workers[0], &state) == 0);
	CHECK(state.state == UMCG_RUNNABLE || state.state == UMCG_BLOCKED);
	CHECK(umcg_kick(group, workers[0]) == -EBUSY);
	serve(workers[0], kernel);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK(umcg_state(group, workers[0], &state) == -ESRCH);
	CHECK(umcg_run(workers[0], 0, &event) == -ESRCH);
	/* A handle goes, the member stays. */
	umcg_group_close(opened);
	CHECK(umcg_self() == server);
	CHECK(umcg_next_event(0, &event) == -ETIMEDOUT);
	CHECK(umcg_unregister() == 0);
	CHECK(umcg_list(group, NULL, 0) == 0);
	stranger();
	umcg_group_close(group);
	umcg_group_close(NULL);
	CHECK(!strcmp(umcg_strerror(0), "success"));
	CHECK(strcmp(umcg_strerror(-ESRCH), umcg_strerror(-EBUSY)));
	printf("all calls\ndone\n");
	return 0;
}
