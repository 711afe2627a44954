//! A private apt for kernels: the machine's own mirror, our own lists; the host's apt is only read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::proc::{self, say};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SUITES: [&str; 2] = ["trixie-backports", "trixie"];

/// Series that are looked for in sid as well: the BTF of trixie-backports' 7.2 was made by a
/// pahole before 1.26, and no scheduler of scx loads with it.
const FROM_SID: [&str; 1] = ["7.2"];

/// Names under which the main Debian archive offers its releases.
const RELEASES: [&str; 9] = [
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "duke",
];

/// An apt configuration of our own, below the cache folder.
#[derive(Debug)]
pub struct PrivateApt {
    conf: PathBuf,
    uri: String,
}

impl PrivateApt {
    /// Writes the configuration for kernels of `series`; does not go to the network.
    pub fn new(cache: &Path, series: &str) -> Result<Self> {
        let top = cache.join("apt");
        let uri = archive_uri(&host_sources())?;
        for sub in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(top.join(sub))
                .with_context(|| format!("cannot create: {}", top.join(sub).display()))?;
        }
        fs::write(top.join("status"), "")?;
        fs::write(top.join("sources.list"), sources_list(&uri, series))?;
        let conf = top.join("apt.conf");
        fs::write(&conf, apt_conf(&top, &host_proxies()))?;
        Ok(Self { conf, uri })
    }

    /// The archive that this machine uses.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Fetches the package lists.
    pub fn update(&self) -> Result<()> {
        proc::run(
            self.command("apt-get")
                .args(["-q", "update", "--error-on=any"]),
        )
        .with_context(|| {
            format!(
                "cannot read the package lists of {}; is the network there?",
                self.uri
            )
        })
    }

    /// All package names that start with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = proc::output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Downloads `packages` into `into` and returns the .deb files.
    pub fn download(&self, packages: &[String], into: &Path) -> Result<Vec<PathBuf>> {
        let mut cmd = self.command("apt-get");
        proc::run(
            cmd.args(["-q", "download"])
                .args(packages)
                .current_dir(into),
        )
        .with_context(|| format!("cannot fetch {} from {}", packages.join(" "), self.uri))?;
        let mut debs = Vec::new();
        for entry in fs::read_dir(into)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == "deb") {
                debs.push(path);
            }
        }
        if debs.len() != packages.len() {
            bail!(
                "fetched {} of {} packages: {}",
                debs.len(),
                packages.len(),
                packages.join(" ")
            );
        }
        Ok(debs)
    }

    fn command(&self, tool: &str) -> Command {
        let mut cmd = Command::new(tool);
        cmd.env("APT_CONFIG", &self.conf).env("LC_ALL", "C");
        cmd
    }
}

fn sources_list(uri: &str, series: &str) -> String {
    let mut list = SUITES
        .map(|suite| format!("deb [signed-by={KEYRING}] {uri} {suite} main\n"))
        .concat();
    if FROM_SID.contains(&series) {
        // Some mirrors bring sid late. It is signed all the same.
        list += &format!("deb [signed-by={KEYRING} check-valid-until=no] {uri} sid main\n");
    }
    list
}

fn apt_conf(top: &Path, proxies: &str) -> String {
    let top = top.display();
    format!(
        "Dir::Etc::sourcelist \"{top}/sources.list\";\n\
         Dir::Etc::sourceparts \"-\";\n\
         Dir::Etc::main \"-\";\n\
         Dir::Etc::parts \"{top}/parts\";\n\
         Dir::Etc::preferences \"-\";\n\
         Dir::Etc::preferencesparts \"{top}/parts\";\n\
         Dir::State::lists \"{top}/lists\";\n\
         Dir::State::status \"{top}/status\";\n\
         Dir::Cache \"{top}/cache\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures \"amd64\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         {proxies}"
    )
}

/// How this machine reaches the network: the proxies and certificates of its own apt.
fn host_proxies() -> String {
    let dump = proc::output(Command::new("apt-config").arg("dump")).unwrap_or_default();
    let wanted = |line: &&str| line.starts_with("Acquire::http") && !line.ends_with("\"\";");
    dump.lines()
        .filter(wanted)
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The text of each of the machine's apt source files, with whether it is deb822.
fn host_sources() -> Vec<(bool, String)> {
    let etc = Path::new("/etc/apt");
    let mut files = vec![etc.join("sources.list")];
    if let Ok(dir) = fs::read_dir(etc.join("sources.list.d")) {
        let mut parts: Vec<_> = dir.flatten().map(|entry| entry.path()).collect();
        parts.sort();
        files.extend(parts);
    }
    let mut texts = Vec::new();
    for file in files {
        let deb822 = file.extension().is_some_and(|ext| ext == "sources");
        match fs::read_to_string(&file) {
            Ok(text) => texts.push((deb822, text)),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => say(format_args!(
                "cannot read {}: {err}; skipped",
                file.display()
            )),
        }
    }
    texts
}

/// The URI of the main Debian archive among the machine's own sources.
fn archive_uri(sources: &[(bool, String)]) -> Result<String> {
    let parse = |(deb822, text): &(bool, String)| {
        if *deb822 {
            parse_deb822(text)
        } else {
            parse_list(text)
        }
    };
    let all: Vec<Source> = sources.iter().flat_map(parse).collect();
    let found = all.iter().find(|source| source.is_main_archive());
    let Some(source) = found else {
        bail!(
            "no mirror of the main Debian archive among the {} entries of /etc/apt/sources.list*; \
             kernels come from there; add one entry for Debian's `main`",
            all.len()
        );
    };
    Ok(source.uri.clone())
}

/// One (URI, suites, components) of a source file.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
}

impl Source {
    fn is_main_archive(&self) -> bool {
        let release = |suite: &String| {
            let base = suite
                .strip_suffix("-updates")
                .or(suite.strip_suffix("-backports"));
            RELEASES.contains(&base.unwrap_or(suite))
        };
        let security = self.uri.trim_end_matches('/').ends_with("-security");
        let fetchable = !self.uri.starts_with("cdrom:");
        fetchable
            && !security
            && self.suites.iter().any(release)
            && self.components.iter().any(|c| c == "main")
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `deb [options] URI suite components...`, one per line.
fn parse_list(text: &str) -> Vec<Source> {
    let line = |line: &str| {
        let line = line.split('#').next()?.trim();
        let mut rest = line
            .strip_prefix("deb")?
            .strip_prefix([' ', '\t'])?
            .trim_start();
        if rest.starts_with('[') {
            rest = rest.split_once(']')?.1;
        }
        let mut fields = rest.split_whitespace().map(str::to_owned);
        let (uri, suite) = (fields.next()?, fields.next()?);
        Some(Source {
            uri,
            suites: vec![suite],
            components: fields.collect(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// Paragraphs of `Field: value` with continuation lines; a paragraph may name several URIs.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            found.extend(paragraph(&fields));
            fields.clear();
        } else if line.starts_with('#') {
            // A comment may stand between a field and its continuation.
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

fn paragraph(fields: &[(String, String)]) -> Vec<Source> {
    let get = |name: &str| {
        let field = fields.iter().find(|(n, _)| n == name);
        field.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let off = get("enabled").eq_ignore_ascii_case("no");
    if off || !words(get("types")).iter().any(|t| t == "deb") {
        return Vec::new();
    }
    let source = |uri| Source {
        uri,
        suites: words(get("suites")),
        components: words(get("components")),
    };
    words(get("uris")).into_iter().map(source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a snapshot of the day
URIs: http://sec.example/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
URIs: http://one.example/debian
 http://two.example/debian
Suites: bookworm
# in between
 bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: trixie
Components: main
";

    #[test]
    fn parse_deb822_continuations_comments_and_disabled() {
        let found = parse_deb822(DEB822);
        let uris: Vec<_> = found.iter().map(|s| s.uri.as_str()).collect();
        let want = [
            "http://sec.example/debian-security",
            "http://one.example/debian",
            "http://two.example/debian",
        ];
        assert_eq!(uris, want);
        assert_eq!(found[1].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(found[1].components, ["main", "contrib"]);
    }

    #[test]
    fn parse_list_options_comments_and_deb_src() {
        let text = "# deb http://no.example x main\n\
                    deb-src http://src.example/debian trixie main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian trixie main non-free # x\n\
                    deb\n";
        let want = Source {
            uri: "http://a.example/debian".into(),
            suites: vec!["trixie".into()],
            components: vec!["main".into(), "non-free".into()],
        };
        assert_eq!(parse_list(text), [want]);
    }

    #[test]
    fn archive_uri_skips_security_and_third_parties() {
        let third = "deb https://other.example/apt nodistro main\n\
                     deb https://cloud.example/apt sdk-bookworm main\n\
                     deb cdrom:[Debian 12]/ bookworm main\n";
        let sources = [(false, third.to_owned()), (true, DEB822.to_owned())];
        assert_eq!(archive_uri(&sources).unwrap(), "http://one.example/debian");
        let err = archive_uri(&sources[..1]).unwrap_err().to_string();
        assert!(err.contains("/etc/apt/sources.list"), "{err}");
    }

    #[test]
    fn apt_conf_keeps_everything_below_the_cache() {
        let conf = apt_conf(Path::new("/c/apt"), "Acquire::http::Proxy \"p\";\n");
        for part in [
            "Dir::State::status \"/c/apt/status\"",
            "Dir::Etc::parts \"/c/apt/parts\"",
            "Proxy",
        ] {
            assert!(conf.contains(part), "{part} not in {conf}");
        }
        assert_eq!(sources_list("U", "7.3").lines().count(), SUITES.len());
        assert!(sources_list("U", "7.2").ends_with("U sid main\n"));
    }
}
