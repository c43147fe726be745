//! Annotations on who endpoints are, and on where proxies in front of them find them.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_model::name::validate_label;
use portolan_model::policy::{Account, Inbound, MutualTls, TlsMode};
use portolan_model::{Protocol, ServicePort};

use super::values::number;
use super::{PREFIX, Settings};
use crate::object::Fault;

/// Most accounts that endpoints of a service may have.
const MAX_ACCOUNTS: usize = 16;
/// Where the application of a service with one port listens, and of one port by name or number.
const APP_PORT: &str = "app-port";
pub(super) const APP_PORT_OF_PORT: &str = "app-port.";

impl Settings<'_, '_> {
    /// How endpoints and their clients prove to each other who they are.
    ///
    /// # Errors
    /// What cannot be read: without it more would be let in than was meant, so that the object is
    /// refused.
    pub(super) fn mutual_tls(&mut self) -> Result<Option<MutualTls>, Fault> {
        let accounts = self.demand("service-accounts", accounts)?.unwrap_or_default();
        let mode = self.demand("mtls", |text| match text {
            "off" => Ok(None),
            "permissive" => Ok(Some(TlsMode::Permissive)),
            "strict" => Ok(Some(TlsMode::Strict)),
            other => Err(format!("{other:?} is not strict, permissive or off")),
        })?;
        Ok(mode.flatten().map(|mode| MutualTls { mode, accounts }))
    }

    /// The value of a setting that is not left out where it is bad.
    fn demand<T>(
        &mut self,
        name: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Fault> {
        let Some(text) = self.values.remove(name) else { return Ok(None) };
        let field = format!("metadata.annotations[{PREFIX}{name}]");
        read(text.trim()).map(Some).map_err(|reason| Fault::rejected(field, reason))
    }

    /// Where proxies in front of endpoints listen, and where they find the application. `targets` are
    /// the numbers of `targetPort`, by port.
    pub(super) fn inbound(
        &mut self,
        ports: &[ServicePort],
        targets: &[Option<u16>],
    ) -> BTreeMap<u16, Inbound> {
        let mut inbound = BTreeMap::new();
        let tcp: Vec<(&ServicePort, Option<u16>)> = (ports.iter())
            .zip(targets.iter().copied())
            .filter(|(port, _)| port.protocol == Protocol::Tcp)
            .collect();
        let of_ports: Vec<&str> =
            self.values.keys().copied().filter(|n| n.starts_with(APP_PORT_OF_PORT)).collect();
        for name in std::iter::once(APP_PORT).chain(of_ports) {
            let Some(app) = self.take(name, |text| number(text, 1, u32::from(u16::MAX))) else {
                continue;
            };
            let wanted = name.strip_prefix(APP_PORT_OF_PORT);
            let is_it = |port: &ServicePort| {
                wanted.is_none_or(|wanted| {
                    port.name.as_deref() == Some(wanted) || port.port.to_string() == wanted
                })
            };
            let found: Vec<_> = tcp.iter().filter(|(port, _)| is_it(port)).collect();
            match found[..] {
                [(port, Some(listens))] => {
                    let app = u16::try_from(app).unwrap_or(0);
                    if app == *listens {
                        self.warn(name, "is the targetPort, where the proxy is to listen");
                    } else {
                        inbound.insert(port.port, Inbound { listens: *listens, app });
                    }
                }
                [(_, None)] => self.warn(name, "needs a targetPort that is a number"),
                [] => self.warn(name, "there is no such TCP port"),
                _ => self.warn(name, "say it for each port, as app-port.<port>"),
            }
        }
        inbound
    }
}

/// Names of accounts, between commas: `web` of the service's own namespace, `shop/web` of any.
fn accounts(text: &str) -> Result<Vec<Account>, String> {
    let one = |said: &str| -> Result<Account, String> {
        let said = said.trim();
        let (namespace, name) = match said.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, said),
        };
        let valid = namespace.into_iter().all(|n| validate_label(n).is_ok())
            && !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        if !valid {
            return Err(format!("{said:?} is not the name of a service account"));
        }
        Ok(Account { namespace: namespace.map(Arc::from), name: name.into() })
    };
    let accounts: Vec<Account> = text.split(',').map(one).collect::<Result<_, _>>()?;
    if accounts.len() > MAX_ACCOUNTS {
        return Err(format!("{} are more than {MAX_ACCOUNTS}", accounts.len()));
    }
    Ok(accounts)
}
