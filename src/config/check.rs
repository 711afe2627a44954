//! What the tables of a file say about each other.

use umcg_policy::{Order, create};

use super::cpus::{CpuSet, Machine};
use super::findings::Findings;
use super::read::Draft;
use super::rule::Overlap;
use super::{Daemon, Group, Kind, MAX_GROUPS, REST};

/// Findings about the file as a whole.
pub(super) fn together(
    daemon: &Draft<Daemon>,
    groups: &[Draft<Group>],
    machine: &Machine,
    found: &mut Findings,
) {
    if let Some(group) = groups.get(MAX_GROUPS) {
        let text = format!("{} groups; at most {MAX_GROUPS}", groups.len());
        found.error(group.span("name"), text);
    }
    let d = &daemon.it;
    ends_first(daemon, d.quantum_us, d.slice_us, found);
    offline(daemon, &d.cpus, machine, found);
    for group in groups {
        let g = &group.it;
        ends_first(group, g.quantum_us, g.slice_us, found);
        offline(group, &g.cpus, machine, found);
        counts(group, found);
    }
    for (i, later) in groups.iter().enumerate() {
        for earlier in &groups[..i] {
            names(earlier, later, found);
            overlaps(earlier, later, found);
        }
    }
    policies(daemon, groups, found);
}

fn ends_first<T>(draft: &Draft<T>, quantum_us: u64, slice_us: u64, found: &mut Findings) {
    if quantum_us > slice_us {
        let text =
            format!("quantum_us = {quantum_us}: has no effect, slice_us = {slice_us} ends first");
        found.warn(draft.span("quantum_us"), text);
    }
}

fn offline<T>(draft: &Draft<T>, cpus: &CpuSet, machine: &Machine, found: &mut Findings) {
    if !cpus.meets(&machine.online) {
        let text =
            format!("cpus = \"{cpus}\": none of them is online; all CPUs serve until one is");
        found.warn(draft.span("cpus"), text);
    }
}

/// What the policy's order makes of shares and preemption.
fn counts(group: &Draft<Group>, found: &mut Findings) {
    let g = &group.it;
    let Ok(policy) = create(&g.policy, g.decide, 1) else {
        return;
    };
    if policy.traits().order == Order::Fair {
        return;
    }
    for key in ["share", "preempt"] {
        if g.origins.contains_key(key) {
            let text = format!(
                "{key}: has no effect, the order of policy {} has no room for it",
                g.policy
            );
            found.warn(group.span(key), text);
        }
    }
}

fn names(earlier: &Draft<Group>, later: &Draft<Group>, found: &mut Findings) {
    let name = &later.it.name;
    if *name == earlier.it.name && !name.is_empty() {
        let text = format!(
            "name = {name:?}: the group of line {} has it",
            earlier.it.line
        );
        found.error(later.span("name"), text);
    }
}

fn overlaps(earlier: &Draft<Group>, later: &Draft<Group>, found: &mut Findings) {
    if !earlier.sound || !later.sound {
        return;
    }
    let (first, line) = (&earlier.it.name, earlier.it.line);
    match earlier.it.rule.overlap(&later.it.rule) {
        Overlap::Covered => {
            let text = format!(
                "group {:?} gets no thread: group {first:?} of line {line} takes all that match; \
                 the first match wins; put the narrower one first",
                later.it.name
            );
            found.error(later.span("match"), text);
        }
        Overlap::Partial => {
            let text = format!(
                "may overlap with the match of group {first:?} of line {line}, which gets what both take"
            );
            found.warn(later.span("match"), text);
        }
        Overlap::None | Overlap::Narrower => {}
    }
}

/// One CPU, one policy.
fn policies(daemon: &Draft<Daemon>, groups: &[Draft<Group>], found: &mut Findings) {
    let d = &daemon.it;
    let mut before = vec![(REST, Kind::new(&d.policy, d.decide), &d.cpus)];
    for group in groups {
        let g = &group.it;
        let mine = Kind::new(&g.policy, g.decide);
        let clash = before
            .iter()
            .find(|(_, kind, cpus)| *kind != mine && cpus.meets(&g.cpus));
        if let Some((name, kind, cpus)) = clash {
            let both = CpuSet(cpus.0.intersection(&g.cpus.0).copied().collect());
            let text = format!(
                "policy {mine} of group {:?} on CPUs {both}: {name:?} has {kind} there; one CPU has \
                 one policy; give them different cpus, or one policy",
                g.name,
            );
            found.error(group.span("policy"), text);
        }
        before.push((&g.name, mine, &g.cpus));
    }
}
