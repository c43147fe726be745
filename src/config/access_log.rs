//! The settings of the access log: `[proxy.access_log]`.

use portolan_proxy::{AccessFormat, AccessLog, AccessTo};

use super::reader::Reader;

/// Reads them; `None`: no access log.
pub(super) fn read(r: &mut Reader) -> Option<AccessLog> {
    let to = r.text::<String>(
        "proxy.access_log.to",
        "off",
        "Where a record of each request and TCP stream goes: off, stdout, stderr, or the path of a \
         file, opened anew on SIGHUP and when it was renamed",
    );
    let format = r.word(
        "proxy.access_log.format",
        &[("text", AccessFormat::Text), ("json", AccessFormat::Json)],
        "How a record looks: text or json",
    );
    let sample = r.share(
        "proxy.access_log.sample",
        1.0,
        "Share of successes that have a record, from 0 to 1; failures always have one",
    );
    let to = match to?.as_str() {
        "off" => return None,
        "stdout" => AccessTo::Stdout,
        "stderr" => AccessTo::Stderr,
        "" => {
            r.reject("proxy.access_log.to", "is empty: off, stdout, stderr or a path");
            return None;
        }
        path => AccessTo::File(path.into()),
    };
    Some(AccessLog { to, format, sample_per_million: sample })
}
