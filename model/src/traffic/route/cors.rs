//! Which pages of other origins may read what a route answers (Fetch standard, "CORS protocol"; Envoy
//! `CorsPolicy`; Gateway API `HTTPCORSFilter`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Asked, HeaderEdit, TextMatch};

/// What browsers are told of a route. Texts are the values of the fields that say them; an empty one is
/// left out. `*` in `methods` or `headers` stands for what is asked, since browsers that send credentials
/// take it for a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Origins whose pages may read answers, such as `https://shop.example.com`; what takes `*` takes
    /// any.
    pub origins: Vec<TextMatch>,
    /// `access-control-allow-methods`
    pub methods: Arc<str>,
    /// `access-control-allow-headers`
    pub headers: Arc<str>,
    /// `access-control-expose-headers`
    pub exposed: Arc<str>,
    /// `access-control-max-age`
    pub max_age: Arc<str>,
    /// Whether pages may send cookies and certificates.
    pub credentials: bool,
    /// Preflights of other origins go on to the endpoint; else they are answered, without leave.
    pub forward_unmatched: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsVerdict {
    /// It goes on, and these changes are made to its answer.
    Marked(Vec<HeaderEdit>),
    /// It is a preflight, answered with 200 and these.
    Preflight(Vec<HeaderEdit>),
}

impl Cors {
    /// What becomes of a request.
    pub fn judge(&self, asked: &impl Asked) -> CorsVerdict {
        let Some(origin) = asked.field("origin").filter(|origin| !origin.is_empty()) else {
            return CorsVerdict::Marked(vec![vary()]);
        };
        let wanted = asked.field("access-control-request-method").and_then(|value| text(&value));
        let preflight = wanted.filter(|wanted| {
            !wanted.is_empty() && asked.field(":method").as_deref() == Some(b"OPTIONS")
        });
        let allowed = self.origins.iter().any(|own| own.matches(b"*") || own.matches(&origin));
        let origin = text(&origin).filter(|_| allowed);
        match (origin, preflight) {
            (None, Some(_)) if !self.forward_unmatched => CorsVerdict::Preflight(Vec::new()),
            (None, _) => CorsVerdict::Marked(vec![vary()]),
            (Some(origin), None) => {
                let mut edits = self.both(&origin);
                edits.extend(set("access-control-expose-headers", &self.exposed));
                CorsVerdict::Marked(edits)
            }
            (Some(origin), Some(method)) => {
                let headers =
                    asked.field("access-control-request-headers").and_then(|value| text(&value));
                let headers = headers.unwrap_or_default();
                let mut edits = self.both(&origin);
                let own = |said: &str, wanted: &str| -> Arc<str> {
                    if said == "*" { wanted.into() } else { said.into() }
                };
                edits.extend(set("access-control-allow-methods", &own(&self.methods, &method)));
                edits.extend(set("access-control-allow-headers", &own(&self.headers, &headers)));
                edits.extend(set("access-control-max-age", &self.max_age));
                CorsVerdict::Preflight(edits)
            }
        }
    }

    /// What an answer of either kind says.
    fn both(&self, origin: &str) -> Vec<HeaderEdit> {
        let mut edits: Vec<_> = set("access-control-allow-origin", origin).collect();
        let credentials = "access-control-allow-credentials";
        if self.credentials {
            edits.extend(set(credentials, "true"));
        } else {
            // What an endpoint allows its own origin is not for the one that is allowed here.
            edits.push(HeaderEdit::Remove(credentials.into()));
        }
        edits.push(vary());
        edits
    }
}

/// A cache is not to give it to another origin (Fetch, "CORS protocol and HTTP caches").
fn vary() -> HeaderEdit {
    HeaderEdit::Add("vary".into(), "origin".into())
}

fn set(name: &str, value: &str) -> impl Iterator<Item = HeaderEdit> {
    (!value.is_empty()).then(|| HeaderEdit::Set(name.into(), value.into())).into_iter()
}

/// A field as text; what is none is as if it were not there.
fn text(value: &[u8]) -> Option<Arc<str>> {
    std::str::from_utf8(value).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::traffic::{Pattern, TextTest};

    struct Request(Vec<(&'static str, &'static str)>);

    impl Asked for Request {
        fn path(&self) -> &[u8] {
            b"/"
        }

        fn query(&self) -> Option<&[u8]> {
            None
        }

        fn field(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            let found = self.0.iter().find(|(own, _)| *own == name)?;
            Some(Cow::Borrowed(found.1.as_bytes()))
        }

        fn is_grpc(&self) -> bool {
            false
        }

        fn random(&self) -> u64 {
            0
        }
    }

    fn origin(test: TextTest) -> TextMatch {
        TextMatch { test, ignore_case: false }
    }

    fn cors() -> Cors {
        let below = Pattern::new(r"https://[^/]+\.b\.test").expect("valid");
        Cors {
            origins: vec![
                origin(TextTest::Exact("https://a.test".into())),
                origin(TextTest::Regex(below)),
            ],
            methods: "GET, PUT".into(),
            headers: "x-a".into(),
            exposed: "x-b".into(),
            max_age: "5".into(),
            ..Cors::default()
        }
    }

    fn said(edits: &[HeaderEdit]) -> Vec<String> {
        let one = |edit: &HeaderEdit| match edit {
            HeaderEdit::Set(name, value) => {
                format!("{}={value}", name.trim_start_matches("access-control-"))
            }
            HeaderEdit::Remove(name) => format!("-{}", name.trim_start_matches("access-control-")),
            other => format!("+{}", other.name()),
        };
        edits.iter().map(one).collect()
    }

    #[test]
    fn an_answer_is_marked_for_origins_that_may_read_it() {
        for (origin, marked) in [
            ("https://a.test", true),
            ("https://x.y.b.test", true),
            ("https://b.test", false),
            ("https://a.test.evil", false),
            ("http://a.test", false),
            ("null", false),
        ] {
            let request = Request(vec![("origin", origin), (":method", "GET")]);
            let expected = if marked {
                let own = format!("allow-origin={origin}");
                let rest = ["-allow-credentials", "+vary", "expose-headers=x-b"];
                [vec![own], rest.map(str::to_owned).to_vec()].concat()
            } else {
                vec!["+vary".to_owned()]
            };
            match cors().judge(&request) {
                CorsVerdict::Marked(edits) => assert_eq!(said(&edits), expected, "{origin}"),
                preflight @ CorsVerdict::Preflight(_) => panic!("{origin}: {preflight:?}"),
            }
        }
        let of_no_origin = cors().judge(&Request(vec![(":method", "GET")]));
        assert_eq!(of_no_origin, CorsVerdict::Marked(vec![vary()]));
    }

    #[test]
    fn a_preflight_is_told_what_it_may() {
        let request = |origin| {
            Request(vec![
                ("origin", origin),
                (":method", "OPTIONS"),
                ("access-control-request-method", "PATCH"),
                ("access-control-request-headers", "x-c,x-d"),
            ])
        };
        let any = Cors {
            methods: "*".into(),
            headers: "*".into(),
            origins: vec![origin(TextTest::Exact("*".into()))],
            ..Cors::default()
        };
        let with = Cors { credentials: true, ..any.clone() };
        let forward = Cors { forward_unmatched: true, ..cors() };
        for (cors, origin, expected) in [
            (
                cors(),
                "https://a.test",
                Some(
                    &[
                        "allow-origin=https://a.test",
                        "-allow-credentials",
                        "+vary",
                        "allow-methods=GET, PUT",
                        "allow-headers=x-a",
                        "max-age=5",
                    ][..],
                ),
            ),
            (cors(), "https://c.test", Some(&[])),
            (forward, "https://c.test", None),
            (
                any,
                "null",
                Some(&[
                    "allow-origin=null",
                    "-allow-credentials",
                    "+vary",
                    "allow-methods=PATCH",
                    "allow-headers=x-c,x-d",
                ]),
            ),
            (
                with,
                "https://c.test",
                Some(&[
                    "allow-origin=https://c.test",
                    "allow-credentials=true",
                    "+vary",
                    "allow-methods=PATCH",
                    "allow-headers=x-c,x-d",
                ]),
            ),
        ] {
            match cors.judge(&request(origin)) {
                CorsVerdict::Preflight(edits) => assert_eq!(
                    Some(&said(&edits)[..]),
                    expected
                        .map(|said| said.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>())
                        .as_deref()
                ),
                verdict => {
                    assert_eq!((expected, verdict), (None, CorsVerdict::Marked(vec![vary()])));
                }
            }
        }
        // Without the method that is to follow it is an OPTIONS as any other.
        let plain = Request(vec![("origin", "https://a.test"), (":method", "OPTIONS")]);
        assert!(matches!(cors().judge(&plain), CorsVerdict::Marked(_)));
    }
}
