//! `portolan check PATH`: what a control plane would say to these manifests, without running one.

use std::process::ExitCode;

use portolan_control::object::Kind;
use portolan_control::report::{ControlMetrics, Reports};
use portolan_control::{Folder, Severity};

use crate::cli::CheckArgs;
use crate::exit::cannot_start;

/// Loads the manifests once and prints what is refused. Exit code 1 if anything is.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    let ranges = config.control.service_ranges;
    let mut folder =
        Folder::open(&args.path, ranges, Reports::default(), ControlMetrics::default())
            .map_err(cannot_start)?;
    let (snapshot, _, report) = folder.reload();
    for rejection in &report.rejections {
        println!("{}: {rejection}", rejection.severity.as_str());
    }
    let count = |severity| report.rejections.iter().filter(|r| r.severity == severity).count();
    let (rejected, warnings) = (count(Severity::Rejected), count(Severity::Warning));
    println!(
        "{} services, {} endpoint slices, {} endpoints; {} objects of other kinds passed over; \
         {rejected} rejected, {warnings} warnings",
        report.objects.of(Kind::Service),
        report.objects.of(Kind::EndpointSlice),
        snapshot.endpoint_count(),
        report.unused.values().sum::<usize>(),
    );
    let failed = rejected > 0 || (args.strict && warnings > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
