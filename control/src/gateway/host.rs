//! Hosts: names, `*.` and a name, or all (`None`). Pure.

use std::sync::Arc;

use portolan_model::traffic::covers;

/// A host; `None` stands for all.
pub(super) type Host = Option<Arc<str>>;

/// What both are for, if there is anything: the one that is for less.
pub(super) fn intersection(one: &Host, other: &Host) -> Option<Host> {
    match (one, other) {
        (None, host) | (host, None) => Some(host.clone()),
        (Some(one), Some(other)) if covers(one, other) => Some(Some(Arc::clone(other))),
        (Some(one), Some(other)) if covers(other, one) => Some(Some(Arc::clone(one))),
        _ => None,
    }
}

/// The one of `hosts` that is for least, of those that a host is within.
pub(super) fn nearest<'a>(hosts: impl Iterator<Item = &'a Host>, host: &Host) -> Option<&'a Host> {
    let covering = hosts.filter(|wide| match (wide, host) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(host)) => wide == host || covers(wide, host),
    });
    covering.max_by_key(|host| match host {
        None => (0, 0),
        Some(host) => (if host.starts_with('*') { 1 } else { 2 }, host.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        (text != "*").then(|| text.into())
    }

    #[test]
    fn hosts_meet_in_the_narrower_one() {
        for (one, other, expected) in [
            ("*", "*", Some("*")),
            ("*", "a.com", Some("a.com")),
            ("a.com", "a.com", Some("a.com")),
            ("a.com", "b.com", None),
            ("*.a.com", "x.a.com", Some("x.a.com")),
            ("*.a.com", "y.x.a.com", Some("y.x.a.com")),
            ("*.a.com", "a.com", None),
            ("*.a.com", "*.x.a.com", Some("*.x.a.com")),
            ("*.a.com", "*.a.com", Some("*.a.com")),
            ("*.a.com", "*.b.com", None),
            ("*.a.com", "xa.com", None),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let met = intersection(&host(one), &host(other));
                assert_eq!(met, expected.map(host), "{one} {other}");
            }
        }
    }

    #[test]
    fn a_host_belongs_to_the_narrowest_around_it() {
        let hosts = ["*", "*.com", "*.a.com", "x.a.com"].map(host);
        for (of, expected) in [
            ("x.a.com", "x.a.com"),
            ("y.a.com", "*.a.com"),
            ("*.a.com", "*.a.com"),
            ("*.y.a.com", "*.a.com"),
            ("a.com", "*.com"),
            ("com", "*"),
            ("*", "*"),
        ] {
            assert_eq!(nearest(hosts.iter(), &host(of)), Some(&host(expected)), "{of}");
        }
        assert_eq!(nearest(hosts[1..].iter(), &host("*")), None);
    }
}
