/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Faults and mistakes on purpose, for tests: the numbers that BPF and the agent share.
 * docs/behaviours.md tells what each is; fault.bpf.h how it comes about.
 */
#ifndef __UMCG_INTF_FAULT_H
#define __UMCG_INTF_FAULT_H

/* What fails by itself now and then. The agent's own ones follow, in src/agent/faults.rs. */
enum umcg_fault {
	UMCG_FAULT_LIST_FULL,		/* a push of a notice is given up */
	UMCG_FAULT_DUE_FULL,		/* a push of who is due on a CPU is given up */
	UMCG_FAULT_BELL_FULL,		/* no message to a server that sleeps */
	UMCG_FAULT_TIMER_LATE,		/* a pass of a timer does nothing */
	UMCG_FAULT_TIMER_CLOCK,		/* a pass has another time than the machine's */
	UMCG_FAULT_KICK_LOST,		/* a CPU is not kicked */
	UMCG_FAULT_CLAIM_REFUSED,	/* somebody else was faster */
	UMCG_FAULT_MOVE_FAILS,		/* a chosen worker is not where it was */
	UMCG_NR_FAULTS,
};

/* One mistake each, that the tests have to find. */
enum umcg_plant {
	UMCG_PLANT_NONE,
	UMCG_PLANT_LOST_WAKE,
	UMCG_PLANT_DOUBLE_RUN,
	UMCG_PLANT_LEAKED_CLAIM,
	UMCG_PLANT_STUCK_SLOT,
	UMCG_PLANT_STALE_KICK,
};

#endif /* __UMCG_INTF_FAULT_H */
