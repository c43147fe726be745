//! The context of a trace in the fields of a request: `traceparent` (W3C Trace Context), and `b3` or
//! `X-B3-…` (openzipkin/b3-propagation) where a client brings these.

use super::Traced;
use crate::message::Fields;

const TRACEPARENT: &[u8] = b"traceparent";
const TRACESTATE: &[u8] = b"tracestate";
const B3: &[u8] = b"b3";
const B3_TRACE: &[u8] = b"x-b3-traceid";
const B3_SPAN: &[u8] = b"x-b3-spanid";
const B3_PARENT: &[u8] = b"x-b3-parentspanid";
const B3_SAMPLED: &[u8] = b"x-b3-sampled";
const B3_FLAGS: &[u8] = b"x-b3-flags";

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace: u128,
    pub(super) span: u64,
    /// `None`: that is for whoever comes next.
    pub(super) sampled: Option<bool>,
}

impl Context {
    /// The context that a request has. What is malformed is as if it were not there.
    pub(super) fn read(fields: &Fields) -> Option<Self> {
        let mut all = fields.all_named(TRACEPARENT);
        let first = all.next().and_then(w3c).filter(|_| all.next().is_none());
        first.or_else(|| fields.named(B3).and_then(b3)).or_else(|| b3_of_several(fields))
    }
}

/// `00-<32 digits>-<16 digits>-<flags>` (§3.2); of a later version, what it has in common with this one.
fn w3c(value: &[u8]) -> Option<Context> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let mut parts = text.splitn(5, '-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = hex(version, 2)?;
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let trace = hex(trace, 32).filter(|trace| *trace != 0)?;
    let span = u64::try_from(hex(span, 16)?).ok().filter(|span| *span != 0)?;
    let sampled = Some(hex(flags, 2)? & 1 == 1);
    Some(Context { trace, span, sampled })
}

/// `<trace>-<span>[-<decision>[-<parent>]]`
fn b3(value: &[u8]) -> Option<Context> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let mut parts = text.splitn(4, '-');
    let (trace, span) = (trace_id(parts.next()?)?, span_id(parts.next()?)?);
    let sampled = match parts.next() {
        None => None,
        Some(decision) => Some(self::decision(decision)?),
    };
    Some(Context { trace, span, sampled })
}

fn b3_of_several(fields: &Fields) -> Option<Context> {
    let text = |name| std::str::from_utf8(fields.named(name)?).ok();
    let (trace, span) = (trace_id(text(B3_TRACE)?)?, span_id(text(B3_SPAN)?)?);
    Some(Context { trace, span, sampled: b3_decision(fields) })
}

/// What B3 says of whether there are spans, with a context or without.
pub(super) fn b3_decision(fields: &Fields) -> Option<bool> {
    let text = |name| std::str::from_utf8(fields.named(name)?).ok();
    if text(B3_FLAGS) == Some("1") {
        return Some(true);
    }
    text(B3_SAMPLED).and_then(decision).or_else(|| decision(text(B3)?))
}

fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn trace_id(text: &str) -> Option<u128> {
    hex(text, 32).or_else(|| hex(text, 16)).filter(|trace| *trace != 0)
}

fn span_id(text: &str) -> Option<u64> {
    u64::try_from(hex(text, 16)?).ok().filter(|span| *span != 0)
}

/// So many digits, in lower case as W3C has them; B3 is read in the same way.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Puts the proxy's span in the place of the client's, in every form that the client has, and in W3C's in
/// any case. What somebody said of a trace that this is no part of does not go on.
pub(super) fn write(fields: &mut Fields, traced: &Traced, continued: bool) {
    let Traced { trace, server, client, sampled, .. } = *traced;
    let flag = u8::from(sampled);
    fields.remove_named(TRACEPARENT);
    fields.push(TRACEPARENT, format!("00-{trace:032x}-{client:016x}-{flag:02x}").as_bytes());
    if !continued {
        fields.remove_named(TRACESTATE);
    }
    if fields.named(B3).is_some() {
        fields.remove_named(B3);
        let value = format!("{trace:032x}-{client:016x}-{flag}-{server:016x}");
        fields.push(B3, value.as_bytes());
    }
    let several = [B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS];
    if several.iter().any(|name| fields.named(name).is_some()) {
        // Debug is a decision by itself, and said instead of one.
        let debug = sampled && fields.named(B3_FLAGS) == Some(b"1");
        let all = [B3_TRACE, B3_SPAN, B3_PARENT, B3_SAMPLED, B3_FLAGS];
        all.iter().for_each(|name| fields.remove_named(name));
        fields.push(B3_TRACE, format!("{trace:032x}").as_bytes());
        fields.push(B3_SPAN, format!("{client:016x}").as_bytes());
        fields.push(B3_PARENT, format!("{server:016x}").as_bytes());
        match (debug, sampled) {
            (true, _) => fields.push(B3_FLAGS, b"1"),
            (false, true) => fields.push(B3_SAMPLED, b"1"),
            (false, false) => fields.push(B3_SAMPLED, b"0"),
        }
    }
}

/// A context that was read goes on as one.
pub(crate) fn fuzz(data: &[u8]) {
    for name in [TRACEPARENT, B3, B3_TRACE] {
        let mut fields = Fields::default();
        fields.push(name, data);
        fields.push(B3_SPAN, b"00000000000000cd");
        let Some(Context { trace, span, sampled }) = Context::read(&fields) else { continue };
        let (sampled, parent) = (sampled.unwrap_or(true), Some(span));
        let traced = Traced { trace, parent, server: 1, client: 2, sampled };
        write(&mut fields, &traced, true);
        let expected = Context { trace, span: 2, sampled: Some(sampled) };
        assert_eq!(Context::read(&fields), Some(expected));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::trace::Tracer;

    const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN: u64 = 0xb7ad_6b71_6920_3331;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        pairs.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes()));
        fields
    }

    #[test]
    fn a_context_is_read_in_each_form_and_rubbish_is_none() {
        let w3c = |rest: &str| format!("00-{TRACE:032x}-{SPAN:016x}-{rest}");
        let of = |sampled| Some(Context { trace: TRACE, span: SPAN, sampled });
        for (name, value, expected) in [
            ("traceparent", w3c("01"), of(Some(true))),
            ("traceparent", w3c("00"), of(Some(false))),
            ("traceparent", w3c("03"), of(Some(true))),
            ("traceparent", w3c("01-more"), None),
            ("traceparent", w3c("01").replacen("00", "cc", 1) + "-more", of(Some(true))),
            ("traceparent", w3c("01").replacen("00", "ff", 1), None),
            ("traceparent", w3c("1"), None),
            ("traceparent", w3c("01").to_uppercase(), None),
            ("traceparent", format!("00-{:032x}-{SPAN:016x}-01", 0), None),
            ("traceparent", format!("00-{TRACE:032x}-{:016x}-01", 0), None),
            ("traceparent", String::new(), None),
            ("traceparent", "é-é-é-é".to_owned(), None),
            ("b3", format!("{TRACE:032x}-{SPAN:016x}-1"), of(Some(true))),
            ("b3", format!("{TRACE:032x}-{SPAN:016x}-0-{SPAN:016x}"), of(Some(false))),
            ("b3", format!("{TRACE:032x}-{SPAN:016x}-d"), of(Some(true))),
            ("b3", format!("{TRACE:032x}-{SPAN:016x}"), of(None)),
            ("b3", format!("{TRACE:032x}-{SPAN:016x}-x"), None),
            ("b3", "0".to_owned(), None),
            ("b3", "a-b-c-d-e-f".to_owned(), None),
        ] {
            assert_eq!(Context::read(&fields(&[(name, &value)])), expected, "{name}: {value}");
        }
        let twice = [("traceparent", &*w3c("01")), ("traceparent", &*w3c("01"))];
        assert_eq!(Context::read(&fields(&twice)), None, "two say nothing");
        let several = [("X-B3-TraceId", "00000000000000ab"), ("X-B3-SpanId", "00000000000000cd")];
        let found = Context::read(&fields(&several)).expect("a context");
        assert_eq!((found.trace, found.span, found.sampled), (0xab, 0xcd, None));
    }

    fn traced(given: &[(&str, &str)], sample: u32) -> (Traced, Fields) {
        let (sender, _receiver) = mpsc::channel(1);
        let tracer = Tracer { sample_per_million: sample, believes: true, sender };
        let mut fields = fields(given);
        let traced = tracer.begin(&mut fields, [1, 2, 3, 4, 5]);
        (traced, fields)
    }

    #[test]
    fn a_trace_goes_on_with_the_span_of_this_proxy_in_it() {
        let given = format!("00-{TRACE:032x}-{SPAN:016x}-01");
        let (found, passed) = traced(&[("traceparent", &given), ("tracestate", "a=1")], 0);
        assert_eq!((found.trace, found.parent, found.sampled), (TRACE, Some(SPAN), true));
        let expected = format!("00-{TRACE:032x}-0000000000000004-01");
        assert_eq!(passed.named(TRACEPARENT), Some(expected.as_bytes()));
        assert_eq!(passed.named(TRACESTATE), Some(&b"a=1"[..]));

        let given = format!("{TRACE:032x}-{SPAN:016x}-0");
        let (found, passed) = traced(&[("b3", &given)], 1_000_000);
        assert!(!found.sampled, "the sender decides");
        let expected = format!("{TRACE:032x}-0000000000000004-0-0000000000000003");
        assert_eq!(passed.named(B3), Some(expected.as_bytes()));

        let several = [
            ("x-b3-traceid", "00000000000000ab"),
            ("x-b3-spanid", "00000000000000cd"),
            ("x-b3-flags", "1"),
        ];
        let (found, passed) = traced(&several, 0);
        assert!(found.sampled, "debug");
        assert_eq!((passed.named(B3_FLAGS), passed.named(B3_SAMPLED)), (Some(&b"1"[..]), None));
        let off = format!("00-{TRACE:032x}-{SPAN:016x}-00");
        let refused = [("traceparent", &*off), ("x-b3-flags", "1")];
        let (found, passed) = traced(&refused, 0);
        assert!(!found.sampled, "W3C's comes first");
        assert_eq!((passed.named(B3_FLAGS), passed.named(B3_SAMPLED)), (None, Some(&b"0"[..])));
        assert_eq!(passed.named(B3_SPAN), Some(&b"0000000000000004"[..]));
        assert_eq!(passed.named(B3_PARENT), Some(&b"0000000000000003"[..]));
        assert_eq!(passed.all_named(B3_SPAN).count(), 1);
    }

    #[test]
    fn who_is_not_believed_does_not_decide() {
        let (sender, _receiver) = mpsc::channel(1);
        let tracer = Tracer { sample_per_million: 0, believes: false, sender };
        let mut fields = fields(&[("traceparent", &format!("00-{TRACE:032x}-{SPAN:016x}-01"))]);
        let found = tracer.begin(&mut fields, [1, 2, 3, 4, 5]);
        assert_eq!((found.trace, found.parent, found.sampled), (TRACE, Some(SPAN), false));
    }

    #[test]
    fn a_trace_begins_where_nobody_began_one() {
        for (given, sample, sampled) in [
            (&[][..], 1_000_000, true),
            (&[][..], 0, false),
            (&[("b3", "0")], 1_000_000, false),
            (&[("x-b3-sampled", "1")], 0, true),
            (&[("traceparent", "rubbish"), ("tracestate", "a=1")], 0, false),
        ] {
            let (found, passed) = traced(given, sample);
            assert_eq!((found.parent, found.sampled), (None, sampled), "{given:?}");
            assert_eq!(found.trace, 1 << 64 | 2);
            let flag = u8::from(sampled);
            let expected = format!("00-{:032x}-0000000000000004-{flag:02x}", found.trace);
            assert_eq!(passed.named(TRACEPARENT), Some(expected.as_bytes()), "{given:?}");
            assert_eq!(passed.named(TRACESTATE), None);
        }
    }
}
