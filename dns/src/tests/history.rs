//! A table made step by step equals one made at once, whatever the history.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_model::{Changes, Generation, Key, ServiceEntry, Snapshot};
use proptest::collection::vec;
use proptest::prelude::*;

use super::kit::config;
use super::oracle::entry;
use crate::table::Table;

/// Services written or (by key) taken out before one publish.
type Step = Vec<(Arc<ServiceEntry>, bool)>;

fn publish(snapshot: &Snapshot, step: Step, generation: u64) -> (Snapshot, BTreeSet<Key>) {
    let mut next = snapshot.clone();
    let mut keys = BTreeSet::new();
    for (entry, delete) in step {
        let key = entry.service.key.clone();
        if delete {
            next.delete(&key);
        } else {
            next.apply(entry);
        }
        keys.insert(Key::Service(key));
    }
    (next.at(Generation(generation)), keys)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn an_incremental_table_equals_one_from_scratch(
        steps in vec(vec((entry(), proptest::bool::weighted(0.4)), 0..4), 1..12),
    ) {
        let empty = Table::new(&config()).expect("valid");
        let mut snapshot = Snapshot::default().at(Generation(1));
        let mut table = empty.apply(&snapshot, &Changes::Everything);
        for (step, generation) in steps.into_iter().zip(2..) {
            let (next, keys) = publish(&snapshot, step, generation);
            table = table.apply(&next, &Changes::Keys(keys));
            snapshot = next;
            assert_eq!(table, empty.apply(&snapshot, &Changes::Everything));
        }
        // Taking everything out leaves nothing behind.
        let keys: BTreeSet<Key> =
            snapshot.services().map(|(key, _)| Key::Service(key.clone())).collect();
        let none = Snapshot::default().at(Generation(1000));
        assert_eq!(table.apply(&none, &Changes::Keys(keys)), empty.apply(&none, &Changes::Everything));
    }
}
