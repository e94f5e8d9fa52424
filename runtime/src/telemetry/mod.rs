//! Logs for people on stderr, spans for machines over OTLP when a collector is named.
//!
//! Spans get trace ids whether or not they are exported, so that one trace runs through the cluster even where only
//! some processes export. There are no metrics here.
pub mod trace_context;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// What is logged unless somebody says otherwise: ours at info, chatty libraries only when they complain.
pub const DEFAULT_FILTER: &str = "info,sled=warn,raft=warn,raft_engine=error,h2=warn,tonic=warn";
/// What the end of a process may wait for its last spans.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);
/// One export. Shorter than the flush, so that an export under way does not eat the last one's time.
const EXPORT_DEADLINE: Duration = Duration::from_millis(1500);

/// How a process reports on itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// What it is: `coordinator`, `agent`, `cli`, ...
    pub service: String,
    /// Which one: the name of the node or coordinator; may be empty.
    pub node: String,
    /// An OTLP gRPC collector, `http://host:4317`; `MLCTL_OTLP_ENDPOINT` when this is `None`. Neither: no export.
    pub otlp_endpoint: Option<String>,
    /// Logs as JSON objects, one a line.
    pub json: bool,
    /// What is logged, as `tracing` directives; `MLCTL_LOG` overrides it.
    pub filter: String,
}

impl TelemetryConfig {
    /// Text logs, the default filter, no export unless the environment names a collector.
    pub fn new(service: &str, node: &str) -> Self {
        Self {
            service: service.to_owned(),
            node: node.to_owned(),
            otlp_endpoint: None,
            json: false,
            filter: DEFAULT_FILTER.to_owned(),
        }
    }
}

/// Keeps telemetry running. Dropping it sends what is left, for two seconds at most.
#[must_use = "dropping it stops telemetry"]
pub struct Guard {
    provider: SdkTracerProvider,
    /// What the exporter runs on; `None` when nothing is exported.
    runtime: Option<Runtime>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // A failed export was logged where it failed; at the end there is nothing left to do about it.
        let _ = self.provider.shutdown_with_timeout(FLUSH_DEADLINE);
        runtime.shutdown_background();
    }
}

/// Starts logging and tracing for the whole process. The first call counts; a later one changes nothing. Telemetry
/// never keeps a process from working: what is wrong with its settings is logged, and the rest goes on.
pub fn init(config: &TelemetryConfig) -> Guard {
    let env = |name| {
        std::env::var(name)
            .ok()
            .filter(|value: &String| !value.is_empty())
    };
    let (filter, bad_filter) = filter(env("MLCTL_LOG").as_deref(), &config.filter);
    let endpoint = config
        .otlp_endpoint
        .clone()
        .or_else(|| env("MLCTL_OTLP_ENDPOINT"));
    let (guard, bad_endpoint) = match endpoint.map(|endpoint| exporting(config, endpoint)) {
        None => (silent(), None),
        Some(Ok(guard)) => (guard, None),
        Some(Err(why)) => (silent(), Some(why)),
    };
    // An error only says that somebody initialized before.
    let _ = tracing_subscriber::registry()
        .with(spans(&guard.provider))
        .with(text(config.json).with_filter(filter))
        .try_init();
    for problem in [bad_filter, bad_endpoint].into_iter().flatten() {
        tracing::warn!("{problem}");
    }
    guard
}

/// What is logged: the environment's word, else the configuration's, else ours; and what was wrong with one.
fn filter(env: Option<&str>, configured: &str) -> (EnvFilter, Option<String>) {
    let wanted = env.unwrap_or(configured);
    match EnvFilter::builder().parse(wanted) {
        Ok(filter) => (filter, None),
        Err(error) => {
            let problem =
                format!("log filter `{wanted}` is ignored: {error}; using `{DEFAULT_FILTER}`");
            (EnvFilter::new(DEFAULT_FILTER), Some(problem))
        }
    }
}

/// Gives every span of ours its place in a trace, whatever is logged.
fn spans<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("mlctl"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target("mlctl", LevelFilter::INFO))
}

/// Log lines on stderr. A closed stderr loses lines and harms nothing else.
fn text<S>(json: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(!json && std::io::stderr().is_terminal())
        .log_internal_errors(false);
    if json {
        layer.json().boxed()
    } else {
        layer.boxed()
    }
}

/// Trace ids and no export: no thread, no socket.
fn silent() -> Guard {
    Guard {
        provider: SdkTracerProvider::builder().build(),
        runtime: None,
    }
}

fn exporting(config: &TelemetryConfig, endpoint: String) -> Result<Guard, String> {
    let failed = |why: String| format!("traces are not exported: {why}");
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("telemetry")
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let exporter = {
        // The exporter's connection lives on this runtime and not on the caller's, which may end before the last span.
        let _inside = runtime.enter();
        OtlpExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.clone())
            .with_timeout(EXPORT_DEADLINE)
            .build()
    };
    let exporter = match exporter {
        Ok(inner) => Reporting {
            inner,
            endpoint,
            failing: AtomicBool::new(false),
        },
        Err(error) => {
            runtime.shutdown_background();
            return Err(failed(format!("`{endpoint}`: {error}")));
        }
    };
    let resource = Resource::builder()
        .with_service_name(format!("mlctl-{}", config.service))
        .with_attribute(KeyValue::new("service.version", mlctl_proto::VERSION))
        .with_attribute(KeyValue::new("service.instance.id", config.node.clone()))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build();
    Ok(Guard {
        provider,
        runtime: Some(runtime),
    })
}

/// An exporter that says once when spans stop getting through, and once when they do again.
#[derive(Debug)]
struct Reporting<E> {
    inner: E,
    endpoint: String,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.inner.export(batch).await;
        let failing = result.is_err();
        if self.failing.swap(failing, Ordering::Relaxed) != failing {
            self.report(result.as_ref().err());
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E> Reporting<E> {
    fn report(&self, error: Option<&OTelSdkError>) {
        let endpoint = &self.endpoint;
        match error {
            Some(error) => {
                tracing::warn!(endpoint, %error, "traces do not reach the collector; spans are lost")
            }
            None => tracing::info!(endpoint, "traces reach the collector again"),
        }
    }
}

/// Trace ids for one test, which has no process of its own; logs everything, as `MLCTL_LOG=trace` does.
#[cfg(test)]
fn test_subscriber() -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::registry()
        .with(spans(&SdkTracerProvider::builder().build()))
        .with(text(false).with_filter(LevelFilter::TRACE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_overrides_and_nonsense_is_reported() {
        for (env, configured, want, bad) in [
            (None, "debug", "debug", false),
            (Some("mlctl=trace"), "debug", "mlctl=trace", false),
            (None, DEFAULT_FILTER, "info", false),
            (Some("=="), "debug", "info", true),
            (None, "mlctl=loud", "info", true),
        ] {
            let (filter, problem) = filter(env, configured);
            assert!(
                filter.to_string().contains(want),
                "{env:?} {configured}: {filter}"
            );
            assert_eq!(problem.is_some(), bad, "{env:?} {configured}: {problem:?}");
        }
    }
}
