//! Writes a manifest of a cluster of any size, the same bytes for the same arguments, in the form
//! `kubectl get services,endpointslices -A -o yaml` prints.
//!
//! `cargo run --release --example generate-cluster -- DIR [SERVICES] [ENDPOINTS]`

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

/// Largest number of endpoints in a slice (Kubernetes' default for `--max-endpoints-per-slice`).
const PER_SLICE: usize = 100;
const NAMESPACES: usize = 50;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |a| a.parse());
    let (Some(dir), Ok(services), Ok(endpoints)) =
        (args.first(), number(1, 1_000), number(2, 10_000))
    else {
        eprintln!("usage: generate-cluster DIR [SERVICES] [ENDPOINTS]");
        return ExitCode::from(2);
    };
    match write(Path::new(dir), services, endpoints) {
        Ok(()) => {
            println!("{services} services, {endpoints} endpoints in {dir}/cluster.yaml");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{dir}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path, services: usize, endpoints: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut out = BufWriter::new(std::fs::File::create(dir.join("cluster.yaml"))?);
    writeln!(out, "apiVersion: v1\nitems:")?;
    for service in 0..services {
        write_service(&mut out, service)?;
    }
    let mut address = 0;
    for service in 0..services {
        // The first services get one more, until all endpoints are given out.
        let count = endpoints / services + usize::from(service < endpoints % services);
        let mut left = count;
        let mut slice = 0;
        while left > 0 {
            let size = left.min(PER_SLICE);
            write_slice(&mut out, service, slice, address, size)?;
            (left, slice, address) = (left - size, slice + 1, address + size);
        }
    }
    writeln!(out, "kind: List\nmetadata:\n  resourceVersion: \"\"")?;
    out.flush()
}

fn name(service: usize) -> (String, String) {
    (format!("ns-{:02}", service % NAMESPACES), format!("svc-{service:05}"))
}

fn write_service(out: &mut impl Write, service: usize) -> std::io::Result<()> {
    let (namespace, name) = name(service);
    let version = 100_000 + service;
    // One in ten is headless, one in ten speaks gRPC.
    let (headless, grpc) = (service % 10 == 9, service % 10 == 5);
    let cluster_ip = if headless {
        "None".to_owned()
    } else {
        format!("10.{}.{}.{}", 96 + service / 65_536, service / 256 % 256, service % 256)
    };
    let app_protocol = if grpc { "kubernetes.io/h2c" } else { "http" };
    write!(
        out,
        "\
- apiVersion: v1
  kind: Service
  metadata:
    creationTimestamp: \"2026-01-01T00:00:00Z\"
    labels:
      app: {name}
    name: {name}
    namespace: {namespace}
    resourceVersion: \"{version}\"
    uid: 00000000-0000-4000-8000-{service:012x}
  spec:
    clusterIP: {cluster_ip}
    clusterIPs:
    - {cluster_ip}
    internalTrafficPolicy: Cluster
    ipFamilies:
    - IPv4
    ipFamilyPolicy: SingleStack
    ports:
    - appProtocol: {app_protocol}
      name: main
      port: 80
      protocol: TCP
      targetPort: main
    - name: metrics
      port: 9090
      protocol: TCP
      targetPort: 9090
    selector:
      app: {name}
    sessionAffinity: None
    type: ClusterIP
  status:
    loadBalancer: {{}}
"
    )
}

fn write_slice(
    out: &mut impl Write,
    service: usize,
    slice: usize,
    first: usize,
    size: usize,
) -> std::io::Result<()> {
    let (namespace, name) = name(service);
    writeln!(out, "- addressType: IPv4\n  apiVersion: discovery.k8s.io/v1\n  endpoints:")?;
    for n in first..first + size {
        let (node, zone) = (n % 5_000, n % 3);
        let octets = (64 + n / 65_536, n / 256 % 256, n % 256);
        write!(
            out,
            "\
\x20 - addresses:
    - 100.{}.{}.{}
    conditions:
      ready: true
      serving: true
      terminating: false
    nodeName: node-{node:04}
    targetRef:
      kind: Pod
      name: {name}-{n:06}
      namespace: {namespace}
      uid: 00000000-0000-4000-9000-{n:012x}
    zone: zone-{zone}
",
            octets.0, octets.1, octets.2
        )?;
    }
    write!(
        out,
        "\
\x20 kind: EndpointSlice
  metadata:
    creationTimestamp: \"2026-01-01T00:00:00Z\"
    generateName: {name}-
    labels:
      app: {name}
      endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
      kubernetes.io/service-name: {name}
    name: {name}-{slice:05}
    namespace: {namespace}
    resourceVersion: \"{}\"
    uid: 00000000-0000-4000-a000-{:012x}
  ports:
  - name: main
    port: 8080
    protocol: TCP
  - name: metrics
    port: 9090
    protocol: TCP
",
        200_000 + first,
        service * 1_000 + slice
    )
}
