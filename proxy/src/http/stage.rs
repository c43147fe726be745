//! Whom the answer of a try goes to: the client, or the client if no other try of the request was there
//! before.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use super::account::Account;
use super::answering::{Answering, Speaks};
use crate::worker::cluster::ActiveRequest;
use crate::worker::endpoint::Endpoint;

/// Where a try's answer goes.
pub(super) enum Stage<'s, 'r, 'a> {
    /// To the client.
    Alone(&'s mut Answering<'a>),
    /// To the client, if this try is the first of several.
    Beside(&'s Race<'r, 'a>),
}

/// Tries of one request that are under way at the same time.
pub(super) struct Race<'r, 'a> {
    /// Until one of them has an answer for the client.
    pub(super) answer: RefCell<Option<&'r mut Answering<'a>>>,
    pub(super) active: RefCell<Option<ActiveRequest>>,
    pub(super) account: &'r Account,
    pub(super) speaks: Speaks,
    /// Tries begun, and those of them under way.
    pub(super) begun: Cell<usize>,
    pub(super) running: Cell<usize>,
}

impl<'a> Stage<'_, '_, 'a> {
    /// What the client speaks.
    pub(super) fn speaks(&self) -> Speaks {
        match self {
            Self::Alone(answer) => answer.speaks,
            Self::Beside(race) => race.speaks,
        }
    }

    /// The way to the client while there is one try at a time.
    pub(super) fn alone(&mut self) -> Option<&mut Answering<'a>> {
        match self {
            Self::Alone(answer) => Some(answer),
            Self::Beside(_) => None,
        }
    }

    /// Tries of the request that were begun, where there may be several at a time.
    pub(super) fn begun(&self) -> Option<usize> {
        match self {
            Self::Alone(_) => None,
            Self::Beside(race) => Some(race.begun.get()),
        }
    }

    /// Whether another try is under way, which may come to something better.
    pub(super) fn has_others(&self) -> bool {
        matches!(self, Self::Beside(race) if race.running.get() > 1)
    }

    /// The way to the client, for the try that has an answer for it. There is none any more if another
    /// one was there before.
    pub(super) fn claim(
        &mut self,
        endpoint: &Rc<Endpoint>,
        since: Instant,
    ) -> Option<&mut Answering<'a>> {
        match self {
            Self::Alone(answer) => Some(answer),
            Self::Beside(race) => {
                let answer = race.answer.borrow_mut().take()?;
                race.account.on_won(endpoint, since);
                if let Some(active) = &mut *race.active.borrow_mut() {
                    active.on_answered();
                }
                Some(answer)
            }
        }
    }
}

impl Race<'_, '_> {
    /// Whether a try has had an answer for the client.
    pub(super) fn is_won(&self) -> bool {
        self.answer.borrow().is_none()
    }
}
