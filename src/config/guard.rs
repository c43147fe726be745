//! The settings of the guard against mass removal.

use std::time::Duration;

use portolan_control::GuardLimits;

use super::reader::Reader;

/// Reads `control.guard_*`.
pub(super) fn read(r: &mut Reader) -> GuardLimits {
    let services_percent = r.integer(
        "control.guard_services_percent",
        50,
        0..=100,
        "Share of its services in percent that may be gone from the source, or be left without \
         endpoints, at once; more is held back; 0: any",
    );
    let services_min = r.integer(
        "control.guard_services_min",
        20,
        0..=1_000_000,
        "Services there have to be for that; 0: nothing is held back for it",
    );
    let endpoints_min = r.integer(
        "control.guard_endpoints_min",
        20,
        0..=1_000_000,
        "A service with this many ready endpoints is held back when all go at once; 0: none is",
    );
    let window_secs = r.integer(
        "control.guard_window_secs",
        60,
        0..=3600,
        "Time in seconds within which what goes counts as going at once",
    );
    let hold_secs = r.integer(
        "control.guard_hold_secs",
        600,
        0..=31_536_000,
        "Longest time in seconds that something is held back; 0: until it is back or released",
    );
    GuardLimits {
        services_percent,
        services_min,
        endpoints_min,
        window: Duration::from_secs(window_secs),
        hold: Some(Duration::from_secs(hold_secs)).filter(|time| !time.is_zero()),
    }
}
