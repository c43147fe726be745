//! Suffixes that stand for others: the name asked is looked up under another, and answered under
//! its own.

use hickory_proto::op::Message;
use hickory_proto::rr::Name;

use crate::config::Rewrite;
use crate::name::{WireName, suffix_start};

/// Rewrites, the longest suffix first.
#[derive(Debug, Default)]
pub(crate) struct Rewrites(Vec<(WireName, WireName)>);

impl Rewrites {
    pub(crate) fn new(rewrites: &[Rewrite]) -> Self {
        let pair = |r: &Rewrite| (WireName::of(&r.from), WireName::of(&r.to));
        let mut pairs: Vec<_> = rewrites.iter().map(pair).collect();
        pairs.sort_by_key(|(from, _)| std::cmp::Reverse(from.as_bytes().len()));
        Self(pairs)
    }

    /// Whether a lower-case wire name is looked up under another.
    pub(crate) fn cover(&self, name: &[u8]) -> bool {
        self.0.iter().any(|(from, _)| suffix_start(name, from.as_bytes()).is_some())
    }

    /// The name it is looked up under: once, never again; `None` when it is its own, or the other
    /// would be too long.
    pub(crate) fn apply(&self, name: &WireName) -> Option<WireName> {
        let bytes = name.as_bytes();
        let found = self
            .0
            .iter()
            .find_map(|(from, to)| suffix_start(bytes, from.as_bytes()).map(|start| (start, to)));
        let (start, to) = found?;
        let kept = name.labels().scan(0, |at, label| {
            let here = *at;
            *at += label.len() + 1;
            (here < start).then_some(label)
        });
        to.below(kept)
    }
}

/// Gives what is owned by the name looked up to the name asked.
pub(crate) fn restore(message: &mut Message, looked_up: &Name, asked: &Name) {
    let records = message.answers.iter_mut().chain(&mut message.authorities);
    for record in records.filter(|record| record.name == *looked_up) {
        record.name = asked.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::DnsName;

    #[test]
    fn the_longest_suffix_is_replaced_once() {
        let rewrites = ["old.example=new.example", "a.old.example=b.example", "new.example=x.y"];
        let rewrites = Rewrites::new(&rewrites.map(|r| r.parse().expect("valid")));
        for (name, expected) in [
            ("www.old.example", Some("www.new.example.")),
            ("old.example", Some("new.example.")),
            ("www.a.old.example", Some("www.b.example.")),
            ("www.new.example", Some("www.x.y.")),
            ("wwwold.example", None),
        ] {
            let name = WireName::of(&DnsName::parse(name).expect("valid"));
            let to = rewrites.apply(&name).map(|name| name.to_string());
            assert_eq!(to.as_deref(), expected, "{name}");
            assert_eq!(rewrites.cover(name.as_bytes()), expected.is_some(), "{name}");
        }
    }
}
