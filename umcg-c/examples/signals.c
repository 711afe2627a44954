/* Two hogs on one server, preempted by a signal of the application's own:
 * signals SIGALRM | SIGPROF | SIGVTALRM | timer
 *
 * The first three are timers of the process: the signal goes to any thread that does
 * not block it, so all but the workers block it. `timer` is one per worker.
 *
 * A period shorter than what a preemption takes leaves the workers no time at all. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <umcg.h>

static umcg_group *group;
static volatile int started[2], turns[2];
static int number, which = -1;

static void *hog(void *arg)
{
	int me = (int)(long)arg;
	timer_t timer;
	sigset_t set;

	if (umcg_register_worker(group, me, NULL))
		return NULL;
	if (which < 0 && umcg_thread_timer(CLOCK_THREAD_CPUTIME_ID, 10000000, number, &timer))
		return NULL;
	sigemptyset(&set);
	sigaddset(&set, number);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	started[me] = 1;
	/* No call of the library: only the signal lets the other one run. */
	while (turns[0] < 5 || turns[1] < 5)
		if (started[!me] && turns[me] < 5)
			turns[me]++;
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (which < 0)
		timer_delete(timer);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct { const char *name; int number, which; } kinds[] = {
		{ "SIGALRM", SIGALRM, ITIMER_REAL },
		{ "SIGPROF", SIGPROF, ITIMER_PROF },
		{ "SIGVTALRM", SIGVTALRM, ITIMER_VIRTUAL },
		{ "timer", SIGUSR1, -1 },
	};
	struct itimerval every = { { 0, 10000 }, { 0, 10000 } };
	struct umcg_event event;
	pthread_t thread[2];
	sigset_t set;
	int live = 2, preempted = 0;

	for (unsigned i = 0; argc > 1 && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(argv[1], kinds[i].name)) {
			number = kinds[i].number;
			which = kinds[i].which;
		}
	if (!number || umcg_group_create(NULL, &group) || umcg_register_server(group, NULL) ||
	    umcg_kick_on(number))
		return 1;
	sigemptyset(&set);
	sigaddset(&set, number);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (long i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, hog, (void *)i);
	if (which >= 0)
		setitimer(which, &every, NULL);
	while (live) {
		if (umcg_next_event(UMCG_FOREVER, &event) ||
		    (event.reason != UMCG_REASON_EXITED &&
		     umcg_run(event.worker, UMCG_FOREVER, &event)))
			continue;
		live -= event.reason == UMCG_REASON_EXITED;
		preempted += event.reason == UMCG_REASON_PREEMPTED;
	}
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	printf("both finished, preempted: %s\ndone\n", preempted ? "yes" : "no");
	return !preempted;
}
