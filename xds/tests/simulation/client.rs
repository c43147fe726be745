//! Clients as the protocol document has them: nothing in here knows how the server works.

use std::collections::{BTreeMap, BTreeSet};

use portolan_xds::catalog::Name;
use portolan_xds::resource::ResourceType::{self, Cluster, Endpoints, Generation, Listener, Route};
use portolan_xds::resource::{route, version_text};
use portolan_xds::server::session::{Names, Request, Resources, Response, Variant};
use portolan_xds::viewer::Viewer;

use crate::history;
use crate::support::Dice;

/// How a client comes to what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// As Envoy: all clusters and listeners, and of the rest what these refer to.
    Proxy,
    /// Names and wildcards as it pleases.
    Whim,
}

/// What a client does with a response that has something bad in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temper {
    /// It takes what is good (gRFC A46).
    Lenient,
    /// It takes nothing of it.
    Strict,
}

/// A client: its state stays when its stream is cut.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) variant: Variant,
    pub(crate) style: Style,
    /// The one type of a stream that is not aggregated.
    pub(crate) only: Option<ResourceType>,
    pub(crate) viewer: Viewer,
    pub(crate) temper: Temper,
    /// Of the versions there are, it refuses one in so many for good; 0: none.
    refuses_one_in: u64,
    salt: u64,
    /// Whether it says which resource it refuses.
    names_it: bool,
    /// Whether it also refuses without a reason.
    pub(crate) moody: bool,
    pub(crate) types: BTreeMap<ResourceType, Type>,
    /// Since the stream began: whether routes came, and whether it refused what has to come in
    /// order. Only between the two can order be expected.
    pub(crate) has_routes: bool,
    pub(crate) is_out_of_order: bool,
}

/// One type.
#[derive(Debug, Default)]
pub(crate) struct Type {
    pub(crate) wildcard: bool,
    pub(crate) names: BTreeSet<Name>,
    pub(crate) held: BTreeMap<Name, u64>,
    version: String,
    nonce: String,
    /// Whether it was asked for on this stream, and whether names were.
    asked: bool,
    named: bool,
}

impl Type {
    pub(crate) fn covers(&self, name: &Name) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

impl Client {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let variant = if dice.one_in(2) { Variant::Sotw } else { Variant::Delta };
        let style = if dice.one_in(2) { Style::Proxy } else { Style::Whim };
        let kinds = [Cluster, Endpoints, Listener, Route, ResourceType::Runtime, Generation];
        let only = (style == Style::Whim && dice.one_in(3)).then(|| *dice.pick(&kinds));
        let temper = if dice.one_in(2) { Temper::Lenient } else { Temper::Strict };
        Self {
            variant,
            style,
            only,
            viewer: dice.pick(&history::viewers()).clone(),
            temper,
            refuses_one_in: [0, 0, 4, 10][dice.below(4)],
            salt: dice.next(),
            // Whoever takes the rest has to say which one it does not take.
            names_it: dice.roll(3) > 0 || temper == Temper::Lenient,
            moody: dice.one_in(4),
            types: BTreeMap::new(),
            has_routes: false,
            is_out_of_order: false,
        }
    }

    /// Loses all it knows.
    pub(crate) fn restart(&mut self) {
        self.types.clear();
    }

    /// The first requests of a new stream.
    pub(crate) fn start(&mut self, dice: &mut Dice) -> Vec<Request> {
        self.has_routes = false;
        self.is_out_of_order = false;
        if self.style == Style::Proxy {
            self.types.entry(Cluster).or_default().wildcard = true;
            self.types.entry(Listener).or_default().wildcard = true;
            let generation = self.types.entry(Generation).or_default();
            generation.names.insert("generation".into());
        }
        for state in self.types.values_mut() {
            (state.asked, state.named) = (false, false);
            state.nonce.clear();
        }
        let kinds: Vec<ResourceType> = self.types.keys().copied().collect();
        kinds.into_iter().filter_map(|kind| self.first(kind, dice)).collect()
    }

    fn first(&mut self, kind: ResourceType, dice: &mut Dice) -> Option<Request> {
        let variant = self.variant;
        let state = self.types.get_mut(&kind)?;
        if !state.wildcard && state.names.is_empty() {
            return None;
        }
        state.asked = true;
        let version = state.version.clone();
        let listed = listed(kind, state, dice);
        let names = match variant {
            Variant::Sotw => Names::Exactly(listed),
            Variant::Delta => {
                let held = state.held.iter();
                let held = held.map(|(name, v)| (name.to_string(), version_text(*v))).collect();
                Names::Change { subscribe: listed, unsubscribe: Vec::new(), held }
            }
        };
        let mut request = self.request(kind, names);
        if variant == Variant::Sotw {
            request.version = version;
        }
        Some(request)
    }

    fn request(&self, kind: ResourceType, names: Names) -> Request {
        let single = self.only.is_some();
        let type_url = if single { String::new() } else { kind.type_url().to_owned() };
        Request { type_url, names, ..Request::default() }
    }

    /// Changes what it asks for.
    pub(crate) fn on_whim(&mut self, dice: &mut Dice) -> Vec<Request> {
        if self.style == Style::Proxy {
            return Vec::new();
        }
        let kinds = [Cluster, Endpoints, Listener, Route, ResourceType::Runtime, Generation];
        let kind = self.only.unwrap_or_else(|| *dice.pick(&kinds));
        let state = self.types.entry(kind).or_default();
        let mut names = state.names.clone();
        for _ in 0..=dice.roll(2) {
            let name = dice.pick(history::names(kind)).clone();
            if !names.remove(&name) {
                names.insert(name);
            }
        }
        let mut wildcard = state.wildcard ^ dice.one_in(4);
        // An empty list means everything until names were given.
        if names.is_empty() && kind.is_full_set() && !state.named {
            wildcard = true;
        }
        self.want(kind, wildcard, names, dice).into_iter().collect()
    }

    /// Asks for exactly this; the request, if it has to say anything.
    fn want(
        &mut self,
        kind: ResourceType,
        wildcard: bool,
        names: BTreeSet<Name>,
        dice: &mut Dice,
    ) -> Option<Request> {
        let (variant, whim) = (self.variant, self.style == Style::Whim);
        let state = self.types.entry(kind).or_default();
        let same = state.wildcard == wildcard && state.names == names;
        if same && !(whim && variant == Variant::Delta) {
            return None;
        }
        let mut subscribe: Vec<Name> = names.difference(&state.names).cloned().collect();
        let mut unsubscribe: Vec<Name> = state.names.difference(&names).cloned().collect();
        let before = std::mem::replace(&mut state.wildcard, wildcard);
        state.names = names;
        state.held.retain(|name, _| state.wildcard || state.names.contains(name));
        if !state.asked {
            return self.first(kind, dice);
        }
        if variant == Variant::Sotw {
            let names = Names::Exactly(listed(kind, state, dice));
            let (nonce, version) = (state.nonce.clone(), state.version.clone());
            return Some(Request { nonce, version, ..self.request(kind, names) });
        }
        if whim && dice.one_in(4) {
            // Asked for again, for having been forgotten or not.
            let again = state.names.iter().find(|name| !subscribe.contains(name)).cloned();
            if let Some(name) = again {
                if dice.one_in(2) {
                    state.held.remove(&name);
                }
                subscribe.push(name);
            }
        }
        match (before, wildcard) {
            (false, true) => subscribe.push("*".into()),
            (true, false) => unsubscribe.push("*".into()),
            _ => {}
        }
        if whim && dice.one_in(8) {
            unsubscribe.push("shop/never:1".into());
        }
        let text = |names: Vec<Name>| names.iter().map(ToString::to_string).collect();
        let (subscribe, unsubscribe) = (text(subscribe), text(unsubscribe));
        Some(self.request(kind, Names::Change { subscribe, unsubscribe, held: Vec::new() }))
    }

    /// Reads a response: what it sends back.
    pub(crate) fn on_response(&mut self, response: &Response, dice: &mut Dice) -> Vec<Request> {
        let kind = response.kind;
        let bad = self.bad(response, dice);
        let full = self.variant == Variant::Sotw && kind.is_full_set();
        let state = self.types.get_mut(&kind).expect("only what was asked for is sent");
        state.nonce.clone_from(&response.nonce);
        if !bad.is_empty() && matches!(kind, Cluster | Listener | Route) {
            self.is_out_of_order = true;
        }
        self.has_routes |= kind == Route;
        if bad.is_empty() || self.temper == Temper::Lenient {
            let old = if full { std::mem::take(&mut state.held) } else { BTreeMap::new() };
            for (name, version) in contents(response) {
                let kept = old.get(&name).copied();
                let version = if bad.contains(&name) { kept } else { Some(version) };
                if let Some(version) = version.filter(|_| state.covers(&name)) {
                    state.held.insert(name, version);
                }
            }
            for name in &response.removed {
                state.held.remove(name);
            }
        }
        let error = (!bad.is_empty()).then(|| match self.names_it {
            true => format!("refused: {}: no", bad.join(": no; ")),
            false => "refused".to_owned(),
        });
        if error.is_none() {
            state.version.clone_from(&response.version);
        }
        let names = match self.variant {
            Variant::Sotw => Names::Exactly(listed(kind, state, dice)),
            Variant::Delta => {
                Names::Change { subscribe: Vec::new(), unsubscribe: Vec::new(), held: Vec::new() }
            }
        };
        let nonce = state.nonce.clone();
        let sotw = self.variant == Variant::Sotw;
        let version = if sotw { state.version.clone() } else { String::new() };
        let mut requests = vec![Request { nonce, version, error, ..self.request(kind, names) }];
        let follow_up = self.follow_up(kind, dice);
        let at = if dice.one_in(2) { 0 } else { 1 };
        if let Some(request) = follow_up {
            requests.insert(at, request);
        }
        requests
    }

    /// A proxy asks for what clusters and listeners refer to, and drops the rest.
    fn follow_up(&mut self, kind: ResourceType, dice: &mut Dice) -> Option<Request> {
        if self.style != Style::Proxy {
            return None;
        }
        let held = &self.types[&kind].held;
        match kind {
            Cluster => {
                let names = held.keys().cloned().collect();
                self.want(Endpoints, false, names, dice)
            }
            Listener => {
                let table = held.contains_key("http").then(|| route::HTTP_ROUTES.into());
                self.want(Route, false, table.into_iter().collect(), dice)
            }
            _ => None,
        }
    }

    /// What of a response it refuses: of what it does not have yet.
    fn bad(&self, response: &Response, dice: &mut Dice) -> Vec<Name> {
        let state = &self.types[&response.kind];
        let new = |name: &Name, version: u64| {
            state.covers(name) && state.held.get(name) != Some(&version)
        };
        let moody = self.moody && dice.one_in(6);
        let mut bad = Vec::new();
        for (name, version) in contents(response) {
            let refused = moody && dice.one_in(3) || self.refuses(version);
            if refused && new(&name, version) {
                bad.push(name);
            }
        }
        bad
    }

    /// Whether it never takes this version.
    pub(crate) fn refuses(&self, version: u64) -> bool {
        self.refuses_one_in > 0 && (version ^ self.salt).is_multiple_of(self.refuses_one_in)
    }
}

/// The names of a state-of-the-world request, or of the first of the other variant.
fn listed(kind: ResourceType, state: &mut Type, dice: &mut Dice) -> Vec<String> {
    let legacy = kind.is_full_set() && state.wildcard && state.names.is_empty() && !state.named;
    if legacy && dice.roll(4) > 0 {
        return Vec::new();
    }
    let mut list: Vec<String> = state.names.iter().map(ToString::to_string).collect();
    if state.wildcard {
        list.push("*".to_owned());
    }
    state.named |= !list.is_empty();
    list
}

/// Names and versions in a response.
pub(crate) fn contents(response: &Response) -> Vec<(Name, u64)> {
    match &response.resources {
        Resources::Some(list) => list.iter().map(|(n, e)| (n.clone(), e.version)).collect(),
        Resources::All(map) => map.iter().map(|(n, e)| (n.clone(), e.version)).collect(),
        Resources::Alive(_) => Vec::new(),
    }
}
