//! A stream between a server and a client: messages keep their order and take as long as they like.

use std::collections::{BTreeSet, VecDeque};
use std::sync::OnceLock;

use portolan_model::Changes;
use portolan_xds::catalog::{Catalog, Changed, Name};
use portolan_xds::resource::ResourceType;
use portolan_xds::server::session::{Request, Response, Session};

use super::client::{Client, contents};
use super::mirror::Mirror;
use crate::support::Dice;

/// Names a client may be subscribed to.
const MAX_NAMES: usize = 1000;

/// An open stream.
pub(crate) struct Stream {
    pub(crate) session: Session,
    pub(crate) mirror: Mirror,
    pub(crate) up: VecDeque<Request>,
    pub(crate) down: VecDeque<Response>,
    /// What the session was woken for and has not looked at.
    marked: BTreeSet<(ResourceType, Name)>,
    /// So much was marked that it is no longer told apart.
    overflown: bool,
    /// Responses written.
    pub(crate) written: usize,
    /// To tell streams apart in a trace.
    id: u64,
}

impl Stream {
    pub(crate) fn open(client: &mut Client, dice: &mut Dice) -> Self {
        let mut session = Session::new(client.variant, client.only, MAX_NAMES);
        session.on_viewer(client.viewer.clone());
        Self {
            session,
            mirror: Mirror::new(client.variant, client.only, client.viewer.clone()),
            up: client.start(dice).into(),
            down: VecDeque::new(),
            marked: BTreeSet::new(),
            overflown: false,
            written: 0,
            id: dice.roll(0x1_0000),
        }
    }

    /// A publish: whoever it concerns is woken.
    pub(crate) fn on_publish(&mut self, changed: &Changed) {
        let concerned = changed.iter().filter(|key| self.mirror.is_concerned(key));
        self.marked.extend(concerned.cloned());
    }

    /// From here on the session is told that anything may have changed.
    pub(crate) fn overflow(&mut self) {
        self.overflown = true;
    }

    pub(crate) fn server_reads(&mut self) -> bool {
        let Some(request) = self.up.pop_front() else { return false };
        let outcome = self.session.on_request(request.clone(), 1).expect("within limits");
        self.trace(|| format!("read {request:?}: {outcome:?}"));
        self.mirror.on_request(&request, &outcome);
        self.mirror.on_interest(self.session.take_interest());
        true
    }

    /// Writes what is due, `limit` responses at most.
    pub(crate) fn server_writes(&mut self, catalog: &Catalog, limit: usize) -> bool {
        let marked = std::mem::take(&mut self.marked);
        let overflown = std::mem::take(&mut self.overflown);
        self.session.on_changes(&if overflown {
            Changes::Everything
        } else {
            Changes::Keys(marked)
        });
        self.mirror.on_look(catalog);
        let before = self.written;
        for _ in 0..limit {
            let Some(response) = self.session.next_response(catalog, 1) else { break };
            let (kind, now) = (response.kind, catalog.generation().0);
            let said = (contents(&response), &response.removed, &response.errors);
            self.trace(|| format!("{now} wrote {kind:?} {} {said:?}", response.nonce));
            self.mirror.on_response(&response, catalog);
            self.down.push_back(response);
            self.written += 1;
        }
        self.written > before
    }

    pub(crate) fn client_reads(&mut self, client: &mut Client, dice: &mut Dice) -> bool {
        let Some(response) = self.down.pop_front() else { return false };
        self.up.extend(client.on_response(&response, dice));
        true
    }

    /// Says what goes on, where one seed is looked at.
    fn trace(&self, what: impl FnOnce() -> String) {
        static IS_WANTED: OnceLock<bool> = OnceLock::new();
        if *IS_WANTED.get_or_init(|| std::env::var_os("PORTOLAN_SIM_TRACE").is_some()) {
            eprintln!("{:x} {}", self.id, what());
        }
    }

    /// The stream is cut, and what is under way is lost.
    pub(crate) fn cut(mut self) {
        self.mirror.on_end(self.session.end());
    }
}
