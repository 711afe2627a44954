/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * preempt: the forced edge RUNNING -> RUNNABLE.
 *
 * Does:    1. a request is (worker, its RUNNING word): it stands until it is met
 *             or the word has moved on, so it cannot hit a later stint;
 *          2. SCX_KICK_PREEMPT only hurries: it hits whoever runs by then, so
 *             dispatch gives a wrong victim the rest of its slice back;
 *          3. tick looks again: a kick is dropped while a higher class runs.
 * State:   umcg_worker.request, umcg_cpu.kick_idx.
 * Called from: SYSCALL program umcg_kick, timer (quantum), dispatch, tick.
 * Races:   kick against block: the word moved, the request is void.
 * Counters: preempt_forced, kick_missed.
 */
#ifndef __UMCG_PREEMPT_BPF_H
#define __UMCG_PREEMPT_BPF_H

#include "word.bpf.h"
#include "record.bpf.h"

static __always_inline bool request_stands(const struct umcg_worker *w)
{
	u64 request = READ_ONCE(w->request);

	return request && request == READ_ONCE(w->word);
}

/* 0, or -1 when the worker does not run. */
static __always_inline s32 request_preempt(struct umcg_worker *w, u32 idx, s32 cpu)
{
	u64 word = READ_ONCE(w->word);

	if (word_state(word) != UMCG_RUNNING)
		return -1;
	umcg_xchg(&w->request, word);
	WRITE_ONCE(cpu_rec(cpu)->kick_idx, idx);
	kick(cpu, SCX_KICK_PREEMPT);
	return 0;
}

#endif /* __UMCG_PREEMPT_BPF_H */
