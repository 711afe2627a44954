/* umcg_list: nobody, a server, a server and a worker; less room than there are members. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <umcg.h>

#include "check.h"

static umcg_group *group;

static void *work(void *arg)
{
	(void)arg;
	umcg_register_worker(group, 7, NULL);
	return NULL;
}

int main(void)
{
	struct umcg_config config = { .size = sizeof(config), .flags = UMCG_FUTEX_ONLY };
	struct umcg_member members[4] = { 0 };
	struct umcg_event event;
	pthread_t thread;
	umcg_id id;

	CHECK(umcg_list(NULL, members, 4) == -EINVAL);
	CHECK(umcg_group_create(&config, &group) == 0);
	CHECK(umcg_group_bpf_denied(group) == 0);
	CHECK(umcg_list(group, NULL, 0) == 0);
	CHECK(umcg_list(group, NULL, 1) == -EINVAL);
	CHECK(umcg_register_server(group, &id) == 0);
	CHECK(umcg_list(group, members, 4) == 1);
	CHECK(members[0].id == id && members[0].kind == UMCG_SERVER);
	CHECK(members[0].state == UMCG_RUNNING && members[0].tid > 0);
	CHECK(pthread_create(&thread, NULL, work, NULL) == 0);
	CHECK(umcg_next_event(UMCG_FOREVER, &event) == 0);
	CHECK(umcg_list(group, members + 3, 1) == 2);
	CHECK(members[1].id == 0 && members[2].id == 0);
	CHECK(umcg_list(group, members, 4) == 2);
	for (int i = 0; i < 2; i++)
		if (members[i].kind == UMCG_WORKER)
			CHECK(members[i].id == event.worker && members[i].cookie == 7 &&
			      members[i].state == UMCG_RUNNABLE);
	CHECK(umcg_run(event.worker, UMCG_FOREVER, &event) == 0);
	CHECK(event.reason == UMCG_REASON_EXITED);
	pthread_join(thread, NULL);
	CHECK(umcg_list(group, members, 4) == 1);
	CHECK(umcg_unregister() == 0);
	umcg_group_close(group);
	printf("ok\n");
	return 0;
}
