//! A collector that is not there, or never answers, neither blocks nor fails the program.
//! One test: it initializes its whole process.
use mlctl_runtime::telemetry::{Guard, TelemetryConfig, init, trace_context};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn start(endpoint: &str) -> Guard {
    let begin = Instant::now();
    let guard = init(&TelemetryConfig {
        otlp_endpoint: Some(endpoint.to_owned()),
        ..TelemetryConfig::new("agent", "n1")
    });
    assert!(
        begin.elapsed() < Duration::from_millis(500),
        "{:?}",
        begin.elapsed()
    );
    guard
}

fn work(guard: Guard) {
    let begin = Instant::now();
    for n in 0..10_000 {
        let parent = tracing::info_span!(target: "mlctl_test", "work", n)
            .in_scope(trace_context::current_traceparent);
        assert!(parent.is_some());
    }
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    let begin = Instant::now();
    drop(guard);
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_collector_out_of_reach_harms_nothing() {
    // Accepts in the kernel and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = mute.local_addr().expect("address");
    work(start(&format!("http://{address}")));
    mute.set_nonblocking(true).expect("set");
    assert!(mute.accept().is_ok(), "the exporter did dial");
    // The rest does not replace the first; only beginning and end are seen.
    drop(start("not a url"));
    let free = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.local_addr().expect("address")
    };
    drop(start(&format!("http://{free}")));
    // Inside a runtime, where daemons are, and dropped there.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async { drop(start(&format!("http://{free}"))) });
}
