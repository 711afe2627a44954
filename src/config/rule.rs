//! Which threads a `[[group]]` takes.

use super::glob::Glob;

/// What is known of a thread. None: it could not be read, and no rule about it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Path of its cgroup below the root of cgroup2.
    pub cgroup: Option<String>,
    /// Its name.
    pub comm: Option<String>,
    /// Effective user.
    pub uid: Option<u32>,
    /// Path of its program.
    pub exe: Option<String>,
}

/// `match` of a group: of each list that is not empty one has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// A cgroup or one above it.
    pub cgroup: Vec<Glob>,
    /// Names of threads.
    pub comm: Vec<Glob>,
    /// Effective users.
    pub uid: Vec<u32>,
    /// Programs.
    pub exe: Vec<Glob>,
}

/// How two rules stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// No thread can match both.
    None,
    /// All that the second one takes match the first one.
    Covered,
    /// Some may match both, and each may take some that the other does not.
    Partial,
    /// All that the first one takes match the second one, which is wider: as is usual.
    Narrower,
}

impl Rule {
    /// Takes everything.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Does it take a thread with these facts?
    pub fn takes(&self, facts: &Facts) -> bool {
        let any = |globs: &[Glob], text: &Option<String>| {
            let text = text.as_deref();
            globs.is_empty() || text.is_some_and(|text| globs.iter().any(|g| g.holds(text)))
        };
        let uid = self.uid.is_empty() || facts.uid.is_some_and(|uid| self.uid.contains(&uid));
        uid && any(&self.cgroup, &facts.cgroup)
            && any(&self.comm, &facts.comm)
            && any(&self.exe, &facts.exe)
    }

    /// What becomes of threads that `self`, the earlier one, and `later` are both about.
    pub fn overlap(&self, later: &Rule) -> Overlap {
        if self.covers(later) {
            return Overlap::Covered;
        }
        if later.covers(self) {
            return Overlap::Narrower;
        }
        let globs = self.globs().into_iter().zip(later.globs());
        for (a, b) in globs.filter(|(a, b)| !a.is_empty() && !b.is_empty()) {
            if !a.iter().any(|a| b.iter().any(|b| a.meets(b))) {
                return Overlap::None;
            }
        }
        let shares = |uid| later.uid.contains(uid);
        if !self.uid.is_empty() && !later.uid.is_empty() && !self.uid.iter().any(shares) {
            return Overlap::None;
        }
        Overlap::Partial
    }

    fn globs(&self) -> [&[Glob]; 3] {
        [&self.cgroup, &self.comm, &self.exe]
    }

    fn covers(&self, other: &Rule) -> bool {
        let all = |a: &[Glob], b: &[Glob]| {
            a.is_empty() || (!b.is_empty() && b.iter().all(|b| a.iter().any(|a| a.covers(b))))
        };
        let uids = self.uid.is_empty()
            || (!other.uid.is_empty() && other.uid.iter().all(|uid| self.uid.contains(uid)));
        uids && self
            .globs()
            .into_iter()
            .zip(other.globs())
            .all(|(a, b)| all(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(cgroup: &[&str], comm: &[&str], uid: &[u32]) -> Rule {
        Rule {
            cgroup: cgroup.iter().map(|t| Glob::tree(t)).collect(),
            comm: comm.iter().map(|t| Glob::word(t)).collect(),
            uid: uid.to_vec(),
            exe: Vec::new(),
        }
    }

    #[test]
    fn rule_takes_by_all_that_it_names() {
        let facts = Facts {
            cgroup: Some("/system.slice/db.service/x".into()),
            comm: Some("postgres".into()),
            uid: Some(7),
            exe: None,
        };
        assert!(rule(&["/system.slice"], &["pg", "post*"], &[0, 7]).takes(&facts));
        assert!(!rule(&["/system.slice"], &["pg"], &[]).takes(&facts));
        assert!(!rule(&[], &[], &[8]).takes(&facts));
        assert!(Rule::default().takes(&facts) && Rule::default().takes(&Facts::default()));
        let exe = Rule {
            exe: vec![Glob::file("/**")],
            ..Rule::default()
        };
        assert!(!exe.takes(&facts), "what is unknown matches nothing");
    }

    #[test]
    fn overlap_tells_what_order_decides() {
        let wide = rule(&["/a"], &[], &[]);
        let narrow = rule(&["/a/b"], &["x"], &[]);
        assert_eq!(wide.overlap(&narrow), Overlap::Covered);
        assert_eq!(narrow.overlap(&wide), Overlap::Narrower);
        assert_eq!(Rule::default().overlap(&wide), Overlap::Covered);
        assert_eq!(wide.overlap(&Rule::default()), Overlap::Narrower);
        assert_eq!(wide.overlap(&rule(&["/b"], &[], &[])), Overlap::None);
        let by_name = rule(&[], &["x*"], &[]);
        assert_eq!(
            wide.overlap(&by_name),
            Overlap::Partial,
            "about different things"
        );
        assert_eq!(by_name.overlap(&rule(&[], &["*y"], &[])), Overlap::Partial);
        assert_eq!(
            by_name.overlap(&rule(&[], &["xa", "y"], &[])),
            Overlap::Partial
        );
        let users = rule(&[], &["x*"], &[1]);
        assert_eq!(users.overlap(&rule(&[], &["*y"], &[2])), Overlap::None);
        assert_eq!(
            rule(&[], &[], &[1, 2]).overlap(&rule(&[], &[], &[2])),
            Overlap::Covered
        );
    }
}
