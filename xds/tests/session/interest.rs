//! What a session is to be woken for is what its client is subscribed to, no more and no less.

use std::collections::BTreeSet;

use portolan_xds::resource::ResourceType::{self, Cluster, Endpoints, Listener, Runtime};
use portolan_xds::server::session::{InterestChange, Names, Request, Session, Variant};

use super::support::{Dice, run_seeds, seeds};

/// Requests in a row.
const REQUESTS: usize = 30;

/// Names that somebody is woken for, and types that somebody is woken for whatever changes.
type Interest = (BTreeSet<(ResourceType, String)>, BTreeSet<ResourceType>);

fn replay((names, all): &mut Interest, changes: Vec<InterestChange>) {
    for change in changes {
        match change {
            InterestChange::Add(kind, name) => drop(names.insert((kind, name.to_string()))),
            InterestChange::Remove(kind, name) => drop(names.remove(&(kind, name.to_string()))),
            InterestChange::AddAll(kind) => drop(all.insert(kind)),
            InterestChange::RemoveAll(kind) => drop(all.remove(&kind)),
        }
    }
}

/// Names, some of them twice, and now and then the one that means all.
fn list(dice: &mut Dice) -> Vec<String> {
    (0..dice.roll(4)).map(|_| (*dice.pick(&["a", "b", "c", "*"])).to_owned()).collect()
}

fn check(seed: u64) {
    let mut dice = Dice::new(seed);
    let delta = dice.one_in(2);
    let variant = if delta { Variant::Delta } else { Variant::Sotw };
    let mut session = Session::new(variant, None, 1000);
    let (mut interest, mut expected) = (Interest::default(), Interest::default());
    let (mut asked, mut named) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..REQUESTS {
        let kind = *dice.pick(&[Cluster, Endpoints, Listener, Runtime]);
        let (subscribe, unsubscribe) = (list(&mut dice), list(&mut dice));
        let full = matches!(kind, Cluster | Listener);
        let (names, all) = &mut expected;
        let mut add = |name: &String| match &**name {
            "*" => drop(all.insert(kind)),
            _ => drop(names.insert((kind, name.clone()))),
        };
        let request = if delta {
            let legacy = asked.insert(kind) && full && subscribe.is_empty();
            subscribe.iter().for_each(&mut add);
            if legacy {
                all.insert(kind);
            }
            // A name in both lists is asked for: leaving comes first.
            for name in unsubscribe.iter().filter(|name| !subscribe.contains(name)) {
                names.remove(&(kind, name.clone()));
                if name == "*" && !legacy {
                    all.remove(&kind);
                }
            }
            Names::Change { subscribe, unsubscribe, held: Vec::new() }
        } else {
            names.retain(|(of, _)| *of != kind);
            all.remove(&kind);
            if !subscribe.is_empty() {
                named.insert(kind);
            } else if full && !named.contains(&kind) {
                all.insert(kind);
            }
            let mut add = |name: &String| match &**name {
                "*" => drop(all.insert(kind)),
                _ => drop(names.insert((kind, name.clone()))),
            };
            subscribe.iter().for_each(&mut add);
            Names::Exactly(subscribe)
        };
        let type_url = kind.type_url().to_owned();
        let request = Request { type_url, names: request, ..Request::default() };
        session.on_request(request, 1).expect("within limits");
        replay(&mut interest, session.take_interest());
        assert_eq!(interest, expected);
        assert!(session.take_interest().is_empty(), "told once");
    }
    replay(&mut interest, session.end());
    assert_eq!(interest, Interest::default(), "nothing is left behind");
}

#[test]
fn a_client_is_woken_for_exactly_what_it_asked_for() {
    run_seeds(seeds(0..2000), check);
}
