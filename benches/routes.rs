//! What finding a request's route costs as a virtual host has more of them.
//!
//! `cargo bench --bench routes`

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portolan_model::traffic::{
    Asked, Conditions, HeaderMatch, HeaderTest, PathMatch, Route, RouteTable, TextMatch, TextTest,
    VirtualHost,
};

const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];

struct Request(String);

impl Asked for Request {
    fn path(&self) -> &[u8] {
        self.0.as_bytes()
    }
    fn query(&self) -> Option<&[u8]> {
        None
    }
    fn field(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        (name == "x-canary").then_some(Cow::Borrowed(b"off"))
    }
    fn is_grpc(&self) -> bool {
        false
    }
    fn random(&self) -> u64 {
        0
    }
}

/// Routes by a prefix each, and of every second one a canary with a condition before it.
fn table(routes: usize) -> RouteTable {
    let canary = HeaderMatch {
        name: "x-canary".into(),
        test: HeaderTest::Text(TextMatch {
            test: TextTest::Exact("on".into()),
            ignore_case: false,
        }),
        invert: false,
        missing_is_empty: false,
    };
    let conditions = Conditions { headers: vec![canary], ..Conditions::default() };
    let route = |n: usize| {
        let path = PathMatch::Under(path(n / 2).into());
        let conditions = (n.is_multiple_of(2) && routes > 1).then(|| Box::new(conditions.clone()));
        Route { conditions, ..Route::to(path, "c".into()) }
    };
    let host = VirtualHost {
        name: "h".into(),
        domains: vec!["*".into()],
        routes: (0..routes).map(route).collect(),
    };
    RouteTable::new("t".into(), vec![Arc::new(host)]).expect("valid")
}

fn path(n: usize) -> String {
    format!("/api/v{}/service-{n}", n % 3)
}

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a request's route among so many");
    for size in SIZES {
        let table = table(size);
        // The last of them.
        let request = Request(format!("{}/items/17", path((size - 1) / 2)));
        assert!(table.route("web.shop", &request).is_some());
        group.bench_with_input(BenchmarkId::from_parameter(size), &table, |bencher, table| {
            bencher.iter(|| black_box(table.route(black_box("web.shop"), black_box(&request))));
        });
    }
    group.finish();
}

criterion_group!(benches, routes);
criterion_main!(benches);
