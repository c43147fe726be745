//! The fake API server against the real client: what the other tests of Kubernetes may rely on.

mod support;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::Request;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams, ObjectMeta};
use kube::core::Status;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use support::apiserver::{ApiServer, Body, Serving};
use tokio::net::TcpListener;

/// Longest any one thing may take, most of it on a paused clock.
const PATIENCE: Duration = Duration::from_secs(3600);
const STRATEGIES: [fn() -> watcher::Config; 2] =
    [watcher::Config::default, || watcher::Config::default().streaming_lists()];

/// Fails instead of hanging.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

fn service(name: &str) -> Value {
    json!({
        "kind": "Service",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
        "spec": { "clusterIP": "10.0.0.1" },
    })
}

fn client(server: &ApiServer) -> Client {
    Client::new(server.clone(), "default")
}

async fn serve(server: &ApiServer) -> (Serving, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let serving = server.serve(listener);
    let config = kube::Config::new(serving.url().parse().expect("a URL"));
    (serving, Client::try_from(config).expect("a client"))
}

fn services(client: &Client) -> Api<Service> {
    Api::namespaced(client.clone(), "shop")
}

/// The error that the server answered with.
fn status<T: std::fmt::Debug>(answer: kube::Result<T>) -> Box<Status> {
    match answer {
        Err(kube::Error::Api(status)) => status,
        other => panic!("no status: {other:?}"),
    }
}

/// A request without a client between.
async fn get(server: &ApiServer, path: &str) -> http::Response<Body> {
    let request = Request::get(path).body(String::new()).expect("a request");
    server.handle(request).await.expect("a response")
}

async fn text(response: http::Response<Body>) -> String {
    let body = soon("a body", response.into_body().collect()).await.expect("a whole body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

/// The next piece of a body.
async fn line(body: &mut Body) -> String {
    let frame = soon("a line", body.frame()).await.expect("no end").expect("no error");
    String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")
}

/// What a watcher has told, kept as a user of it would: name to resource version.
struct Mirror {
    events: BoxStream<'static, watcher::Result<watcher::Event<Service>>>,
    objects: BTreeMap<String, String>,
    arriving: BTreeMap<String, String>,
    is_whole: bool,
    inits: usize,
    errors: Vec<String>,
}

impl Mirror {
    fn new(client: &Client, config: watcher::Config) -> Self {
        let events = watcher(services(client), config).default_backoff().boxed();
        let (objects, arriving) = (BTreeMap::new(), BTreeMap::new());
        Self { events, objects, arriving, is_whole: false, inits: 0, errors: Vec::new() }
    }

    async fn step(&mut self) {
        let version = |object: &Service| object.resource_version().expect("stamped");
        match self.events.next().await.expect("a watcher never ends") {
            Ok(watcher::Event::Init) => {
                self.arriving.clear();
                self.inits += 1;
            }
            Ok(watcher::Event::InitApply(object)) => {
                self.arriving.insert(object.name_any(), version(&object));
            }
            Ok(watcher::Event::InitDone) => {
                self.objects = std::mem::take(&mut self.arriving);
                self.is_whole = true;
            }
            Ok(watcher::Event::Apply(object)) => {
                self.objects.insert(object.name_any(), version(&object));
            }
            Ok(watcher::Event::Delete(object)) => {
                self.objects.remove(&object.name_any());
            }
            Err(error) => self.errors.push(error.to_string()),
        }
    }

    /// Reads on until it has what the server has.
    async fn reach(&mut self, server: &ApiServer) {
        let truth: BTreeMap<String, String> = server
            .objects("Service")
            .iter()
            .map(|o| (&o["metadata"]["name"], &o["metadata"]["resourceVersion"]))
            .map(|(name, version)| (name.as_str(), version.as_str()))
            .map(|(name, version)| (name.expect("named").into(), version.expect("stamped").into()))
            .collect();
        soon("the truth", async {
            while !self.is_whole || self.objects != truth {
                self.step().await;
            }
        })
        .await;
    }

    /// Reads on until it has a watch open; what it is told meanwhile is kept.
    async fn reach_watching(&mut self, server: &ApiServer) {
        let until = server.until(|server| server.open_watches("Service") > 0);
        tokio::pin!(until);
        soon("an open watch", async {
            loop {
                tokio::select! {
                    biased;
                    () = &mut until => return,
                    () = self.step() => {}
                }
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::api::events::v1::Event;
    use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
    use kube::runtime::events::{EventType, Recorder, Reporter};

    use super::*;
    use crate::support::apiserver::Fault;

    async fn check_watching(server: &ApiServer, client: &Client, config: watcher::Config) {
        server.load((0..7).map(|n| service(&format!("s{n}"))).collect());
        let mut mirror = Mirror::new(client, config);
        mirror.reach(server).await;
        mirror.reach_watching(server).await;
        server.apply(service("new"));
        server.apply(service("s1"));
        assert!(server.delete("Service", "shop", "s2"));
        assert!(!server.delete("Service", "shop", "s2"), "gone already");
        mirror.reach(server).await;
        assert_eq!((mirror.objects.len(), mirror.inits, mirror.errors.len()), (7, 1, 0));
        server.close_watches();
        server.apply(service("later"));
        mirror.reach(server).await;
        assert_eq!((mirror.objects.len(), mirror.inits, mirror.errors.len()), (8, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_sees_what_there_is_and_then_what_changes() {
        for strategy in STRATEGIES {
            let server = ApiServer::new();
            check_watching(&server, &client(&server), strategy().page_size(3)).await;
        }
    }

    #[tokio::test]
    async fn a_socket_between_makes_no_difference() {
        for strategy in STRATEGIES {
            let server = ApiServer::new();
            let (serving, client) = serve(&server).await;
            check_watching(&server, &client, strategy().page_size(3)).await;
            let address = serving.address();
            serving.stop().await;
            TcpListener::bind(address).await.expect("the port is free again");
        }
    }

    #[tokio::test]
    async fn later_pages_are_of_the_world_at_the_first_until_it_is_compacted() {
        let server = ApiServer::new();
        let api = services(&client(&server));
        server.load(["a", "b", "c", "d", "e"].map(service).to_vec());
        let first = api.list(&ListParams::default().limit(2)).await.expect("a page");
        assert_eq!(first.metadata.remaining_item_count, Some(3));
        server.delete("Service", "shop", "c");
        server.apply(service("bb"));

        let token = first.metadata.continue_.clone().expect("more to come");
        let next = ListParams::default().limit(2).continue_token(&token);
        let second = api.list(&next).await.expect("a page");
        assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
        let token = second.metadata.continue_.clone().expect("more to come");
        let third = api.list(&ListParams::default().limit(2).continue_token(&token)).await;
        let third = third.expect("a page");
        assert_eq!(third.metadata.continue_, None);
        let pages = [first.items, second.items, third.items].concat();
        assert_eq!(pages.iter().map(ResourceExt::name_any).collect::<String>(), "abcde");

        server.compact();
        let gone = status(api.list(&next).await);
        assert_eq!((gone.code, gone.reason.as_str()), (410, "Expired"));
    }

    #[tokio::test]
    async fn items_of_a_list_name_their_kind_only_if_it_is_custom() {
        let server = ApiServer::new();
        server.apply(service("web"));
        server.apply(json!({ "kind": "ServiceImport", "metadata": { "name": "web" } }));
        let list = text(get(&server, "/api/v1/services").await).await;
        let list: Value = serde_json::from_str(&list).expect("JSON");
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ServiceList"), &json!("v1")));
        let item = &list["items"][0];
        assert_eq!((&item["kind"], &item["apiVersion"]), (&Value::Null, &Value::Null));
        assert_eq!(item["metadata"]["namespace"], "shop");
        assert!(item["metadata"]["uid"].is_string() && item["spec"].is_object());

        let path = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/default/serviceimports";
        let list: Value =
            serde_json::from_str(&text(get(&server, path).await).await).expect("JSON");
        assert_eq!(list["items"][0]["kind"], "ServiceImport");
    }

    #[tokio::test]
    async fn a_server_without_streaming_lists_or_a_kind_says_so_as_a_real_one() {
        let server = ApiServer::new().streaming_lists(false).without("ServiceImport");
        let path = "/api/v1/services?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&\
                    resourceVersionMatch=NotOlderThan";
        let response = get(&server, path).await;
        assert_eq!(response.status(), 422);
        let status: Value = serde_json::from_str(&text(response).await).expect("JSON");
        let message = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
                       sendInitialEvents is forbidden for watch unless the WatchList feature gate \
                       is enabled";
        assert_eq!((&status["reason"], &status["message"]), (&"Invalid".into(), &message.into()));

        let path = "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports";
        let response = get(&server, path).await;
        assert_eq!(response.status(), 404);
        assert_eq!(text(response).await, "404 page not found\n");
        server.set_installed("ServiceImport", true);
        assert_eq!(get(&server, path).await.status(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_tells_history_then_news_then_bookmarks_and_ends_when_its_time_is_up() {
        let server = ApiServer::new();
        let before = server.apply(service("a"));
        server.apply(service("b"));
        server.delete("Service", "shop", "a");
        let path = format!(
            "/api/v1/services?watch=true&resourceVersion={before}&timeoutSeconds=30&\
             allowWatchBookmarks=true"
        );
        let started = tokio::time::Instant::now();
        let mut body = get(&server, &path).await.into_body();
        assert!(line(&mut body).await.starts_with(r#"{"type":"ADDED","object":{"#));
        let deleted = line(&mut body).await;
        assert!(deleted.starts_with(r#"{"type":"DELETED""#) && deleted.contains(r#""name":"a""#));
        assert!(deleted.contains(&format!(r#""resourceVersion":"{}""#, before + 2)), "{deleted}");
        server.apply(service("b"));
        assert!(line(&mut body).await.starts_with(r#"{"type":"MODIFIED""#));
        server.bookmark();
        let bookmark: Value = serde_json::from_str(&line(&mut body).await).expect("JSON");
        let version = server.version().to_string();
        assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], version);
        assert!(soon("the end", body.frame()).await.is_none(), "a clean end");
        assert_eq!(started.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn a_watch_from_before_history_is_told_that_it_is_gone_in_either_way() {
        let server = ApiServer::new();
        server.apply(service("a"));
        server.apply(service("b"));
        server.compact();
        let path = "/api/v1/services?watch=true&resourceVersion=2";
        let response = get(&server, path).await;
        assert_eq!(response.status(), 200);
        let event: Value = serde_json::from_str(&text(response).await).expect("JSON");
        assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
        let response = get(&server.clone().gone_as_status(true), path).await;
        assert_eq!(response.status(), 410);
        let now = format!("/api/v1/services?watch=true&resourceVersion={}", server.version());
        let mut body = get(&server, &now).await.into_body();
        server.apply(service("c"));
        assert!(line(&mut body).await.contains(r#""name":"c""#), "the present is not gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_resumes_after_a_cut_and_starts_over_after_compaction() {
        for strategy in STRATEGIES {
            let server = ApiServer::new();
            let client = client(&server);
            server.apply(service("a"));
            let mut mirror = Mirror::new(&client, strategy());
            mirror.reach(&server).await;
            mirror.reach_watching(&server).await;
            server.cut_watches();
            server.apply(service("b"));
            mirror.reach(&server).await;
            assert_eq!((mirror.inits, mirror.errors.len()), (1, 1), "{:?}", mirror.errors);

            mirror.reach_watching(&server).await;
            server.cut_watches();
            server.delete("Service", "shop", "a");
            server.compact();
            mirror.reach(&server).await;
            assert_eq!((mirror.inits, mirror.errors.len()), (2, 3), "{:?}", mirror.errors);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bookmark_saves_a_watcher_from_starting_over() {
        for (is_sent, inits) in [(true, 1), (false, 2)] {
            let server = ApiServer::new();
            server.apply(service("a"));
            let mut mirror = Mirror::new(&client(&server), watcher::Config::default());
            mirror.reach(&server).await;
            mirror.reach_watching(&server).await;
            server.apply(json!({ "kind": "Node", "metadata": { "name": "n" } }));
            if is_sent {
                server.bookmark();
            }
            server.compact();
            server.close_watches();
            server.apply(service("b"));
            mirror.reach(&server).await;
            assert_eq!(mirror.inits, inits);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_never_gets_over_http_410_on_its_watch() {
        let server = ApiServer::new().gone_as_status(true);
        server.apply(service("a"));
        let mut mirror = Mirror::new(&client(&server), watcher::Config::default());
        mirror.reach(&server).await;
        mirror.reach_watching(&server).await;
        server.close_watches();
        server.apply(service("b"));
        server.compact();
        tokio::time::timeout(PATIENCE / 2, mirror.reach(&server)).await.expect_err("stuck");
        assert!(mirror.inits == 1 && mirror.errors.len() > 10, "{:?}", mirror.errors);
    }

    #[tokio::test]
    async fn a_cut_watch_leaves_half_an_event_on_the_socket() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let server = ApiServer::new();
        let (serving, _) = serve(&server).await;
        let mut stream = tokio::net::TcpStream::connect(serving.address()).await.expect("accepted");
        let request = b"GET /api/v1/services?watch=1 HTTP/1.1\r\nhost: a\r\n\r\n";
        stream.write_all(request).await.expect("written");
        soon("a watch", server.until(|server| server.open_watches("Service") == 1)).await;
        server.cut_watches();
        let mut answer = Vec::new();
        // How it breaks off, by an end or by a reset, is up to the system.
        let _end = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.ends_with("{\"type\":\"MODIFIED\",\"object\":{\"kind\":\r\n"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_watch_stays_silent_until_its_client_gives_up() {
        for strategy in STRATEGIES {
            let server = ApiServer::new();
            server.apply(service("a"));
            let mut mirror = Mirror::new(&client(&server), strategy());
            mirror.reach(&server).await;
            mirror.reach_watching(&server).await;
            let held = tokio::time::Instant::now();
            server.hold_watches(true);
            server.apply(service("b"));
            server.hold_watches(false);
            server.apply(service("c"));
            mirror.reach(&server).await;
            assert_eq!(held.elapsed().as_secs(), 295, "what kube waits beyond its 290 seconds");
            assert_eq!((mirror.inits, mirror.errors.len()), (1, 0));
        }
    }

    #[tokio::test]
    async fn a_watch_that_is_not_read_is_cut_when_its_queue_is_full() {
        let server = ApiServer::new();
        let mut unread = get(&server, "/api/v1/services?watch=true").await.into_body();
        let mut other = get(&server, "/api/v1/nodes?watch=true").await.into_body();
        for _ in 0..65_537 {
            server.apply(service("a"));
        }
        server.apply(json!({ "kind": "Node", "metadata": { "name": "n" } }));
        assert_eq!(server.open_watches("Service"), 0);
        for _ in 0..65_536 {
            assert!(line(&mut unread).await.ends_with("}\n"));
        }
        assert!(!line(&mut unread).await.ends_with('\n'), "half an event");
        unread.frame().await.expect("no end").expect_err("a broken connection");
        assert!(line(&mut other).await.contains(r#""name":"n""#));
    }

    #[tokio::test]
    async fn selectors_choose_and_what_leaves_the_choice_is_deleted() {
        let server = ApiServer::new();
        server.load(["a", "b", "c"].map(service).to_vec());
        let api = services(&client(&server));
        for (labels, fields, expected) in [
            ("app=a", "", "a"),
            ("app!=a", "", "bc"),
            ("app", "metadata.name=b", "b"),
            ("!app", "", ""),
            ("", "metadata.namespace!=shop", ""),
        ] {
            let params = ListParams::default().labels(labels).fields(fields);
            let names = api.list(&params).await.expect("a list");
            let names: String = names.iter().map(ResourceExt::name_any).collect();
            assert_eq!(names, expected, "{labels} {fields}");
        }
        let refused = status(api.list(&ListParams::default().fields("spec.type=X")).await);
        assert_eq!((refused.code, refused.reason.as_str()), (400, "BadRequest"));

        let path = "/api/v1/services?watch=true&labelSelector=app%3Da";
        let mut body = get(&server, path).await.into_body();
        assert!(line(&mut body).await.contains("ADDED"));
        let mut left = service("a");
        left["metadata"]["labels"]["app"] = "z".into();
        server.apply(left);
        assert!(line(&mut body).await.contains("DELETED"));
        server.apply(service("a"));
        assert!(line(&mut body).await.contains("ADDED"));
    }

    #[tokio::test]
    async fn writes_conflict_as_they_do_on_a_real_server() {
        let server = ApiServer::new();
        let api = services(&client(&server));
        let named = |name: &str| ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let web = Service { metadata: named("web"), ..Service::default() };
        let created = api.create(&PostParams::default(), &web).await.expect("created");
        assert_eq!(created.namespace().as_deref(), Some("shop"));
        let again = status(api.create(&PostParams::default(), &web).await);
        assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));

        let mut changed = created.clone();
        changed.labels_mut().insert("a".into(), "b".into());
        let replaced = api.replace("web", &PostParams::default(), &changed).await;
        let replaced = replaced.expect("replaced");
        assert_eq!(replaced.uid(), created.uid());
        let stale = status(api.replace("web", &PostParams::default(), &created).await);
        assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));

        let version = server.version();
        let patch = json!({ "metadata": { "labels": { "a": "b" } } });
        let params = PatchParams::default();
        api.patch("web", &params, &Patch::Merge(&patch)).await.expect("patched");
        assert_eq!(server.version(), version, "nothing changed");
        let patch = json!({ "metadata": { "labels": { "a": null } } });
        let patched = api.patch("web", &params, &Patch::Merge(&patch)).await.expect("patched");
        assert!(patched.labels().is_empty());
        let patch = json!({ "metadata": { "resourceVersion": "1" } });
        assert_eq!(status(api.patch("web", &params, &Patch::Merge(&patch)).await).code, 409);

        let meta = ObjectMeta { generate_name: Some("web-".into()), ..ObjectMeta::default() };
        let generated = Service { metadata: meta, ..Service::default() };
        let generated = api.create(&PostParams::default(), &generated).await.expect("created");
        assert!(generated.name_any().starts_with("web-") && generated.name_any().len() > 4);
        api.delete("web", &DeleteParams::default()).await.expect("deleted");
        let gone = status(api.get("web").await);
        assert_eq!((gone.code, gone.message.as_str()), (404, r#"services "web" not found"#));
    }

    #[tokio::test]
    async fn a_server_side_apply_takes_no_field_from_another_unless_forced() {
        let server = ApiServer::new();
        let api = services(&client(&server));
        let web = |ip: &str| {
            let spec = json!({ "clusterIP": ip });
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": spec })
        };
        let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
        api.patch("web", &one, &Patch::Apply(web("10.0.0.1"))).await.expect("created");
        api.patch("web", &two, &Patch::Apply(web("10.0.0.1"))).await.expect("the same");
        let lost = status(api.patch("web", &two, &Patch::Apply(web("10.0.0.2"))).await);
        let message =
            r#"Apply failed with 1 conflict: conflict with "one" using v1: .spec.clusterIP"#;
        assert_eq!((lost.code, lost.message.as_str()), (409, message));
        api.patch("web", &one, &Patch::Apply(web("10.0.0.3"))).await.expect("its own");
        let forced = two.force();
        api.patch("web", &forced, &Patch::Apply(web("10.0.0.2"))).await.expect("forced");
        assert_eq!(status(api.patch("web", &one, &Patch::Apply(web("10.0.0.4"))).await).code, 409);
    }

    #[tokio::test]
    async fn events_are_created_once_and_then_counted() {
        let server = ApiServer::new();
        let client = client(&server);
        let reporter = Reporter { controller: "portolan".into(), instance: Some("here".into()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let reference = ObjectReference {
            name: Some("web".into()),
            namespace: Some("shop".into()),
            ..ObjectReference::default()
        };
        let event = kube::runtime::events::Event {
            type_: EventType::Warning,
            reason: "Refused".into(),
            note: None,
            action: "Publish".into(),
            secondary: None,
        };
        for _ in 0..3 {
            recorder.publish(&event, &reference).await.expect("published");
        }
        let verbs: Vec<&str> = server.calls().iter().map(|call| call.verb).collect();
        assert_eq!(verbs, ["create", "patch", "patch"]);
        let events = Api::<Event>::namespaced(client, "shop");
        let events = events.list(&ListParams::default()).await.expect("a list");
        assert_eq!(events.items[0].series.as_ref().expect("a series").count, 3);
    }

    #[tokio::test]
    async fn calls_are_numbered_and_the_chosen_one_fails() {
        let server = ApiServer::new();
        let api = services(&client(&server));
        server.fail(1, Fault::forbidden());
        server.fail_next(Fault::too_many_requests());
        server.fail_when(|call| (call.verb == "get").then(Fault::unavailable));
        let list = ListParams::default();
        let busy = status(api.list(&list).await);
        assert_eq!((busy.code, busy.reason.as_str()), (429, "TooManyRequests"));
        assert_eq!(busy.details.expect("details").retry_after_seconds, 1);
        let forbidden = status(api.list(&list).await);
        let message = "services is forbidden: User \"system:serviceaccount:portolan:portolan\" \
                       cannot list resource \"services\" in API group \"\" in the namespace \
                       \"shop\"";
        assert_eq!((forbidden.code, forbidden.message.as_str()), (403, message));
        assert_eq!(status(api.get("web").await).code, 503);
        server.clear_faults();
        api.list(&list.limit(5)).await.expect("a list");
        assert_eq!(server.call_count(), 4);
        let last = server.calls().pop().expect("four calls");
        assert_eq!((last.number, last.verb, last.kind), (3, "list", "Service"));
        assert_eq!((last.param("limit"), last.param("continue")), ("5", ""));
    }

    #[tokio::test(start_paused = true)]
    async fn each_fault_shows_on_a_list_as_what_it_is() {
        for fault in Fault::one_of_each() {
            let server = ApiServer::new();
            server.apply(service("a"));
            let api = services(&client(&server));
            server.fail_next(fault.clone());
            let params = ListParams::default();
            let answer = tokio::time::timeout(Duration::from_secs(60), api.list(&params)).await;
            let fits = match (&fault, &answer) {
                (Fault::Status { code, .. }, Ok(Err(kube::Error::Api(status))))
                | (Fault::ErrorEvent(code), Ok(Err(kube::Error::Api(status)))) => {
                    status.code == *code
                }
                (Fault::GoneEvent, Ok(Err(kube::Error::Api(status)))) => status.code == 410,
                (Fault::Reset | Fault::Cut { .. }, Ok(Err(kube::Error::Service(_)))) => true,
                (Fault::Garbage, Ok(Err(kube::Error::FromUtf8(_)))) => true,
                (Fault::End, Ok(Err(kube::Error::SerdeError(_)))) => true,
                (Fault::Slow { .. }, Ok(Ok(list))) => list.items.len() == 1,
                (Fault::Stall | Fault::Silence, Err(_)) => true,
                _ => false,
            };
            assert!(fits, "{fault:?}: {answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_gets_over_each_fault_of_each_call_except_waiting_for_an_answer() {
        for strategy in STRATEGIES {
            for fault in Fault::one_of_each() {
                for n in 0..4 {
                    let server = ApiServer::new();
                    server.load(["a", "b", "c"].map(service).to_vec());
                    server.fail(n, fault.clone());
                    let is_list = strategy().initial_list_strategy
                        == watcher::InitialListStrategy::ListWatch
                        && n < 2;
                    let mut mirror = Mirror::new(&client(&server), strategy().page_size(2));
                    let what = format!("{fault:?} at call {n}");
                    let over = async {
                        mirror.reach(&server).await;
                        for name in ["d", "e", "f", "g"] {
                            mirror.reach_watching(&server).await;
                            server.apply(service(name));
                            mirror.reach(&server).await;
                            server.close_watches();
                        }
                    };
                    let over = tokio::time::timeout(PATIENCE / 2, over).await.is_ok();
                    // It has no timeout of its own on anything but the silence of an open watch.
                    let lasts = match fault {
                        Fault::Silence => true,
                        Fault::Stall => is_list,
                        _ => false,
                    };
                    assert_eq!(over, !lasts, "{what}");
                }
            }
        }
    }

    #[tokio::test]
    async fn twenty_thousand_objects_are_loaded_and_listed_in_no_time() {
        let server = ApiServer::new();
        let started = Instant::now();
        server.load((0..20_000).map(|n| service(&format!("s{n}"))).collect());
        let mut mirror = Mirror::new(&client(&server), watcher::Config::default());
        mirror.reach(&server).await;
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert_eq!(server.call_count(), 40, "pages of 500");
    }
}
