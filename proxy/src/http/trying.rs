//! What is said of an endpoint by how it had one request.

use std::cell::Cell;
use std::rc::Rc;

use super::account::Account;
use crate::balance::Outcome as LoadOutcome;
use crate::health::outcome::Outcome;
use crate::upstream::Cause;
use crate::worker::cluster::ActiveRequest;
use crate::worker::endpoint::{Endpoint, InFlight};
use crate::worker::shared::Shared;

/// A request at one endpoint: says once what became of it, to the balancer and to outlier
/// detection. What the client ends says nothing of the endpoint but how long it took at least.
pub(super) struct Trying<'a> {
    pub(super) load: InFlight,
    shared: &'a Shared,
    account: &'a Account,
    active: Option<&'a mut ActiveRequest>,
    told: bool,
    /// Set where it is said of the endpoint that it takes too long, and nothing else then.
    late: Option<Rc<Cell<bool>>>,
}

impl<'a> Trying<'a> {
    /// A request is given to the endpoint.
    pub(super) fn begin(
        endpoint: &Rc<Endpoint>,
        shared: &'a Shared,
        account: &'a Account,
        active: Option<&'a mut ActiveRequest>,
    ) -> Self {
        Self { load: endpoint.begin(), shared, account, active, told: false, late: None }
    }

    /// By which it can be told that the endpoint takes too long.
    pub(super) fn late(&mut self) -> Rc<Cell<bool>> {
        Rc::clone(self.late.get_or_insert_default())
    }

    /// It answered with this status.
    pub(super) fn on_answered(&mut self, status: u16) {
        self.account.on_head();
        let failed = status >= 500;
        self.load.observe(if failed { LoadOutcome::Failed } else { LoadOutcome::Answered });
        if let Some(active) = &mut self.active {
            active.on_answered();
        }
        self.tell(Outcome::of_status(status));
    }

    /// It answered with a head that says nothing yet: a gRPC status is to come.
    pub(super) fn on_begun(&mut self) {
        self.account.on_head();
        self.load.observe(LoadOutcome::Answered);
        if let Some(active) = &mut self.active {
            active.on_answered();
        }
    }

    /// It answered with this gRPC status.
    pub(super) fn on_grpc(&mut self, status: u32) {
        self.account.on_grpc(status);
        self.on_begun();
        self.tell(Outcome::of_grpc(status));
    }

    /// It did not answer.
    pub(super) fn on_failed(&mut self, cause: Cause) {
        match cause {
            // It was never asked.
            Cause::Limit => {}
            Cause::Status(status) => self.on_answered(status),
            Cause::Grpc(status) => self.on_grpc(status),
            _ => {
                self.load.observe(LoadOutcome::Failed);
                self.tell(Outcome::LocalError);
            }
        }
    }

    fn tell(&mut self, outcome: Outcome) {
        let is_late = self.late.as_ref().is_some_and(|late| late.get());
        if !std::mem::replace(&mut self.told, true) && !is_late {
            self.load.endpoint().report(self.shared.number, outcome);
        }
    }
}
