//! Load reports as they come with an answer, from untrusted bytes: the value of the header or
//! trailer `endpoint-load-metrics` as text or JSON, of `endpoint-load-metrics-bin` as protobuf.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::{OrcaError, OrcaReport};
use crate::protobuf::{Fields, Malformed, Value};

/// Longest value that is looked at, in bytes.
pub(super) const MAX_LEN: usize = 8 * 1024;

/// gRPC sends binary metadata without padding, Envoy with it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The JSON form of the report; protobuf's JSON has both spellings, and numbers too large for a
/// double as strings, which are not taken.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Json {
    #[serde(alias = "applicationUtilization")]
    application_utilization: f64,
    #[serde(alias = "cpuUtilization")]
    cpu_utilization: f64,
    #[serde(alias = "memUtilization")]
    mem_utilization: f64,
    #[serde(alias = "rpsFractional")]
    rps_fractional: f64,
    eps: f64,
    #[serde(alias = "namedMetrics")]
    named_metrics: BTreeMap<String, f64>,
}

/// A value of `endpoint-load-metrics`: `TEXT name=number,…`, `JSON {…}` or `BIN base64`; without a
/// word in front it is text.
///
/// # Errors
/// [`OrcaError`] when it is none of these. Metrics nobody here knows are passed over.
pub(crate) fn header(value: &[u8]) -> Result<OrcaReport, OrcaError> {
    if value.len() > MAX_LEN {
        return Err(OrcaError::TooLong);
    }
    match value.split_at_checked(5) {
        Some((b"TEXT ", rest)) => text(rest),
        Some((b"JSON ", rest)) => json(rest),
        _ => match value.strip_prefix(b"BIN ") {
            Some(rest) => binary(rest),
            None => text(value),
        },
    }
}

/// A value of `endpoint-load-metrics-bin`.
///
/// # Errors
/// [`OrcaError`] when it is not base64 or not a message.
pub(crate) fn binary(value: &[u8]) -> Result<OrcaReport, OrcaError> {
    if value.len() > MAX_LEN {
        return Err(OrcaError::TooLong);
    }
    let bytes = BASE64.decode(value.trim_ascii()).map_err(|_| OrcaError::Base64)?;
    message(&bytes).map_err(|Malformed| OrcaError::Wire)
}

/// What the fuzzer calls: no input may panic, and every number that comes out is finite and not
/// negative.
pub(crate) fn fuzz(data: &[u8]) {
    let raw = message(data).map_err(|Malformed| OrcaError::Wire);
    for report in [header(data), binary(data), json(data), raw].into_iter().flatten() {
        let numbers = [
            report.application_utilization,
            report.cpu_utilization,
            report.mem_utilization,
            report.qps,
            report.eps,
        ];
        let named = report.named.iter().map(|(_, value)| *value);
        assert!(numbers.into_iter().chain(named).all(|n| n.is_finite() && n >= 0.0), "{report:?}");
        assert!(report.named.len() <= super::MAX_NAMED);
        assert!(report.weight().is_none_or(|weight| weight.is_finite() && weight > 0.0));
    }
}

fn text(value: &[u8]) -> Result<OrcaReport, OrcaError> {
    let value = std::str::from_utf8(value).map_err(|_| OrcaError::Text)?;
    let mut report = OrcaReport::default();
    for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        // Envoy's form has a colon, the specification's an equals sign.
        let (name, number) = part.split_once(['=', ':']).ok_or(OrcaError::Text)?;
        let number: f64 = number.trim().parse().map_err(|_| OrcaError::Text)?;
        report.set(name.trim(), number);
    }
    Ok(report)
}

fn json(value: &[u8]) -> Result<OrcaReport, OrcaError> {
    // An array would be taken for the fields in order.
    if value.trim_ascii_start().first() != Some(&b'{') {
        return Err(OrcaError::Json);
    }
    let json: Json = serde_json::from_slice(value).map_err(|_| OrcaError::Json)?;
    let mut report = OrcaReport::default();
    report.set("application_utilization", json.application_utilization);
    report.set("cpu_utilization", json.cpu_utilization);
    report.set("mem_utilization", json.mem_utilization);
    report.set("rps_fractional", json.rps_fractional);
    report.set("eps", json.eps);
    for (name, number) in &json.named_metrics {
        report.add(name, if number.is_finite() { number.max(0.0) } else { 0.0 });
    }
    Ok(report)
}

/// `xds.data.orca.v3.OrcaLoadReport`; later fields win, as protobuf has it.
fn message(bytes: &[u8]) -> Result<OrcaReport, Malformed> {
    let (mut report, mut fields) = (OrcaReport::default(), Fields::of(bytes));
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Fixed64(bits)) => report.set("cpu_utilization", f64::from_le_bytes(bits)),
            (2, Value::Fixed64(bits)) => report.set("mem_utilization", f64::from_le_bytes(bits)),
            // Whole requests per second: deprecated, and in older servers all there is.
            (3, Value::Varint(rps)) if report.qps == 0.0 => {
                report.set("rps", crate::balance::number::float(rps));
            }
            (6, Value::Fixed64(bits)) => report.set("rps_fractional", f64::from_le_bytes(bits)),
            (7, Value::Fixed64(bits)) => report.set("eps", f64::from_le_bytes(bits)),
            (8, Value::Bytes(entry)) => named(&mut report, entry)?,
            (9, Value::Fixed64(bits)) => {
                report.set("application_utilization", f64::from_le_bytes(bits));
            }
            _ => {}
        }
    }
    Ok(report)
}

/// An entry of the map of named metrics: a message of key and value.
fn named(report: &mut OrcaReport, entry: &[u8]) -> Result<(), Malformed> {
    let (mut name, mut number) = ("", 0.0_f64);
    let mut fields = Fields::of(entry);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(key)) => name = std::str::from_utf8(key).map_err(|_| Malformed)?,
            (2, Value::Fixed64(bits)) => number = f64::from_le_bytes(bits),
            _ => {}
        }
    }
    report.add(name, if number.is_finite() { number.max(0.0) } else { 0.0 });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Rng;
    use crate::balance::orca::{MAX_NAME, MAX_NAMED};

    const SEED: u64 = 23;

    /// cpu 0.5, whole requests 7, requests 100, errors 1, one named metric, application 0.25.
    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut double = |tag: u8, value: f64| {
            bytes.push(tag);
            bytes.extend(value.to_le_bytes());
        };
        double(0x09, 0.5);
        double(0x11, 0.75);
        double(0x31, 100.0);
        double(0x39, 1.0);
        double(0x49, 0.25);
        bytes.extend([0x18, 7]);
        bytes.extend([0x42, 12, 0x0a, 1, b'q', 0x11]);
        bytes.extend(3.0_f64.to_le_bytes());
        bytes
    }

    fn expected() -> OrcaReport {
        OrcaReport {
            application_utilization: 0.25,
            cpu_utilization: 0.5,
            mem_utilization: 0.75,
            qps: 100.0,
            eps: 1.0,
            named: vec![("q".into(), 3.0)],
        }
    }

    #[test]
    fn the_same_report_is_read_from_every_format() {
        let padded = base64::engine::general_purpose::STANDARD.encode(sample());
        let bin = format!("BIN {padded}");
        #[rustfmt::skip]
        let cases = [
            "TEXT cpu_utilization=0.5,mem_utilization=0.75,rps_fractional=100,eps=1,application_utilization=0.25,named_metrics.q=3",
            "cpu_utilization:0.5, mem_utilization:0.75, rps_fractional:1e2, eps:1, application_utilization:.25, named_metrics.q:3, cost:9",
            r#"JSON {"cpu_utilization":0.5,"memUtilization":0.75,"rps_fractional":100,"eps":1,"application_utilization":0.25,"named_metrics":{"q":3},"x":[]}"#,
            &bin,
        ];
        for case in cases {
            assert_eq!(header(case.as_bytes()), Ok(expected()), "{case}");
        }
        for value in [padded.as_str(), padded.trim_end_matches('=')] {
            assert_eq!(binary(value.as_bytes()), Ok(expected()), "{value}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused_by_name() {
        let long = vec![b'a'; MAX_LEN + 1];
        #[rustfmt::skip]
        let cases: [(&[u8], OrcaError); 8] = [
            (b"TEXT cpu_utilization", OrcaError::Text), (b"TEXT cpu=x", OrcaError::Text),
            (b"cpu=1,\xff=2", OrcaError::Text), (b"JSON [1]", OrcaError::Json),
            (b"JSON {\"eps\":\"a\"}", OrcaError::Json), (b"BIN !!", OrcaError::Base64),
            (b"BIN CQ==", OrcaError::Wire), (&long, OrcaError::TooLong),
        ];
        for (value, expected) in cases {
            assert_eq!(header(value), Err(expected), "{}", String::from_utf8_lossy(value));
        }
        assert_eq!(binary(&long), Err(OrcaError::TooLong));
    }

    #[test]
    fn numbers_that_make_no_sense_count_as_not_said() {
        let report = header(b"TEXT cpu=NaN,mem=-3,rps=inf,eps=2").expect("parses");
        assert_eq!(report, OrcaReport { eps: 2.0, ..OrcaReport::default() });
    }

    #[test]
    fn named_metrics_are_bounded() {
        let many: Vec<String> = (0..100).map(|n| format!("named_metrics.m{n}=1")).collect();
        let report = header(many.join(",").as_bytes()).expect("parses");
        assert_eq!(report.named.len(), MAX_NAMED);
        let long = format!("named_metrics.{}=1,named_metrics.=1", "n".repeat(MAX_NAME + 1));
        assert!(header(long.as_bytes()).expect("parses").named.is_empty());
    }

    #[test]
    fn no_mutation_of_a_report_makes_it_panic() {
        let text = b"TEXT cpu_utilization=0.5,rps_fractional=100,named_metrics.q=3".to_vec();
        let json = br#"JSON {"cpu_utilization":0.5,"named_metrics":{"q":3}}"#.to_vec();
        let base64 = base64::engine::general_purpose::STANDARD.encode(sample()).into_bytes();
        let seeds = [sample(), text, json, base64];
        let mut rng = Rng::seeded(SEED);
        let byte = |rng: &mut Rng| u8::try_from(rng.below(256)).expect("below 256");
        for round in 0..60_000 {
            let mut data = seeds[round % seeds.len()].clone();
            for _ in 0..=rng.below(4) {
                let at = rng.index(data.len());
                match rng.below(4) {
                    0 if !data.is_empty() => data[at] = byte(&mut rng),
                    1 => data.truncate(at),
                    2 => data.insert(at, byte(&mut rng)),
                    _ => data.extend_from_within(at..),
                }
            }
            fuzz(&data);
        }
    }
}
