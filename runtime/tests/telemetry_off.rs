//! Without a collector: logging works, spans have trace ids, and it costs neither threads nor noticeable time.
//! One test: it initializes its whole process.
use mlctl_runtime::telemetry::{TelemetryConfig, init, trace_context};
use std::time::{Duration, Instant};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[test]
fn off_costs_nothing_and_still_traces() {
    let (before, start) = (threads(), Instant::now());
    let guard = init(&TelemetryConfig::new("cli", ""));
    let took = start.elapsed();
    // Far above what it takes, far below what a connection or a runtime would.
    assert!(took < Duration::from_millis(20), "{took:?}");
    println!("init took {took:?}");
    assert_eq!(threads(), before);
    let parent = tracing::info_span!(target: "mlctl_test", "submit")
        .in_scope(trace_context::current_traceparent);
    assert!(trace_context::is_valid(&parent.expect("in a trace")));
    // A second one changes nothing and harms nothing.
    drop(init(&TelemetryConfig {
        json: true,
        ..TelemetryConfig::new("cli", "")
    }));
    let parent = tracing::info_span!(target: "mlctl_test", "again")
        .in_scope(trace_context::current_traceparent);
    assert!(parent.is_some());
    let start = Instant::now();
    drop(guard);
    assert!(start.elapsed() < Duration::from_millis(100));
}
