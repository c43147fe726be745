//! A cluster's endpoints for a decision record: who could be picked, and why the others are not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use portolan_model::traffic::{Health, Target};
use tokio::time::Instant;

use super::cluster::ClusterState;
use super::endpoint::Endpoint;
use crate::balance::describe::{EndpointView, PriorityView};
use crate::decision::{Candidate, MAX_CANDIDATES};
use crate::health::Board;
use crate::health::view::HostView;

/// What a request asked of its endpoints.
pub(crate) struct Sought<'a> {
    /// Those that were tried.
    pub(crate) tried: &'a [SocketAddr],
    /// Labels that they must have.
    pub(crate) labels: Option<&'a BTreeMap<String, String>>,
}

impl ClusterState {
    /// The word of how it balances, and its endpoints; none if they are too many to name.
    pub(crate) fn candidates(
        &self,
        board: &Board,
        sought: &Sought<'_>,
    ) -> (&'static str, Vec<Candidate>) {
        let word = self.config.balancing.balancer.word();
        if self.members.len() > MAX_CANDIDATES {
            return (word, Vec::new());
        }
        let now = Instant::now();
        let described = self.describe();
        let hosts = board.view(&self.config.name);
        let targets = self.set.iter().flat_map(|set| &set.endpoints);
        let one = |((view, member), target): ((EndpointView, &Rc<Endpoint>), &Target)| {
            let host = hosts.iter().find(|host| host.address == view.address);
            let why = labels(target, sought).or_else(|| {
                passed_over(&view, target, member.is_avoided(now), host, &described.priorities)
            });
            Candidate {
                address: view.address,
                priority: view.priority,
                in_flight: view.in_flight,
                ewma_ms: view.ewma_ms.map(|ms| (ms * 1e3).round() / 1e3),
                tried: sought.tried.contains(&view.address),
                passed_over: why,
                zone: view.zone,
            }
        };
        let all = described.endpoints.into_iter().zip(&self.members).zip(targets);
        (word, all.map(one).collect())
    }
}

fn labels(target: &Target, sought: &Sought<'_>) -> Option<String> {
    let (name, value) = missing_label(target, sought.labels?)?;
    Some(format!("it has no label {name}={value}"))
}

/// The first of some labels that an endpoint does not have.
pub(super) fn missing_label<'a>(
    target: &Target,
    wanted: &'a BTreeMap<String, String>,
) -> Option<(&'a String, &'a String)> {
    let has = |name: &str| target.labels.as_ref().and_then(|labels| labels.get(name));
    wanted.iter().find(|(name, value)| has(name) != Some(value))
}

/// Why an endpoint is given nothing; `None` if it could be picked.
fn passed_over(
    view: &EndpointView,
    target: &Target,
    avoided: bool,
    host: Option<&HostView>,
    priorities: &[PriorityView],
) -> Option<String> {
    let serves = view.weight.is_some() && view.percent > 0;
    if serves {
        return avoided.then(|| "it took no connection just now".to_owned());
    }
    if let Some(ejected) = host.and_then(|host| host.ejected) {
        let (cause, left) = (ejected.cause.as_str(), ejected.left_ms);
        return Some(format!("ejected for {cause}, {left} ms left"));
    }
    if let Some(host) = host.filter(|host| host.failed_check) {
        let reason = host.reason.as_deref().unwrap_or("none has succeeded yet");
        return Some(format!("its health check fails: {reason}"));
    }
    match target.health {
        Health::Unhealthy => return Some("the control plane says that it is unhealthy".to_owned()),
        Health::Draining => return Some("the control plane says that it drains".to_owned()),
        Health::Degraded => return Some("degraded, and others are not".to_owned()),
        Health::Healthy => {}
    }
    if !view.healthy {
        return Some("unhealthy".to_owned());
    }
    let own = priorities.iter().find(|own| own.priority == view.priority)?;
    let before = priorities.iter().find(|other| other.percent > 0).map(|other| other.priority);
    (own.percent == 0).then(|| match before {
        Some(before) => format!("priority {} gets nothing while {before} serves", own.priority),
        None => format!("priority {} gets nothing", own.priority),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(priority: u32, percent: u32) -> EndpointView {
        EndpointView {
            address: SocketAddr::from(([10, 0, 0, 1], 80)),
            priority,
            zone: String::new(),
            healthy: true,
            weight: (percent > 0).then_some(1.0),
            in_flight: 0,
            ewma_ms: None,
            percent,
        }
    }

    fn priority(priority: u32, percent: u32) -> PriorityView {
        PriorityView {
            priority,
            endpoints: 1,
            healthy: 1,
            degraded: 0,
            percent,
            percent_degraded: 0,
            panic: false,
        }
    }

    fn target(health: Health) -> Target {
        let labels = BTreeMap::from([("version".to_owned(), "1".to_owned())]);
        Target {
            address: SocketAddr::from(([10, 0, 0, 1], 80)),
            weight: 1,
            locality: 0,
            health,
            labels: Some(labels.into()),
        }
    }

    #[test]
    fn each_that_is_passed_over_has_its_reason() {
        let priorities = [priority(0, 100), priority(1, 0)];
        let why = |view: &EndpointView, health, avoided| {
            passed_over(view, &target(health), avoided, None, &priorities)
        };
        assert_eq!(why(&view(0, 100), Health::Healthy, false), None);
        let said = |text: Option<String>| text.expect("a reason");
        assert_eq!(
            said(why(&view(0, 100), Health::Healthy, true)),
            "it took no connection just now"
        );
        assert_eq!(
            said(why(&view(1, 0), Health::Healthy, false)),
            "priority 1 gets nothing while 0 serves"
        );
        assert_eq!(
            said(why(&view(0, 0), Health::Draining, false)),
            "the control plane says that it drains"
        );
        let failed = EndpointView { healthy: false, ..view(0, 0) };
        assert_eq!(said(why(&failed, Health::Healthy, false)), "unhealthy");
    }

    #[test]
    fn one_without_the_labels_that_are_asked_for_is_told_by_the_first() {
        let of = |value: &str| {
            let wanted = BTreeMap::from([("version".to_owned(), value.to_owned())]);
            let sought = Sought { tried: &[], labels: Some(&wanted) };
            labels(&target(Health::Healthy), &sought)
        };
        assert_eq!(of("1"), None);
        assert_eq!(of("2").expect("a reason"), "it has no label version=2");
    }
}
