//! A file in the format of /etc/hosts as static records, read anew when it changes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use crate::config::{DnsConfig, StaticRecord};
use crate::error::DnsError;
use crate::name::WireName;
use crate::records::Rdata;
use crate::zone::Zones;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Most records taken from a file.
const RECORDS_MAX: usize = 100_000;

/// The file that is followed.
#[derive(Debug)]
pub(crate) struct Hosts {
    path: PathBuf,
    seen: Option<SystemTime>,
    /// When it is looked at next, whatever else happens meanwhile.
    look_at: Instant,
}

impl Hosts {
    /// The file of a config, and its records; nothing when it has none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn open(config: &DnsConfig) -> Result<(Option<Self>, Vec<StaticRecord>), DnsError> {
        let Some(path) = &config.hosts_file else { return Ok((None, Vec::new())) };
        let look_at = Instant::now() + EVERY;
        let hosts = Self { path: path.clone(), seen: modified(path), look_at };
        let records = hosts.read(config)?;
        Ok((Some(hosts), records))
    }

    /// Waits until the file has changed.
    pub(crate) async fn changed(&mut self) {
        loop {
            sleep_until(self.look_at).await;
            self.look_at = Instant::now() + EVERY;
            let now = modified(&self.path);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn read(&self, config: &DnsConfig) -> Result<Vec<StaticRecord>, DnsError> {
        let refuse = |reason: String| DnsError::File { path: self.path.clone(), reason };
        let text = std::fs::read_to_string(&self.path).map_err(|e| refuse(e.to_string()))?;
        let own = DnsConfig { records: Vec::new(), ..config.clone() };
        let (records, problems) = parse(&text, config, &Zones::new(&own, &[])?);
        for problem in problems {
            tracing::warn!(file = %self.path.display(), "{problem}");
        }
        Ok(records)
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Addresses of names, and names of addresses where those are not the cluster's; and what is wrong.
fn parse(text: &str, config: &DnsConfig, zones: &Zones) -> (Vec<StaticRecord>, Vec<String>) {
    let (mut records, mut problems) = (Vec::new(), Vec::new());
    let ttl_secs = config.ttl_secs;
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        let Ok(address) = first.parse::<IpAddr>() else {
            problems.push(format!("line {}: {first:?} is not an address, passed over", n + 1));
            continue;
        };
        for word in words {
            let labels = word.strip_suffix('.').unwrap_or(word).split('.').map(str::as_bytes);
            let Some(name) = WireName::root().below(labels) else {
                problems.push(format!("line {}: {word:?} is not a name, passed over", n + 1));
                continue;
            };
            if let Some(reason) = zones.refuses_static(&name) {
                problems.push(format!("line {}: {word:?}: {reason}, passed over", n + 1));
                continue;
            }
            if records.len() >= RECORDS_MAX {
                problems.push(format!("line {}: only {RECORDS_MAX} records are taken", n + 1));
                return (records, problems);
            }
            if !config.service_ranges.iter().any(|range| range.contains(&address)) {
                let (owner, data) = (WireName::reverse(address), Rdata::Ptr(name.clone()));
                records.push(StaticRecord { name: owner, ttl_secs, data });
            }
            records.push(StaticRecord { name, ttl_secs, data: address.into() });
        }
    }
    (records, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_give_addresses_and_names_and_what_is_wrong_is_named() {
        let config = DnsConfig {
            service_ranges: vec!["10.96.0.0/16".parse().expect("valid")],
            ..DnsConfig::default()
        };
        let text = "# all\n10.0.0.1 db.corp DB2.corp. # two\n\nfd00::1\tdb.corp\n10.96.0.1 own\n\
                    nobody a\n10.0.0.2 a..b\n10.0.0.3 web.n.svc.cluster.local\n";
        let zones = Zones::new(&config, &[]).expect("valid");
        let (records, problems) = parse(text, &config, &zones);
        let shown: Vec<String> =
            records.iter().map(|r| format!("{} {:?}", r.name, r.data)).collect();
        assert_eq!(shown.len(), 7, "{shown:?}");
        assert!(shown.contains(&"db2.corp. A(10.0.0.1)".to_owned()));
        assert!(shown.contains(&"1.0.0.10.in-addr.arpa. Ptr(db2.corp.)".to_owned()));
        assert!(shown.contains(&"own. A(10.96.0.1)".to_owned()));
        assert_eq!(
            problems,
            [
                "line 6: \"nobody\" is not an address, passed over",
                "line 7: \"a..b\" is not a name, passed over",
                "line 8: \"web.n.svc.cluster.local\": names below svc and pod are those of the \
                 cluster, passed over"
            ]
        );
    }
}
