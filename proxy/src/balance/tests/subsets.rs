//! Parts of a cluster by label.

use portolan_model::traffic::{Fallback, SubsetKeys, Subsets};

use super::super::subset::MAX_SUBSETS;
use super::*;

/// Labels asked for; endpoints that serve.
type Case = (&'static [(&'static str, &'static str)], &'static [usize]);

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn keys(keys: &[&str], fallback: Option<Fallback>) -> SubsetKeys {
    SubsetKeys { keys: keys.iter().map(|key| (*key).to_owned()).collect(), fallback }
}

/// Four endpoints: v1 small, v1 large, v2 small, one without labels.
fn fleet() -> Fleet {
    let kinds = [Some(("1", "s")), Some(("1", "l")), Some(("2", "s")), None];
    let targets = kinds.iter().enumerate().map(|(number, kind)| Target {
        labels: kind.map(|(version, size)| Arc::new(labels(&[("v", version), ("size", size)]))),
        ..target(number, 0, 1)
    });
    Fleet::of(vec![Locality::default()], targets.collect())
}

fn picked(fleet: &Fleet, balance: &mut Balance, asked: &BTreeMap<String, String>) -> Vec<usize> {
    let ask = Ask { hash: None, labels: asked, avoid: None, now: fleet.now.get() };
    let mut seen: Vec<usize> = (0..40).filter_map(|_| balance.pick(&ask, fleet)).collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn requests_go_to_their_part_or_where_its_fallback_says() {
    let subsets = Subsets {
        selectors: vec![
            keys(&["v"], None),
            keys(&["size", "v"], Some(Fallback::Fail)),
            keys(&["size"], Some(Fallback::Labels(labels(&[("v", "2")])))),
        ],
        fallback: Fallback::Any,
    };
    let balancing = Balancing { subsets: Some(subsets), ..rule(Balancer::RoundRobin) };
    #[rustfmt::skip]
    let cases: [Case; 9] = [
        (&[("v", "1")], &[0, 1]), (&[("v", "2")], &[2]),
        (&[("v", "1"), ("size", "l")], &[1]), (&[("size", "s")], &[0, 2]),
        (&[("v", "3")], &[0, 1, 2, 3]), (&[("v", "2"), ("size", "l")], &[]),
        (&[("size", "xl")], &[2]), (&[], &[0, 1, 2, 3]), (&[("x", "1")], &[0, 1, 2, 3]),
    ];
    let fleet = fleet();
    let mut balance = fleet.balance(&balancing);
    for (asked, expected) in cases {
        assert_eq!(picked(&fleet, &mut balance, &labels(asked)), expected, "{asked:?}");
    }
    assert_eq!(balance.counters().no_subset, 40);
    assert_eq!(balance.counters().subset_fallback, 5 * 40);
}

#[test]
fn health_within_a_part_is_minded() {
    let subsets = Subsets { selectors: vec![keys(&["v"], None)], fallback: Fallback::Fail };
    let balancing = Balancing { subsets: Some(subsets), ..rule(Balancer::LeastRequest) };
    let fleet = fleet();
    let mut balance = fleet.balance(&balancing);
    assert_eq!(picked(&fleet, &mut balance, &labels(&[("v", "1")])), [0, 1]);
    fleet.set_healthy(&balance, 0, false);
    assert_eq!(picked(&fleet, &mut balance, &labels(&[("v", "1")])), [1]);
    assert_eq!(
        picked(&fleet, &mut balance, &BTreeMap::new()),
        [0; 0],
        "nothing asked: the fallback"
    );
}

#[test]
fn parts_are_bounded_and_what_is_beyond_fails_and_is_counted() {
    let subsets = Subsets { selectors: vec![keys(&["n"], None)], fallback: Fallback::Any };
    let balancing = Balancing { subsets: Some(subsets), ..rule(Balancer::Random) };
    let targets = (0..MAX_SUBSETS + 10).map(|number| Target {
        labels: Some(Arc::new(labels(&[("n", &number.to_string())]))),
        ..target(number, 0, 1)
    });
    let fleet = Fleet::of(vec![Locality::default()], targets.collect());
    let mut balance = fleet.balance(&balancing);
    let last = (MAX_SUBSETS - 1).to_string();
    assert_eq!(picked(&fleet, &mut balance, &labels(&[("n", &last)])), [MAX_SUBSETS - 1]);
    let beyond = MAX_SUBSETS.to_string();
    assert_eq!(picked(&fleet, &mut balance, &labels(&[("n", &beyond)])), [0; 0]);
    assert_eq!(balance.counters().subsets_full, 40);
    assert_eq!(balance.describe(&fleet, fleet.now.get()).subsets, MAX_SUBSETS);
}
