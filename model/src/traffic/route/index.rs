//! Finds the routes whose path may fit without looking at all of them.
//!
//! The first route that fits wins, so every candidate keeps its number and the least one whose
//! conditions hold is taken. The cost is that of the distinct lengths of prefixes, not of the
//! routes; what has neither a path nor a prefix (expressions, paths without case) is tried in turn.

use std::collections::HashMap;

use super::{Asked, PathMatch, Route};

/// Up to here routes are looked at in turn, which is as fast.
const FEW: usize = 8;

/// The routes of a virtual host by their paths. Numbers are in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    exact: HashMap<Box<[u8]>, Vec<usize>>,
    prefixes: HashMap<Box<[u8]>, Vec<usize>>,
    /// Lengths of the prefixes, each once, in ascending order.
    lengths: Vec<usize>,
    rest: Vec<usize>,
}

impl Index {
    /// `None` where looking at all is as fast.
    pub(super) fn of(routes: &[Route]) -> Option<Self> {
        if routes.len() <= FEW {
            return None;
        }
        let mut index = Self::default();
        for (number, route) in routes.iter().enumerate() {
            let ignore_case = route.conditions.as_ref().is_some_and(|one| one.ignore_case);
            let numbers = match &route.path {
                _ if ignore_case => &mut index.rest,
                PathMatch::Regex(_) => &mut index.rest,
                PathMatch::Exact(path) => index.exact.entry(path.as_bytes().into()).or_default(),
                PathMatch::Prefix(prefix) | PathMatch::Under(prefix) => {
                    index.lengths.push(prefix.len());
                    index.prefixes.entry(prefix.as_bytes().into()).or_default()
                }
            };
            numbers.push(number);
        }
        index.lengths.sort_unstable();
        index.lengths.dedup();
        Some(index)
    }

    /// The first route that takes the request.
    pub(super) fn route<'a>(&self, routes: &'a [Route], asked: &impl Asked) -> Option<&'a Route> {
        let path = asked.path();
        let mut best: Option<(usize, &Route)> = None;
        let starts = self.lengths.iter().map_while(|length| path.get(..*length));
        let by_prefix = starts.filter_map(|start| self.prefixes.get(start));
        for numbers in self.exact.get(path).into_iter().chain(by_prefix).chain([&self.rest]) {
            let earlier = numbers.iter().take_while(|n| best.is_none_or(|(least, _)| **n < least));
            let mut known = earlier.filter_map(|n| Some((*n, routes.get(*n)?)));
            best = known.find(|(_, route)| route.takes(asked)).or(best);
        }
        best.map(|(_, route)| route)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::traffic::{Conditions, HeaderMatch, HeaderTest, Pattern};

    struct Plain<'a>(&'a str, bool);

    impl Asked for Plain<'_> {
        fn path(&self) -> &[u8] {
            self.0.as_bytes()
        }
        fn query(&self) -> Option<&[u8]> {
            None
        }
        fn field(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
            self.1.then_some(Cow::Borrowed(b"on"))
        }
        fn is_grpc(&self) -> bool {
            false
        }
        fn random(&self) -> u64 {
            0
        }
    }

    /// Paths of few letters, so that many meet: the same numbers make the same routes.
    fn some(seed: &mut u64) -> Route {
        let mut next = |below: u64| {
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 33) % below
        };
        let text: String = (0..next(4))
            .map(|_| ["/", "a", "b", "A"][usize::try_from(next(4)).expect("small")])
            .collect();
        let text = format!("/{text}");
        let path = match next(8) {
            0..3 => PathMatch::Prefix(text.as_str().into()),
            3..5 => PathMatch::Under(text.as_str().into()),
            5..7 => PathMatch::Exact(text.as_str().into()),
            _ => PathMatch::Regex(Pattern::new(&format!("{text}.*")).expect("valid")),
        };
        let header = HeaderMatch {
            name: "x".into(),
            test: HeaderTest::Present(true),
            invert: false,
            missing_is_empty: false,
        };
        let headers = if next(3) == 0 { vec![header] } else { Vec::new() };
        let conditions = Conditions { ignore_case: next(4) == 0, headers, ..Conditions::default() };
        let cluster = format!("{}", next(1 << 30));
        let conditions = (!conditions.is_empty()).then(|| Box::new(conditions));
        Route { conditions, ..Route::to(path, cluster.as_str().into()) }
    }

    #[test]
    fn it_finds_what_looking_at_all_finds() {
        let mut seed = 7;
        for _ in 0..200 {
            let routes: Vec<Route> = (0..40).map(|_| some(&mut seed)).collect();
            let index = Index::of(&routes).expect("many");
            for _ in 0..50 {
                let asked = some(&mut seed);
                let (PathMatch::Prefix(path) | PathMatch::Under(path) | PathMatch::Exact(path)) =
                    &asked.path
                else {
                    continue;
                };
                for on in [false, true] {
                    let asked = Plain(path, on);
                    let plain = routes.iter().find(|route| route.takes(&asked));
                    let found = index.route(&routes, &asked);
                    assert_eq!(
                        found.map(std::ptr::from_ref),
                        plain.map(std::ptr::from_ref),
                        "{path} {on}"
                    );
                }
            }
        }
    }
}
