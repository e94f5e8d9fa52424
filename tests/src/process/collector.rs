//! A trace collector on loopback: takes spans over OTLP and remembers who sent them. Forgets everything with the test.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tonic::{Request, Response, Status};

/// One span, as far as a test asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The `service.name` of the process that sent it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its trace, 32 hex digits.
    pub trace: String,
}

/// A collector; it ends with its value.
pub struct Collector {
    address: String,
    spans: Arc<Mutex<Vec<Span>>>,
    _runtime: tokio::runtime::Runtime,
}

struct Service(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = attributes
                .into_iter()
                .find(|attribute| attribute.key == "service.name");
            let service = match service.and_then(|one| one.value).and_then(|one| one.value) {
                Some(Value::StringValue(name)) => name,
                _ => String::new(),
            };
            for span in resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                let trace = span
                    .trace_id
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                spans.push(Span {
                    service: service.clone(),
                    name: span.name,
                    trace,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a free port of loopback.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let incoming = runtime.block_on(async {
            let any = ([127, 0, 0, 1], 0).into();
            tonic::transport::server::TcpIncoming::bind(any).expect("a free port")
        });
        let address = incoming.local_addr().expect("it is bound").to_string();
        let service = TraceServiceServer::new(Service(spans.clone()));
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        Self {
            address,
            spans,
            _runtime: runtime,
        }
    }

    /// What `MLCTL_OTLP_ENDPOINT` must be.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans of `trace` that have arrived.
    #[must_use]
    pub fn trace(&self, trace: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans
            .iter()
            .filter(|span| span.trace == trace)
            .cloned()
            .collect()
    }
}
